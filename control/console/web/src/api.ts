// What the mesh is asked, and what it answers: the only file that knows paths.
// The shapes are those of api/query in JSON; 64-bit numbers come as strings.

const base = '/apis/view.tunmesh.io/v1alpha1'

/** Stands in a path for every name, or every namespace. */
export const ALL = '-'

export type Kind = 'deployment' | 'statefulset' | 'daemonset'
export const workloadKinds: Kind[] = ['deployment', 'statefulset', 'daemonset']
export const plural = (kind: string) => (kind === 'authority' ? 'authorities' : `${kind}s`)

export interface Session {
  version: string
  mesh: string
  local: boolean
  namespace: string
  command: string
}

export interface Figures {
  successCount: string
  failureCount: string
  rps: number
  latencyMsP50: number
  latencyMsP95: number
  latencyMsP99: number
  tcpOpenConnections: string
  tcpReadBytesRate: number
  tcpWriteBytesRate: number
}

export interface StatRow extends Figures {
  namespace: string
  kind: string
  name: string
  status: string
  meshedPods: number
  runningPods: number
  tls?: number
  hasTraffic: boolean
}

export interface EdgeEnd {
  kind: string
  namespace: string
  name: string
}

export interface Edge extends Figures {
  src: EdgeEnd
  dst: EdgeEnd
  clientId: string
  serverId: string
  noTlsReason: string
}

export interface ProxyHealth {
  namespace: string
  pod: string
  connected: boolean
  ready: boolean
  version: string
  certificateNotAfterUnix: string
}

export interface Certificate {
  name: string
  subject: string
  notAfterUnix: string
}

export interface Health {
  version: string
  proxies: ProxyHealth[]
  certificates: Certificate[]
}

export interface CheckResult {
  description: string
  hint?: string
  error?: string
  result: 'success' | 'warning' | 'error'
}

export interface CheckCategory {
  categoryName: string
  checks: CheckResult[]
}

export interface Peer {
  ip: string
  port?: number
  labels?: Record<string, string>
}

export interface TapEvent {
  base?: number
  stream?: string
  direction: string
  source?: Peer
  destination?: Peer
  tls?: string
  observer?: string
  request?: { method: string; scheme: string; authority: string; path: string }
  response?: { sinceRequestUs?: string; status?: number }
  end?: { sinceRequestUs?: string; sinceResponseUs?: string; responseBytes?: string; grpcStatus?: number; reset?: number }
}

export interface TapMessage {
  event?: TapEvent
  lost?: string
  // The API server's way to say why there is no more.
  kind?: string
  message?: string
}

export interface WhyAnswer {
  verdict: 'WORKS' | 'FAILS' | 'DEGRADED' | 'VERDICT_UNSPECIFIED'
  summary: string
  reasons: { subject: string; mark: 'OK' | 'NOTE' | 'BAD' | 'MARK_UNSPECIFIED'; text: string }[]
}

/** A resource as people choose it. */
export interface Target {
  kind: string
  namespace: string
  name: string
}

/** What went wrong, and what that means for a page. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    /** gone: this mesh does not serve such questions. */
    readonly reason: 'down' | 'forbidden' | 'unauthorized' | 'gone' | 'absent' | 'refused',
  ) {
    super(message)
  }
}

async function failure(resp: Response): Promise<ApiError> {
  const text = await resp.text().catch(() => '')
  let message = text.trim() || resp.statusText
  let ours = false
  try {
    const doc = JSON.parse(text)
    if (typeof doc.message === 'string') {
      message = doc.message
      ours = true
    }
  } catch {
    // The API server's own errors may be plain text.
  }
  // A mesh that keeps no figures of the past says so with whatever code.
  if (message.endsWith('not kept here')) return new ApiError(resp.status, message, 'gone')
  switch (resp.status) {
    case 401:
      return new ApiError(401, message, 'unauthorized')
    case 403:
      return new ApiError(403, message, 'forbidden')
    case 404:
      if (!ours) return new ApiError(404, 'The cluster has no view.tunmesh.io API: is the mesh installed? See meshctl check.', 'down')
      return new ApiError(404, message, message.startsWith('there is nothing at') ? 'gone' : 'absent')
    case 405:
    case 501:
      return new ApiError(resp.status, message, 'gone')
    case 502:
    case 503:
    case 504:
      return new ApiError(resp.status, message, 'down')
  }
  return new ApiError(resp.status, message, 'refused')
}

async function send(path: string, init: RequestInit): Promise<Response> {
  let resp: Response
  try {
    resp = await fetch(path, { ...init, credentials: 'same-origin', redirect: 'error' })
  } catch (e) {
    if (init.signal?.aborted) throw e
    throw new ApiError(0, 'meshctl dashboard does not answer: is it still running in its terminal?', 'down')
  }
  if (!resp.ok) throw await failure(resp)
  return resp
}

async function get<T>(path: string, params: Record<string, string | number | undefined> = {}, signal?: AbortSignal): Promise<T> {
  const q = new URLSearchParams()
  for (const [k, v] of Object.entries(params)) if (v !== undefined && v !== '') q.set(k, String(v))
  const resp = await send(q.size ? `${path}?${q}` : path, { signal, headers: { Accept: 'application/json' } })
  return (await resp.json()) as T
}

const seg = (s: string) => encodeURIComponent(s || ALL)
const where = (t: Target) => `${base}/namespaces/${seg(t.kind === 'namespace' ? t.name : t.namespace)}/${plural(t.kind)}/${seg(t.name)}`
const other = (t?: Target) => (t ? `${plural(t.kind)}/${t.namespace || ALL}/${t.name || ALL}` : undefined)

export const session = () => get<Session>('/dashboard/session')
export const health = (signal?: AbortSignal) => get<Health>(`${base}/health`, {}, signal)

/** One of Kubernetes' Events. */
export interface PastEvent {
  at: string
  warning: boolean
  reason: string
  object: string
  message: string
  count: number
}

/** Events of a workload that the cluster still keeps, the latest first. */
export const events = (t: Target, signal?: AbortSignal) =>
  get<{ kept: boolean; partial: boolean; events: PastEvent[] }>('/dashboard/events', { namespace: t.namespace, kind: t.kind, name: t.name }, signal)
export const check = (signal?: AbortSignal) => get<{ success: boolean; categories: CheckCategory[] }>('/dashboard/check', {}, signal)

export async function stat(t: Target, opts: { window?: number; to?: Target; from?: Target } = {}, signal?: AbortSignal): Promise<StatRow[]> {
  const r = await get<{ rows?: StatRow[] }>(`${where(t)}/stat`, { window: opts.window, to: other(opts.to), from: other(opts.from) }, signal)
  return r.rows ?? []
}

/** Rows of all workloads of a namespace (ALL: of all). */
export async function workloads(namespace: string, signal?: AbortSignal): Promise<StatRow[]> {
  const lists = await Promise.all(workloadKinds.map((kind) => stat({ kind, namespace, name: ALL }, {}, signal)))
  return lists.flat()
}

export async function edges(namespace: string, signal?: AbortSignal): Promise<Edge[]> {
  const lists = await Promise.all(
    workloadKinds.map((kind) => get<{ edges?: Edge[] }>(`${where({ kind, namespace, name: ALL })}/edges`, {}, signal)),
  )
  const seen = new Map<string, Edge>()
  for (const e of lists.flatMap((l) => l.edges ?? [])) seen.set(`${endKey(e.src)}>${endKey(e.dst)}`, e)
  return [...seen.values()]
}

export async function edgesOf(t: Target, signal?: AbortSignal): Promise<Edge[]> {
  return (await get<{ edges?: Edge[] }>(`${where(t)}/edges`, {}, signal)).edges ?? []
}

export const endKey = (e: EdgeEnd) => `${e.kind}/${e.namespace}/${e.name}`

/** Figures of one row over time; NaN where nothing was measured. */
export interface Series {
  namespace: string
  kind: string
  name: string
  t: number[]
  rps: number[]
  success: number[]
  p50: number[]
  p95: number[]
  p99: number[]
}

export async function why(from: Target, to: Target | undefined, host: string, port: number): Promise<WhyAnswer> {
  const resp = await send(`${base}/why`, {
    method: 'POST',
    headers: { Accept: 'application/json', 'Content-Type': 'application/json' },
    body: JSON.stringify({ from, ...(to ? { to } : { toHost: host }), port }),
  })
  const a = (await resp.json()) as Partial<WhyAnswer>
  return { verdict: a.verdict ?? 'VERDICT_UNSPECIFIED', summary: a.summary ?? '', reasons: a.reasons ?? [] }
}

export interface Sample {
  labels: Record<string, string>
  value: number
}

interface PromAnswer {
  status: string
  error?: string
  data?: { result: { metric: Record<string, string>; value?: [number, string]; values?: [number, string][] }[] }
}

/** An instant query in PromQL; needs the cluster-wide right. */
export async function query(q: string, signal?: AbortSignal): Promise<Sample[]> {
  const r = await get<PromAnswer>(`${base}/prometheus/api/v1/query`, { query: q }, signal)
  return (r.data?.result ?? []).map((x) => ({ labels: x.metric, value: Number(x.value?.[1]) }))
}

export async function queryRange(q: string, seconds: number, step: number, signal?: AbortSignal): Promise<{ labels: Record<string, string>; points: [number, number][] }[]> {
  const end = Math.floor(Date.now() / 1000 / step) * step
  const r = await get<PromAnswer>(`${base}/prometheus/api/v1/query_range`, { query: q, start: end - seconds, end, step }, signal)
  return (r.data?.result ?? []).map((x) => ({ labels: x.metric, points: (x.values ?? []).map(([t, v]) => [t, Number(v)]) }))
}

/** A connection of a pod as it is now; counts are since its begin. */
export interface Connection {
  direction: string
  protocol: string
  local: string
  remote: string
  ageUs: string
  bytesIn: string
  bytesOut: string
  rttUs: string
  retransmits: string
  labels?: Record<string, string>
}

export interface ConnectionRow {
  connection: Connection
  /** NAMESPACE/NAME of the pod at the other end, where it is known. */
  peer: string
}

/** What a pod's sidecar has open, the oldest first, and how many there are. */
export async function connections(namespace: string, pod: string, signal?: AbortSignal): Promise<{ rows: ConnectionRow[]; total: number }> {
  const r = await get<{ rows?: ConnectionRow[]; total: string }>(`${where({ kind: 'pod', namespace, name: pod })}/connections`, {}, signal)
  return { rows: r.rows ?? [], total: Number(r.total) }
}

export interface TapRequest {
  target: Target
  to?: Target
  match: { method?: string; scheme?: string; authority?: string; pathPrefix?: string; direction?: string }
  maxRps: number
}

/** Streams a tap's messages until signal aborts it or the mesh ends it. */
export async function tap(req: TapRequest, on: (m: TapMessage) => void, signal: AbortSignal): Promise<void> {
  const t = req.target
  const path = `${base}/watch/namespaces/${seg(t.kind === 'namespace' ? t.name : t.namespace)}/${plural(t.kind)}/${seg(t.name)}/tap`
  const body: Record<string, unknown> = { match: Object.fromEntries(Object.entries(req.match).filter(([, v]) => v)), maxRps: req.maxRps }
  if (req.to) body.to = { ...req.to, namespace: req.to.kind === 'namespace' ? '' : req.to.namespace }
  const resp = await send(path, { method: 'POST', signal, headers: { Accept: 'application/json', 'Content-Type': 'application/json' }, body: JSON.stringify(body) })
  const reader = resp.body!.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const lines = (rest + value).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (!line) continue
      const m = JSON.parse(line) as TapMessage
      if (m.kind === 'Status') throw new ApiError(503, m.message ?? 'the mesh ended the tap', 'down')
      on(m)
    }
  }
}

interface SeriesAnswer {
  start: number
  step: number
  rows?: { namespace: string; kind: string; name: string; rps: Values; successRate: Values; latencyMsP50: Values; latencyMsP95: Values; latencyMsP99: Values }[]
}

type Values = (number | null)[] | null

/** Figures of each row of stat at each step. */
export async function series(t: Target, window: number, step: number, signal?: AbortSignal): Promise<Series[]> {
  const r = await get<SeriesAnswer>(`${where(t)}/series`, { window, step }, signal)
  const known = (list: Values) => (list ?? []).map((v) => v ?? NaN)
  return (r.rows ?? []).map((x) => {
    const rps = known(x.rps)
    return {
      namespace: x.namespace,
      kind: x.kind,
      name: x.name,
      t: rps.map((_, i) => r.start + i * r.step),
      rps,
      success: known(x.successRate),
      p50: known(x.latencyMsP50),
      p95: known(x.latencyMsP95),
      p99: known(x.latencyMsP99),
    }
  })
}
