// One workload: figures over time, who it talks to, its pods, what changed.
import { useEffect, useMemo, useRef, useState } from 'react'
import { ALL, type Edge, type EdgeEnd, edgesOf, events, health, type ProxyHealth, queryRange, stat, type StatRow } from '../api'
import { Chart, HeatMap } from '../chart'
import { bytes, clock, duration, level, ms, num, percent, rate, short, successRate } from '../format'
import { history, rowKey, useLive, useRemembered } from '../live'
import { A, type Column, Command, Dot, Failure, Loading, Lock, Success, Table, Tile } from '../parts'
import { link } from '../router'
import { useCommand } from '../scope'
import { useHistory } from '../series'
import { pageOf } from './Overview'

const percentOf = (v: number) => `${Math.round(v * 100)}%`

/** Pods carry their owner's name; how, depends on the owner's kind. */
function owns(kind: string, name: string): RegExp {
  const n = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  if (kind === 'deployment') return new RegExp(`^${n}-[a-z0-9]{5,10}-[a-z0-9]{4,7}$`)
  return kind === 'statefulset' ? new RegExp(`^${n}-\\d+$`) : new RegExp(`^${n}-[a-z0-9]{4,7}$`)
}

export function Workload({ namespace, kind, name }: { namespace: string; kind: string; name: string }) {
  const command = useCommand()
  const key = `${kind}/${namespace}/${name}`
  const live = useLive(`stat/${key}`, (s) => stat({ kind, namespace, name }, {}, s))
  const pods = useLive(`pods/${namespace}`, (s) => stat({ kind: 'pod', namespace, name: ALL }, {}, s))
  const proxies = useLive('health', health, 5000)
  const edges = useLive(`edges/${key}`, (s) => edgesOf({ kind, namespace, name }, s))
  const past = useLive(`events/${key}`, (s) => events({ kind, namespace, name }, s), 10_000)
  useHistory(namespace, kind, name, 3600, 30)
  useRemembered(live.data, live.at)
  const row = live.data?.[0]
  const mine = useMemo(() => {
    const is = owns(kind, name)
    return (pods.data ?? []).filter((p) => is.test(p.name))
  }, [pods.data, kind, name])
  const byPod = useMemo(() => new Map((proxies.data?.proxies ?? []).filter((p) => p.namespace === namespace).map((p) => [p.pod, p])), [proxies.data, namespace])
  const seen = useChanges(mine, byPod, row)
  const changes = useMemo(() => {
    const kept = (past.data?.events ?? []).map((e) => ({ t: Date.parse(e.at), text: `${e.reason} ${e.object}: ${e.message}${e.count > 1 ? ` (${e.count} times)` : ''}`, bad: e.warning }))
    return [...seen, ...kept].sort((a, b) => b.t - a.t)
  }, [seen, past.data])

  if (!row) return live.error ? <Failure error={live.error} what={`${kind} ${name}`} again={live.again} /> : <Loading what={name} />
  const ok = row.hasTraffic ? successRate(row) : undefined
  const self = `${short(kind)}/${name}`
  return (
    <>
      <p className="trail">
        <A to={link('/', { ns: namespace })}>{namespace}</A> / {name}
      </p>
      <div className="tiles">
        <Tile title="Success rate" value={percent(ok)} at={level(ok)} sub={row.hasTraffic ? `${num(row.failureCount)} of ${num(row.successCount) + num(row.failureCount)} failed` : 'no requests in the last minute'} />
        <Tile title="Requests per second" value={row.hasTraffic ? rate(row.rps) : '–'} sub={`${row.meshedPods} of ${row.runningPods} pods meshed`} />
        <Tile title="Latency P99" value={row.hasTraffic ? ms(row.latencyMsP99) : '–'} sub={row.hasTraffic ? `P50 ${ms(row.latencyMsP50)}, P95 ${ms(row.latencyMsP95)}` : undefined} />
        <Tile title="TCP" value={row.tcpOpenConnections} sub={`open; in ${bytes(row.tcpReadBytesRate)}/s, out ${bytes(row.tcpWriteBytesRate)}/s`} />
        <Tile title="mTLS" value={percent(row.tls)} at={row.tls === undefined ? 'none' : row.tls > 0.999 ? 'good' : 'fair'} sub="of what arrives" />
      </div>
      <div className="toolbar">
        <Command text={command(`stat ${self}`, namespace)} />
        <span className="links">
          <A to={link('/tap', { kind, target: name, ns: namespace, run: '1' })} className="button">
            Tap
          </A>
          <A to={link('/top', { kind, target: name, ns: namespace, run: '1' })} className="button">
            Top
          </A>
          <A to={link('/why', { ns: namespace, from: `${kind}/${namespace}/${name}` })} className="button">
            Why
          </A>
        </span>
      </div>
      <Charts id={key} namespace={namespace} kind={kind} name={name} />
      {edges.error && !edges.data ? (
        <section className="panel">
          <Failure error={edges.error} what="Who it talks to" again={edges.again} />
        </section>
      ) : (
        <div className="pair">
          <Edges title="Inbound" list={(edges.data ?? []).filter((e) => is(e.dst, namespace, kind, name))} end={(e) => e.src} none="Nobody has called it in the last minute." />
          <Edges title="Outbound" list={(edges.data ?? []).filter((e) => is(e.src, namespace, kind, name))} end={(e) => e.dst} none="It has called nobody in the last minute." />
        </div>
      )}
      <section className="panel" aria-label="Pods">
        <div className="head">
          <h2>Pods</h2>
        </div>
        {pods.error && !pods.data ? (
          <Failure error={pods.error} what="Pods" again={pods.again} />
        ) : mine.length === 0 ? (
          <p className="note">No pod of it runs. Look with kubectl get pods -n {namespace}, or scale it up.</p>
        ) : (
          <Table caption={`Pods of ${name}`} rows={mine} columns={podColumns(byPod)} rowKey={rowKey} initial={{ id: 'name', down: false }} />
        )}
      </section>
      <section className="panel" aria-label="Events">
        <div className="head">
          <h2>Events</h2>
          <span className="facts">{past.data?.kept ? `Kubernetes' own${past.data.partial ? ', as far as they were read' : ''}, and what was seen since this page was opened` : 'seen since this page was opened'}</span>
        </div>
        {past.error && <p className="note">Kubernetes' own are not shown: {past.error.message}</p>}
        {changes.length === 0 ? (
          <p className="note">Nothing has happened so far. Pods that come, go, fail or lose their sidecar are told here.</p>
        ) : (
          <ol className="events">
            {changes.map((c) => (
              <li key={`${c.t}${c.text}`} data-level={c.bad ? 'bad' : 'good'}>
                <time dateTime={new Date(c.t).toISOString()} title={new Date(c.t).toLocaleString()}>
                  {clock(c.t)}
                </time>
                <Dot at={c.bad ? 'bad' : 'good'} />
                {c.text}
              </li>
            ))}
          </ol>
        )}
      </section>
    </>
  )
}

const is = (e: EdgeEnd, ns: string, kind: string, name: string) => e.namespace === ns && e.kind === kind && e.name === name

function Edges({ title, list, end, none }: { title: string; list: Edge[]; end: (e: Edge) => EdgeEnd; none: string }) {
  const columns: Column<Edge>[] = [
    {
      id: 'who',
      title: title === 'Inbound' ? 'From' : 'To',
      cell: (e) => (
        <span className="who">
          <Lock secure={!e.noTlsReason} reason={e.noTlsReason} />
          <A to={pageOf(end(e))}>{end(e).name}</A>
          <small>{end(e).namespace}</small>
        </span>
      ),
      sort: (e) => end(e).name,
    },
    { id: 'success', title: 'Success', right: true, cell: (e) => <Success value={successRate(e)} />, sort: (e) => successRate(e) ?? NaN },
    { id: 'rps', title: 'RPS', right: true, cell: (e) => rate(e.rps), sort: (e) => e.rps },
    { id: 'p99', title: 'P99', right: true, cell: (e) => (e.rps ? ms(e.latencyMsP99) : '–'), sort: (e) => e.latencyMsP99 },
    { id: 'tcp', title: 'Open', right: true, extra: true, cell: (e) => e.tcpOpenConnections, sort: (e) => num(e.tcpOpenConnections) },
  ]
  return (
    <section className="panel" aria-label={title}>
      <div className="head">
        <h2>{title}</h2>
      </div>
      {list.length ? <Table caption={`${title} edges`} rows={list} columns={columns} rowKey={(e) => `${e.src.kind}${e.src.namespace}${e.src.name}${e.dst.kind}${e.dst.namespace}${e.dst.name}`} initial={{ id: 'rps', down: true }} /> : <p className="note">{none}</p>}
    </section>
  )
}

function podColumns(proxies: Map<string, ProxyHealth>): Column<StatRow>[] {
  const left = (p?: ProxyHealth) => num(p?.certificateNotAfterUnix) - Date.now() / 1000
  return [
    {
      id: 'name',
      title: 'Pod',
      cell: (r) => (
        <span className="who">
          <Dot at={r.status !== 'Running' ? 'bad' : proxies.has(r.name) ? (proxies.get(r.name)!.ready ? 'good' : 'fair') : 'none'} />
          {r.name}
        </span>
      ),
      sort: (r) => r.name,
    },
    { id: 'status', title: 'Status', cell: (r) => r.status, sort: (r) => r.status },
    {
      id: 'sidecar',
      title: 'Sidecar',
      cell: (r) => {
        const p = proxies.get(r.name)
        return p ? (p.connected ? p.version || 'connected' : 'not connected') : 'none'
      },
    },
    { id: 'cert', title: 'Certificate', extra: true, cell: (r) => (num(proxies.get(r.name)?.certificateNotAfterUnix) ? `${duration(left(proxies.get(r.name)))} left` : '–'), sort: (r) => left(proxies.get(r.name)) },
    { id: 'success', title: 'Success', right: true, cell: (r) => <Success value={r.hasTraffic ? successRate(r) : undefined} />, sort: (r) => successRate(r) ?? NaN },
    { id: 'rps', title: 'RPS', right: true, cell: (r) => (r.hasTraffic ? rate(r.rps) : '–'), sort: (r) => r.rps },
    { id: 'p99', title: 'P99', right: true, cell: (r) => (r.hasTraffic ? ms(r.latencyMsP99) : '–'), sort: (r) => r.latencyMsP99 },
    { id: 'open', title: 'TCP open', right: true, cell: (r) => r.tcpOpenConnections, sort: (r) => num(r.tcpOpenConnections) },
    { id: 'read', title: 'Read', right: true, extra: true, cell: (r) => `${bytes(r.tcpReadBytesRate)}/s`, sort: (r) => r.tcpReadBytesRate },
    { id: 'write', title: 'Written', right: true, extra: true, cell: (r) => `${bytes(r.tcpWriteBytesRate)}/s`, sort: (r) => r.tcpWriteBytesRate },
  ]
}

function Charts({ id, namespace, kind, name }: { id: string; namespace: string; kind: string; name: string }) {
  const all = history(id)
  const n = all.length
  const last = all[n - 1]?.t
  const s = useMemo(() => {
    const pick = (f: (p: (typeof all)[number]) => number) => all.map((p) => (Number.isNaN(f(p)) ? null : f(p)))
    return {
      t: all.map((p) => p.t / 1000),
      rps: [{ label: 'RPS', values: pick((p) => p.rps), colour: '--accent', fill: true }],
      ok: [{ label: 'Success', values: pick((p) => p.success), colour: '--good', fill: true }],
      lat: [
        { label: 'P50', values: pick((p) => p.p50), colour: '--series1' },
        { label: 'P95', values: pick((p) => p.p95), colour: '--series2' },
        { label: 'P99', values: pick((p) => p.p99), colour: '--series3' },
      ],
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [n, last, all])
  const quote = (v: string) => v.replace(/[\\"]/g, '\\$&')
  const heat = useLive(
    `heat/${id}`,
    (signal) => queryRange(`sum by (le) (increase(response_latency_ms_bucket{direction="inbound",namespace="${quote(namespace)}",${kind}="${quote(name)}",authz_name!="probe"}[30s]))`, 900, 15, signal),
    15000,
  )
  const map = useMemo(() => buckets(heat.data), [heat.data])
  return (
    <div className="charts">
      <section className="panel">
        <Chart title="Requests per second" times={s.t} lines={s.rps} unit={rate} />
      </section>
      <section className="panel">
        <Chart title="Success rate" times={s.t} lines={s.ok} unit={percentOf} top={1} />
      </section>
      <section className="panel">
        <Chart title="Latency" times={s.t} lines={s.lat} unit={ms} />
      </section>
      {map && (
        <section className="panel">
          <HeatMap title="Latency, 15 minutes" bounds={map.bounds} columns={map.columns} times={map.times} />
        </section>
      )}
    </div>
  )
}

/** Cumulative buckets as counts of each, without those that are empty all the time. */
function buckets(list?: { labels: Record<string, string>; points: [number, number][] }[]) {
  if (!list?.length) return undefined
  const rows = list.map((x) => ({ le: x.labels.le === '+Inf' ? Infinity : Number(x.labels.le), at: new Map(x.points) })).sort((a, b) => a.le - b.le)
  const times = [...new Set(rows.flatMap((r) => [...r.at.keys()]))].sort((a, b) => a - b)
  const columns = times.map((t) => rows.map((r, j) => Math.max(0, (r.at.get(t) ?? 0) - (j ? (rows[j - 1].at.get(t) ?? 0) : 0))))
  const used = rows.map((_, j) => columns.some((c) => c[j] > 0.001))
  const first = used.indexOf(true)
  const end = used.lastIndexOf(true) + 1
  if (first < 0) return undefined
  return { bounds: rows.slice(first, end).map((r) => r.le), columns: columns.map((c) => c.slice(first, end)), times }
}

interface Change {
  t: number
  text: string
  bad: boolean
}

/** Notes what becomes different between two looks. */
function useChanges(pods: StatRow[], proxies: Map<string, ProxyHealth>, row?: StatRow): Change[] {
  const [list, setList] = useState<Change[]>([])
  const before = useRef<{ pods: Map<string, string>; proxies: Map<string, ProxyHealth>; level: string }>(undefined)
  useEffect(() => {
    if (!row) return
    const now = { pods: new Map(pods.map((p) => [p.name, p.status])), proxies: new Map([...proxies].filter(([n]) => pods.some((p) => p.name === n))), level: level(row.hasTraffic ? successRate(row) : undefined) }
    const was = before.current
    if (pods.length === 0 && !was) return
    before.current = now
    if (!was) return
    const t = Date.now()
    const found: Change[] = []
    const say = (text: string, bad: boolean) => found.push({ t, text, bad })
    for (const [n, status] of now.pods) {
      const old = was.pods.get(n)
      if (old === undefined) say(`Pod ${n} is there (${status})`, false)
      else if (old !== status) say(`Pod ${n} was ${old} and is ${status}`, status !== 'Running')
    }
    for (const n of was.pods.keys()) if (!now.pods.has(n)) say(`Pod ${n} is gone`, true)
    for (const [n, p] of now.proxies) {
      const old = was.proxies.get(n)
      if (!old) continue
      if (old.ready !== p.ready) say(`Pod ${n} ${p.ready ? 'is ready' : 'is not ready any more'}`, !p.ready)
      if (old.connected !== p.connected) say(`The sidecar of ${n} ${p.connected ? 'is connected to the control plane' : 'has lost the control plane'}`, !p.connected)
      if (num(old.certificateNotAfterUnix) !== num(p.certificateNotAfterUnix) && num(old.certificateNotAfterUnix)) say(`The certificate of ${n} was renewed`, false)
    }
    if (was.level !== now.level && now.level !== 'none') say(`Success rate is ${percent(successRate(row))}`, now.level === 'bad')
    if (found.length) setList((l) => [...found.reverse(), ...l].slice(0, 50))
  }, [pods, proxies, row])
  return list
}

