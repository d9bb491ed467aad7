// Requests as they pass: one by one (tap), or summed up (top).
import { useEffect, useMemo, useReducer, useRef, useState } from 'react'
import { ALL, ApiError, type Peer, stat, tap, type TapEvent, type Target } from '../api'
import { bytes, clock, type Level, num, percent, us, word } from '../format'
import { useLive } from '../live'
import { type Column, Command, Dot, Empty, Failure, Field, Icon, Lock, Table } from '../parts'
import { setParams, useLocation } from '../router'
import { resource, useCommand, useScope } from '../scope'

const kinds = ['deployment', 'statefulset', 'daemonset', 'pod', 'service', 'namespace']
const maxKept = 1000
const shown = 200

interface Seen {
  id: string
  t: number
  out: boolean
  from: string
  to: string
  method: string
  authority: string
  path: string
  tls: string
  observer: string
  status?: number
  grpc?: number
  reset?: number
  us?: number
  bytes?: number
}

function peerName(p?: Peer): string {
  const l = p?.labels ?? {}
  return l.deployment ?? l.statefulset ?? l.daemonset ?? l.pod ?? (p ? `${p.ip}${p.port ? `:${p.port}` : ''}` : '?')
}

const failed = (s: Seen) => s.reset !== undefined || (s.status ?? 0) >= 500 || [2, 4, 13, 14, 15].includes(s.grpc ?? 0)
const pending = (s: Seen) => s.us === undefined

/** What was seen, outside of React: a busy tap would render at each event. */
class Log {
  list: Seen[] = []
  private open = new Map<string, Seen>()
  lost = 0
  total = 0

  take(e: TapEvent) {
    const id = `${e.observer}/${e.direction}/${e.base ?? 0}/${e.stream ?? 0}`
    if (e.request) {
      const s: Seen = {
        id: `${id}#${this.total++}`,
        t: Date.now(),
        out: e.direction === 'out',
        from: peerName(e.source),
        to: peerName(e.destination),
        method: e.request.method,
        authority: e.request.authority,
        path: e.request.path,
        tls: e.tls ?? '',
        observer: e.observer ?? '',
      }
      this.list.push(s)
      this.open.set(id, s)
      if (this.list.length > maxKept) this.list.shift()
      if (this.open.size > maxKept) this.open.delete(this.open.keys().next().value!)
      return
    }
    const s = this.open.get(id)
    if (!s) return
    if (e.response) s.status = e.response.status
    if (e.end) {
      s.us = num(e.end.sinceRequestUs)
      s.bytes = num(e.end.responseBytes)
      s.grpc = e.end.grpcStatus
      s.reset = e.end.reset
      this.open.delete(id)
    }
  }
}

export function Tap({ mode }: { mode: 'tap' | 'top' }) {
  const { ns } = useScope()
  const here = useLocation()
  const p = here.searchParams
  const kind = p.get('kind') ?? (ns === ALL ? 'namespace' : 'deployment')
  const name = p.get('target') ?? ''
  const form = { to: p.get('to') ?? '', method: p.get('method') ?? '', scheme: p.get('scheme') ?? '', authority: p.get('authority') ?? '', path: p.get('path') ?? '', rps: p.get('rps') ?? '100' }
  const names = useLive(`names/${kind}/${ns}`, (s) => stat({ kind, namespace: ns, name: ALL }, {}, s), 10000)
  const options = useMemo(() => [...new Set((names.data ?? []).map((r) => (kind === 'namespace' || ns !== ALL ? r.name : `${r.namespace}/${r.name}`)))], [names.data, kind, ns])
  const [running, setRunning] = useState(p.get('run') === '1')
  const [error, setError] = useState<ApiError>()
  const log = useRef(new Log())
  const [, redraw] = useReducer((n: number) => n + 1, 0)

  const target: Target | undefined = useMemo(() => {
    if (kind === 'namespace') {
      const n = name || (ns === ALL ? '' : ns)
      return n ? { kind, namespace: n, name: n } : undefined
    }
    if (ns === ALL) {
      const [space, own] = name.split('/')
      return own ? { kind, namespace: space, name: own } : undefined
    }
    return { kind, namespace: ns, name }
  }, [kind, name, ns])
  const wrong = form.path && !form.path.startsWith('/') ? 'a path begins with /' : !(num(form.rps) >= 1 && num(form.rps) <= 100000) ? 'requests per second: 1 to 100000' : parseTo(form.to, target?.namespace ?? '') === null ? 'to: want TYPE or TYPE/NAME, such as svc/voting-svc' : ''

  useEffect(() => {
    if (!running || !target || wrong) return
    const c = new AbortController()
    log.current = new Log()
    setError(undefined)
    redraw()
    const tick = setInterval(() => redraw(), 250)
    tap({ target, to: parseTo(form.to, target.namespace) ?? undefined, match: { method: form.method.toUpperCase(), scheme: form.scheme, authority: form.authority, pathPrefix: form.path }, maxRps: num(form.rps) }, (m) => {
      if (m.event) log.current.take(m.event)
      if (m.lost) log.current.lost += num(m.lost)
    }, c.signal)
      .then(
        () => !c.signal.aborted && setError(new ApiError(0, 'The mesh ended the tap.', 'down')),
        (e) => !c.signal.aborted && setError(e instanceof ApiError ? e : new ApiError(0, String(e), 'down')),
      )
      .finally(() => !c.signal.aborted && setRunning(false))
    return () => {
      clearInterval(tick)
      c.abort()
      redraw()
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [running, target, wrong, form.to, form.method, form.scheme, form.authority, form.path, form.rps])

  const command = useCommand()
  const flags = [
    form.to && `--to ${word(form.to)}`,
    form.method && `--method ${word(form.method.toUpperCase())}`,
    form.scheme && `--scheme ${word(form.scheme)}`,
    form.authority && `--authority ${word(form.authority)}`,
    form.path && `--path ${word(form.path)}`,
    form.rps !== '100' && `--max-rps ${word(form.rps)}`,
  ].filter(Boolean)
  const line = target ? command([mode, resource(kind, target.name), ...flags].join(' '), kind === 'namespace' ? '' : target.namespace) : undefined
  const set = (k: string) => (e: { target: { value: string } }) => setParams({ [k]: e.target.value })
  const l = log.current
  return (
    <>
      <form
        className="panel form"
        onSubmit={(e) => {
          e.preventDefault()
          setRunning(!running)
          setParams({ run: running ? undefined : '1' })
        }}
      >
        <Field label="Type">
          {(id) => (
            <select id={id} value={kind} onChange={(e) => setParams({ kind: e.target.value, target: undefined })}>
              {kinds.map((k) => (
                <option key={k}>{k}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Name">
          {(id) => (
            <select id={id} value={name} onChange={set('target')}>
              <option value="">{ns === ALL ? 'choose' : kind === 'namespace' ? ns : 'all'}</option>
              {name && !options.includes(name) && <option>{name}</option>}
              {options.map((o) => (
                <option key={o}>{o}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="To">{(id) => <input id={id} value={form.to} onChange={set('to')} placeholder="svc/voting-svc" />}</Field>
        <Field label="Method">{(id) => <input id={id} value={form.method} onChange={set('method')} placeholder="any" size={6} />}</Field>
        <Field label="Scheme">
          {(id) => (
            <select id={id} value={form.scheme} onChange={set('scheme')}>
              <option value="">any</option>
              <option>http</option>
              <option>https</option>
            </select>
          )}
        </Field>
        <Field label="Authority">{(id) => <input id={id} value={form.authority} onChange={set('authority')} placeholder="any" />}</Field>
        <Field label="Path begins with">{(id) => <input id={id} data-search value={form.path} onChange={set('path')} placeholder="/" />}</Field>
        <Field label="Max per second">{(id) => <input id={id} type="number" min={1} max={100000} value={form.rps} onChange={set('rps')} />}</Field>
        <button type="submit" className="primary" disabled={!target || !!wrong}>
          <Icon name={running ? 'stop' : 'play'} />
          {running ? 'Stop' : 'Start'}
        </button>
      </form>
      <div className="toolbar">
        {line ? <Command text={line} /> : <span className="note">Choose what to watch: a namespace at the top, or a name here.</span>}
        <span className="facts" role="status">
          {wrong || (running ? `${l.total} requests` : l.total ? `stopped after ${l.total} requests` : '')}
          {l.lost > 0 && `, ${l.lost} not shown: more than ${form.rps} a second, or this browser is too slow`}
        </span>
      </div>
      {error && <Failure error={error} what={mode === 'tap' ? 'Tap' : 'Top'} again={() => setRunning(true)} />}
      {!error &&
        (l.total === 0 ? (
          running && target ? (
            <Empty title="Nothing has passed yet">Requests appear here the moment they do. Widen the filters if you expect some.</Empty>
          ) : (
            <Empty title="Watch requests as they pass">
              {mode === 'tap' ? 'Each request with its response and time. ' : 'Requests by path, counted live. '}
              No pod needs to be restarted for it, and what nobody watches costs nothing.
            </Empty>
          )
        ) : mode === 'tap' ? (
          <section className="panel" aria-label="Requests">
            <Table caption="Requests, the newest first" rows={l.list.slice(-shown).reverse()} columns={tapColumns} rowKey={(s) => s.id} />
          </section>
        ) : (
          <TopTable list={l.list} />
        ))}
    </>
  )
}

/** Reads TYPE[/NAME]; null: it is none. */
function parseTo(s: string, namespace: string): Target | undefined | null {
  if (!s) return undefined
  const [k, n = '', more] = s.split('/')
  const kind = { deploy: 'deployment', deployments: 'deployment', sts: 'statefulset', ds: 'daemonset', po: 'pod', pods: 'pod', svc: 'service', services: 'service', ns: 'namespace' }[k] ?? k
  if (!kinds.includes(kind) || more !== undefined) return null
  return { kind, namespace, name: n }
}

function result(s: Seen): string {
  if (s.reset !== undefined) return `reset ${s.reset}`
  if (s.grpc !== undefined) return `${s.status ?? ''} grpc ${s.grpc}`
  return s.status ? String(s.status) : '…'
}

const levelOf = (s: Seen): Level => (failed(s) ? 'bad' : pending(s) ? 'none' : 'good')

const tapColumns: Column<Seen>[] = [
  { id: 't', title: 'Time', cell: (s) => <span className="dim">{clock(s.t)}</span> },
  { id: 'dir', title: 'Dir', cell: (s) => (s.out ? 'out' : 'in') },
  {
    id: 'ends',
    title: 'From → to',
    cell: (s) => (
      <span className="who">
        <Lock secure={s.tls === 'true'} reason={s.tls} />
        {s.from} <span className="dim">→</span> {s.to}
      </span>
    ),
  },
  { id: 'method', title: 'Method', cell: (s) => s.method },
  { id: 'path', title: 'Path', cell: (s) => <code className="path" title={s.authority + s.path}>{s.path}</code> },
  {
    id: 'status',
    title: 'Status',
    right: true,
    cell: (s) => (
      <span className="who">
        <Dot at={levelOf(s)} />
        {result(s)}
      </span>
    ),
  },
  { id: 'us', title: 'Latency', right: true, cell: (s) => (s.us === undefined ? '…' : us(s.us)) },
  { id: 'bytes', title: 'Size', right: true, extra: true, cell: (s) => bytes(s.bytes) },
]

interface Row {
  key: string
  from: string
  to: string
  method: string
  path: string
  count: number
  best: number
  worst: number
  last: number
  ok: number
  ended: number
}

function TopTable({ list }: { list: Seen[] }) {
  const rows = new Map<string, Row>()
  for (const s of list) {
    const key = `${s.from}>${s.to}>${s.method}>${s.path}`
    let r = rows.get(key)
    if (!r) rows.set(key, (r = { key, from: s.from, to: s.to, method: s.method, path: s.path, count: 0, best: Infinity, worst: 0, last: 0, ok: 0, ended: 0 }))
    r.count++
    if (s.us === undefined) continue
    r.ended++
    r.best = Math.min(r.best, s.us)
    r.worst = Math.max(r.worst, s.us)
    r.last = s.us
    if (!failed(s)) r.ok++
  }
  const time = (r: Row, v: number) => (r.ended ? us(v) : '–')
  const columns: Column<Row>[] = [
    { id: 'from', title: 'Source', cell: (r) => r.from, sort: (r) => r.from },
    { id: 'to', title: 'Destination', cell: (r) => r.to, sort: (r) => r.to },
    { id: 'method', title: 'Method', cell: (r) => r.method, sort: (r) => r.method },
    { id: 'path', title: 'Path', cell: (r) => <code className="path">{r.path}</code>, sort: (r) => r.path },
    { id: 'count', title: 'Count', right: true, cell: (r) => r.count, sort: (r) => r.count },
    { id: 'best', title: 'Best', right: true, extra: true, cell: (r) => time(r, r.best), sort: (r) => r.best },
    { id: 'worst', title: 'Worst', right: true, cell: (r) => time(r, r.worst), sort: (r) => r.worst },
    { id: 'last', title: 'Last', right: true, extra: true, cell: (r) => time(r, r.last), sort: (r) => r.last },
    { id: 'ok', title: 'Success', right: true, cell: (r) => percent(r.ended ? r.ok / r.ended : undefined), sort: (r) => (r.ended ? r.ok / r.ended : NaN) },
  ]
  return (
    <section className="panel" aria-label="Requests by path">
      <Table caption="Requests by source, destination, method and path" rows={[...rows.values()]} columns={columns} rowKey={(r) => r.key} initial={{ id: 'count', down: true }} />
    </section>
  )
}
