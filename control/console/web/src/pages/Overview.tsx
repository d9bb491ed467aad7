// Namespaces and their workloads, live.
import { useMemo } from 'react'
import { ALL, type StatRow, workloads } from '../api'
import { type Level, level, ms, num, percent, rate, successRate } from '../format'
import { type Point, history, rowKey, useLive, useRemembered } from '../live'
import { A, Command, type Column, Dot, Empty, Failure, Loading, Search, Spark, Success, Table, Tile } from '../parts'
import { go, link, setParams, useLocation } from '../router'
import { useHistory } from '../series'
import { useCommand, useScope } from '../scope'

export const pageOf = (r: { namespace: string; kind: string; name: string }) => link(`/ns/${encodeURIComponent(r.namespace)}/${r.kind}/${encodeURIComponent(r.name)}`)

const columns: Column<StatRow>[] = [
  {
    id: 'name',
    title: 'Workload',
    width: 22,
    cell: (r) => (
      <span className="who">
        <Dot at={level(r.hasTraffic ? successRate(r) : undefined)} />
        <A to={pageOf(r)}>{r.name}</A>
        <small>{r.kind}</small>
      </span>
    ),
    sort: (r) => r.name,
  },
  { id: 'meshed', title: 'Meshed', width: 8, right: true, cell: (r) => <span className={r.meshedPods < r.runningPods ? 'weak' : ''}>{`${r.meshedPods}/${r.runningPods}`}</span>, sort: (r) => r.meshedPods },
  { id: 'success', title: 'Success', width: 12, right: true, cell: (r) => <Success value={r.hasTraffic ? successRate(r) : undefined} />, sort: (r) => (r.hasTraffic ? (successRate(r) ?? NaN) : NaN) },
  { id: 'rps', title: 'RPS', width: 7.5, right: true, cell: (r) => (r.hasTraffic ? rate(r.rps) : '–'), sort: (r) => r.rps },
  {
    id: 'spark',
    title: 'Requests',
    width: 10.5,
    cell: (r) => <Spark values={history(rowKey(r)).map((p) => p.rps)} label={`requests of ${r.name}`} />,
  },
  { id: 'p50', title: 'P50', width: 7.5, right: true, extra: true, cell: (r) => (r.hasTraffic ? ms(r.latencyMsP50) : '–'), sort: (r) => r.latencyMsP50 },
  { id: 'p95', title: 'P95', width: 7.5, right: true, extra: true, cell: (r) => (r.hasTraffic ? ms(r.latencyMsP95) : '–'), sort: (r) => r.latencyMsP95 },
  { id: 'p99', title: 'P99', width: 7.5, right: true, cell: (r) => (r.hasTraffic ? ms(r.latencyMsP99) : '–'), sort: (r) => r.latencyMsP99 },
  {
    id: 'p99spark',
    title: 'Latency',
    width: 10.5,
    extra: true,
    cell: (r) => <Spark values={history(rowKey(r)).map((p) => p.p99)} label={`99th percentile of latency of ${r.name}`} at="none" />,
  },
  { id: 'tls', title: 'mTLS', width: 7, right: true, cell: (r) => percent(r.tls), sort: (r) => r.tls ?? NaN },
]

interface Sum {
  success: number | undefined
  rps: number
  p99: number
  meshed: number
  running: number
  tls: number | undefined
}

function sum(rows: StatRow[]): Sum {
  let ok = 0
  let bad = 0
  let rps = 0
  let worst = 0
  let secure = 0
  let secured = 0
  let meshed = 0
  let running = 0
  for (const r of rows) {
    meshed += r.meshedPods
    running += r.runningPods
    if (!r.hasTraffic) continue
    ok += num(r.successCount)
    bad += num(r.failureCount)
    rps += r.rps
    worst = Math.max(worst, r.latencyMsP99)
    if (r.tls !== undefined) {
      secure += r.tls * r.rps
      secured += r.rps
    }
  }
  return { success: ok + bad ? ok / (ok + bad) : undefined, rps, p99: worst, meshed, running, tls: secured ? secure / secured : undefined }
}

/** What all rows had together at the moments of the one seen longest. */
function together(rows: StatRow[]): Point[] {
  const lists = rows.map((r) => history(rowKey(r))).filter((l) => l.length)
  const longest = lists.reduce((a, b) => (b.length > a.length ? b : a), [] as Point[])
  return longest.map((at, i) => {
    const back = longest.length - 1 - i
    let rps = 0
    let ok = 0
    let p99 = 0
    for (const l of lists) {
      const p = l[l.length - 1 - back]
      if (!p) continue
      rps += p.rps
      if (!Number.isNaN(p.success)) ok += p.success * p.rps
      p99 = Math.max(p99, p.p99)
    }
    return { t: at.t, rps, success: rps ? ok / rps : NaN, p50: 0, p95: 0, p99 }
  })
}

export function Overview() {
  const { ns } = useScope()
  const command = useCommand()
  const here = useLocation()
  const filter = here.searchParams.get('q') ?? ''
  const live = useLive(`workloads/${ns}`, (s) => workloads(ns, s))
  useHistory(ns)
  useRemembered(live.data, live.at)
  const rows = useMemo(() => {
    const q = filter.toLowerCase()
    return (live.data ?? []).filter((r) => !q || `${r.namespace}/${r.name} ${r.kind}`.toLowerCase().includes(q))
  }, [live.data, filter])
  const groups = useMemo(() => {
    const m = new Map<string, StatRow[]>()
    for (const r of rows) m.set(r.namespace, [...(m.get(r.namespace) ?? []), r])
    return [...m].sort(([a, x], [b, y]) => Number(busy(y)) - Number(busy(x)) || a.localeCompare(b))
  }, [rows])
  // eslint-disable-next-line react-hooks/exhaustive-deps
  const all = useMemo(() => ({ now: sum(rows), past: together(rows) }), [rows, live.at])

  if (!live.data) return live.error ? <Failure error={live.error} what="Workloads" again={live.again} /> : <Loading what="workloads" />
  if (live.data.length === 0)
    return (
      <Empty title={ns === ALL ? 'This mesh has no workloads yet' : `Namespace ${ns} has no workloads`} command={command('inject app.yaml | kubectl apply -f -', '')}>
        Deployments, StatefulSets and DaemonSets appear here as soon as they are applied; give them a sidecar to see their traffic.
      </Empty>
    )
  const bad = rows.filter((r) => r.hasTraffic && level(successRate(r)) === 'bad').length
  return (
    <>
      <div className="tiles">
        <Tile title="Success rate" value={percent(all.now.success)} at={level(all.now.success)} sub={bad ? `${bad} workload${bad > 1 ? 's' : ''} below 95%` : 'of all requests, last minute'}>
          <Spark wide values={all.past.map((p) => p.success)} label="success rate since the page was opened" at={level(all.now.success)} floor={0} />
        </Tile>
        <Tile title="Requests per second" value={rate(all.now.rps)} sub="that arrive at workloads">
          <Spark wide values={all.past.map((p) => p.rps)} label="requests per second since the page was opened" />
        </Tile>
        <Tile title="Worst P99" value={all.now.rps ? ms(all.now.p99) : '–'} sub="of any workload">
          <Spark wide values={all.past.map((p) => p.p99)} label="worst 99th percentile since the page was opened" />
        </Tile>
        <Tile title="mTLS" value={percent(all.now.tls)} sub={`${all.now.meshed} of ${all.now.running} pods are meshed`} at={all.now.tls === undefined ? 'none' : all.now.tls > 0.999 ? 'good' : 'fair'} />
      </div>
      <div className="toolbar">
        <Search value={filter} onChange={(q) => setParams({ q })} label="Filter workloads" />
        <Command text={command('stat deploy')} />
      </div>
      {groups.length === 0 && <Empty title={`Nothing is named “${filter}”`}>Clear the filter to see all {live.data.length} workloads.</Empty>}
      {groups.map(([name, list]) => (
        <Namespace key={name} name={name} rows={list} />
      ))}
    </>
  )
}

const busy = (rows: StatRow[]) => rows.some((r) => r.hasTraffic)

function Namespace({ name, rows }: { name: string; rows: StatRow[] }) {
  const s = sum(rows)
  const at: Level = level(s.success)
  return (
    <section className="panel" aria-label={`Namespace ${name}`}>
      <div className="head">
        <h2>
          <Dot at={at} />
          {name}
        </h2>
        <span className="facts">
          <span>
            {rows.length} workload{rows.length === 1 ? '' : 's'}
          </span>
          <span>{percent(s.success)}</span>
          <span>{rate(s.rps)} rps</span>
          <A to={link('/graph', { ns: name })}>Topology</A>
        </span>
      </div>
      <Table caption={`Workloads of namespace ${name}`} rows={rows} columns={columns} rowKey={rowKey} initial={{ id: 'name', down: false }} onRow={(r) => go(pageOf(r))} />
    </section>
  )
}
