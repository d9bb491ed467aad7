// Connections by peer: what only a userspace stack can see.
import { useMemo } from 'react'
import { ALL, ApiError, type ConnectionRow, connections, query, type Sample, stat, type StatRow } from '../api'
import { bytes, duration, num, rate, us, word } from '../format'
import { rowKey, useLive } from '../live'
import { A, type Column, Command, Empty, Failure, Loading, Lock, Search, Table, Tile } from '../parts'
import { link, setParams, useLocation } from '../router'
import { useCommand, useScope } from '../scope'

interface Row {
  key: string
  pod: string
  namespace: string
  direction: string
  side: string
  peer: string
  tls: string
  open: number
  opened: number
  closed: number
  read: number
  write: number
  rtt: number
  retransmits: number
}

const by = 'namespace, pod, direction, peer, target_addr, tls, dst_deployment, dst_statefulset, dst_daemonset, dst_service, client_id'

/** What is asked for the page; what a mesh has not is left out of it. */
async function ask(ns: string, signal: AbortSignal): Promise<Row[]> {
  const of = ns === ALL ? '' : `namespace="${ns.replace(/[\\"]/g, '\\$&')}"`
  const m = (name: string) => `${name}{${of}}`
  const optional = (q: string) => query(q, signal).catch((e) => {
    if (e instanceof ApiError && e.reason === 'refused') return [] as Sample[]
    throw e
  })
  const [open, opened, closed, read, write, rtt, retransmits] = await Promise.all([
    query(`sum by (${by}) (${m('tcp_open_connections')})`, signal),
    query(`sum by (${by}) (rate(${m('tcp_open_total')}[1m]))`, signal),
    query(`sum by (${by}) (rate(${m('tcp_close_total')}[1m]))`, signal),
    query(`sum by (${by}) (rate(${m('tcp_read_bytes_total')}[1m]))`, signal),
    query(`sum by (${by}) (rate(${m('tcp_write_bytes_total')}[1m]))`, signal),
    optional(`sum by (${by}) (rate(${m('tcp_rtt_seconds_sum')}[5m])) / sum by (${by}) (rate(${m('tcp_rtt_seconds_count')}[5m]))`),
    optional(`sum by (${by}) (increase(${m('tcp_retransmits_total')}[5m]))`),
  ])
  const rows = new Map<string, Row>()
  const put = (list: Sample[], set: (r: Row, v: number) => void) => {
    for (const s of list) {
      const l = s.labels
      const key = by.split(', ').map((k) => l[k] ?? '').join('|')
      let r = rows.get(key)
      if (!r) {
        const who = l.dst_deployment || l.dst_statefulset || l.dst_daemonset || l.dst_service || (l.direction === 'inbound' && l.peer === 'src' ? l.client_id?.split('.')[0] : '') || l.target_addr || '?'
        rows.set(key, (r = { key, pod: l.pod ?? '', namespace: l.namespace ?? '', direction: l.direction ?? '', side: l.peer ?? '', peer: who, tls: l.tls ?? '', open: 0, opened: 0, closed: 0, read: 0, write: 0, rtt: NaN, retransmits: NaN }))
      }
      if (!Number.isNaN(s.value)) set(r, s.value)
    }
  }
  put(open, (r, v) => (r.open = v))
  put(opened, (r, v) => (r.opened = v))
  put(closed, (r, v) => (r.closed = v))
  put(read, (r, v) => (r.read = v))
  put(write, (r, v) => (r.write = v))
  put(rtt, (r, v) => (r.rtt = v))
  put(retransmits, (r, v) => (r.retransmits = v))
  return [...rows.values()].filter((r) => r.open || r.opened || r.read || r.write)
}

/** A pod as a link to what it has open, one by one. */
function PodLink({ namespace, name }: { namespace: string; name: string }) {
  return (
    <span className="who">
      <A to={link('/connections', { pod: `${namespace}/${name}` })} title="Its connections, one by one">
        {name}
      </A>
      <small>{namespace}</small>
    </span>
  )
}

export function Connections() {
  const pod = useLocation().searchParams.get('pod')
  const [namespace, name] = pod?.split('/') ?? []
  return namespace && name ? <OfPod namespace={namespace} name={name} /> : <ByPeer />
}

/** What one pod's sidecar has open at this moment. */
function OfPod({ namespace, name }: { namespace: string; name: string }) {
  const command = useCommand()
  const filter = useLocation().searchParams.get('q') ?? ''
  const live = useLive(`connections/${namespace}/${name}`, (s) => connections(namespace, name, s), 5000)
  const rows = useMemo(
    () => (live.data?.rows ?? []).filter((r) => !filter || `${r.peer} ${r.connection.remote} ${r.connection.direction} ${r.connection.protocol}`.toLowerCase().includes(filter.toLowerCase())),
    [live.data, filter],
  )
  const back = <A to={link('/connections')}>All connections</A>
  if (!live.data)
    return (
      <>
        <p>{back}</p>
        {live.error ? <Failure error={live.error} what={`Connections of ${name}`} again={live.again} /> : <Loading what="connections" />}
      </>
    )
  const age = (r: ConnectionRow) => num(r.connection.ageUs) / 1e6
  const sum = (f: (r: ConnectionRow) => string) => rows.reduce((n, r) => n + num(f(r)), 0)
  const columns: Column<ConnectionRow>[] = [
    { id: 'peer', title: 'Peer', cell: (r) => <span className="who"><Lock secure={r.connection.labels?.tls === 'true'} reason={r.connection.labels?.no_tls_reason || r.connection.labels?.tls} />{r.peer || r.connection.remote}<small>{r.peer ? r.connection.remote : ''}</small></span>, sort: (r) => r.peer || r.connection.remote },
    { id: 'dir', title: 'Direction', cell: (r) => `${r.connection.direction}, ${r.connection.protocol}`, sort: (r) => r.connection.direction + r.connection.protocol },
    { id: 'age', title: 'Age', right: true, cell: (r) => duration(age(r)), sort: age },
    { id: 'rtt', title: 'RTT', right: true, cell: (r) => (num(r.connection.rttUs) ? us(num(r.connection.rttUs)) : '–'), sort: (r) => num(r.connection.rttUs) || NaN },
    { id: 'again', title: 'Retransmits', right: true, cell: (r) => num(r.connection.retransmits), sort: (r) => num(r.connection.retransmits) },
    { id: 'read', title: 'Read', right: true, cell: (r) => bytes(num(r.connection.bytesIn)), sort: (r) => num(r.connection.bytesIn) },
    { id: 'write', title: 'Written', right: true, cell: (r) => bytes(num(r.connection.bytesOut)), sort: (r) => num(r.connection.bytesOut) },
  ]
  return (
    <>
      <p>
        {back} › <strong>{namespace}/{name}</strong>
      </p>
      <div className="tiles">
        <Tile title="Open" value={live.data.total} sub={live.data.total > live.data.rows.length ? `${live.data.rows.length} of them are shown` : 'with peers outside of the pod'} />
        <Tile title="Oldest" value={rows.length ? duration(Math.max(...rows.map(age))) : '–'} />
        <Tile title="Read" value={bytes(sum((r) => r.connection.bytesIn))} />
        <Tile title="Written" value={bytes(sum((r) => r.connection.bytesOut))} />
        <Tile title="Retransmits" value={sum((r) => r.connection.retransmits)} />
      </div>
      <div className="toolbar">
        <Search value={filter} onChange={(q) => setParams({ q })} label="Filter connections" />
        <Command text={command(`diagnostics connections po/${word(name)}`, namespace)} />
      </div>
      {rows.length === 0 ? (
        <Empty title={filter ? `No connection matches “${filter}”` : 'This pod has no connections'}>What its sidecar has open with others is listed here.</Empty>
      ) : (
        <section className="panel" aria-label="Connections of the pod">
          <Table caption={`Connections of ${namespace}/${name}`} rows={rows} columns={columns} rowKey={(r) => `${r.connection.direction}|${r.connection.local}|${r.connection.remote}|${r.connection.protocol}`} initial={{ id: 'age', down: true }} limit={100} />
        </section>
      )}
    </>
  )
}

/** All of them, by pod and peer. */
function ByPeer() {
  const { ns } = useScope()
  const command = useCommand()
  const filter = useLocation().searchParams.get('q') ?? ''
  const live = useLive(`connections/${ns}`, (s) => ask(ns, s), 5000)
  const rows = useMemo(() => (live.data ?? []).filter((r) => !filter || `${r.namespace}/${r.pod} ${r.peer} ${r.direction}`.toLowerCase().includes(filter.toLowerCase())), [live.data, filter])
  if (!live.data) {
    if (live.error && (live.error.reason === 'gone' || live.error.reason === 'forbidden')) return <ByPod why={live.error} />
    return live.error ? <Failure error={live.error} what="Connections" again={live.again} /> : <Loading what="connections" />
  }
  const sum = (f: (r: Row) => number) => rows.reduce((n, r) => n + (Number.isNaN(f(r)) ? 0 : f(r)), 0)
  const has = { rtt: live.data.some((r) => !Number.isNaN(r.rtt)), retransmits: live.data.some((r) => !Number.isNaN(r.retransmits)) }
  const columns: Column<Row>[] = [
    { id: 'pod', title: 'Pod', cell: (r) => <PodLink namespace={r.namespace} name={r.pod} />, sort: (r) => r.pod },
    { id: 'dir', title: 'Direction', cell: (r) => `${r.direction}, ${r.side === 'src' ? 'client side' : 'server side'}`, sort: (r) => r.direction + r.side },
    { id: 'peer', title: 'Peer', cell: (r) => <span className="who"><Lock secure={r.tls === 'true'} reason={r.tls} />{r.peer}</span>, sort: (r) => r.peer },
    { id: 'open', title: 'Open', right: true, cell: (r) => r.open, sort: (r) => r.open },
    { id: 'opened', title: 'Opened/s', right: true, extra: true, cell: (r) => rate(r.opened), sort: (r) => r.opened },
    ...(has.rtt ? [{ id: 'rtt', title: 'RTT', right: true, cell: (r: Row) => (Number.isNaN(r.rtt) ? '–' : us(r.rtt * 1e6)), sort: (r: Row) => r.rtt }] : []),
    ...(has.retransmits ? [{ id: 'again', title: 'Retransmits', right: true, cell: (r: Row) => (Number.isNaN(r.retransmits) ? '–' : Math.round(r.retransmits)), sort: (r: Row) => r.retransmits }] : []),
    { id: 'read', title: 'Read', right: true, cell: (r) => `${bytes(r.read)}/s`, sort: (r) => r.read },
    { id: 'write', title: 'Written', right: true, cell: (r) => `${bytes(r.write)}/s`, sort: (r) => r.write },
  ]
  return (
    <>
      <div className="tiles">
        <Tile title="Open" value={sum((r) => r.open)} sub="each proxied connection has two sides" />
        <Tile title="Read" value={`${bytes(sum((r) => r.read))}/s`} />
        <Tile title="Written" value={`${bytes(sum((r) => r.write))}/s`} />
        {has.retransmits && <Tile title="Retransmits" value={Math.round(sum((r) => r.retransmits))} sub="in 5 minutes" />}
      </div>
      <div className="toolbar">
        <Search value={filter} onChange={(q) => setParams({ q })} label="Filter connections" />
        <Command text={command('stat po -o wide')} />
      </div>
      {rows.length === 0 ? (
        <Empty title={filter ? `No connection matches “${filter}”` : 'There are no connections'}>What meshed pods open and accept is listed here by peer.</Empty>
      ) : (
        <section className="panel" aria-label="Connections">
          <Table caption="Connections by pod and peer" rows={rows} columns={columns} rowKey={(r) => r.key} initial={{ id: 'write', down: true }} limit={100} />
        </section>
      )}
    </>
  )
}

/** Of who may not ask in PromQL, or where there is none: what stat tells. */
function ByPod({ why }: { why: ApiError }) {
  const { ns } = useScope()
  const command = useCommand()
  const live = useLive(`pods/${ns}`, (s) => stat({ kind: 'pod', namespace: ns, name: ALL }, {}, s))
  const rows = useMemo(() => (live.data ?? []).filter((r) => num(r.tcpOpenConnections) || r.tcpReadBytesRate || r.tcpWriteBytesRate), [live.data])
  if (!live.data) return live.error ? <Failure error={live.error} what="Connections" again={live.again} /> : <Loading what="connections" />
  const columns: Column<StatRow>[] = [
    { id: 'pod', title: 'Pod', cell: (r) => <PodLink namespace={r.namespace} name={r.name} />, sort: (r) => r.name },
    { id: 'open', title: 'Open', right: true, cell: (r) => r.tcpOpenConnections, sort: (r) => num(r.tcpOpenConnections) },
    { id: 'read', title: 'Read', right: true, cell: (r) => `${bytes(r.tcpReadBytesRate)}/s`, sort: (r) => r.tcpReadBytesRate },
    { id: 'write', title: 'Written', right: true, cell: (r) => `${bytes(r.tcpWriteBytesRate)}/s`, sort: (r) => r.tcpWriteBytesRate },
  ]
  return (
    <>
      <p className="note boxed">
        {why.reason === 'forbidden' ? 'Round-trip times, retransmits and peers are asked for in PromQL, which needs a right for the whole cluster that you do not have. ' : 'This mesh does not serve PromQL, so peers, round-trip times and retransmits are not known. '}
        Below is what stat tells of each pod.
      </p>
      <div className="toolbar">
        <Command text={command('stat po -o wide')} />
      </div>
      {rows.length === 0 ? (
        <Empty title="There are no connections">What meshed pods open and accept is listed here.</Empty>
      ) : (
        <section className="panel" aria-label="Connections">
          <Table caption="Connections by pod" rows={rows} columns={columns} rowKey={rowKey} initial={{ id: 'open', down: true }} />
        </section>
      )}
    </>
  )
}
