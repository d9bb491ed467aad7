// Answers that stay fresh. Each question has one poller however many ask it; an
// answer stays on the screen while the mesh is away, and the screen says so.
import { useEffect, useSyncExternalStore } from 'react'
import { ApiError, type StatRow } from './api'
import { num, successRate } from './format'

export interface Live<T> {
  data?: T
  error?: ApiError
  /** When data came, ms. */
  at?: number
}

class Poller<T> {
  state: Live<T> = {}
  private watchers = new Set<() => void>()
  private timer?: ReturnType<typeof setTimeout>
  private running?: AbortController

  constructor(
    private ask: (signal: AbortSignal) => Promise<T>,
    private period: number,
  ) {}

  subscribe = (f: () => void) => {
    this.watchers.add(f)
    if (this.watchers.size === 1) this.next(0)
    return () => {
      this.watchers.delete(f)
      if (this.watchers.size === 0) {
        clearTimeout(this.timer)
        this.timer = undefined
        this.running?.abort()
        this.running = undefined
      }
    }
  }

  now = () => this.next(0)

  private next(ms: number) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => void this.turn(), ms)
  }

  private async turn() {
    if (document.hidden && this.state.data) return this.next(1000)
    this.running?.abort()
    const c = (this.running = new AbortController())
    const limit = setTimeout(() => c.abort(), 15_000)
    try {
      const data = await this.ask(c.signal)
      if (this.running !== c) return
      this.set({ data, at: Date.now() })
    } catch (e) {
      if (this.running !== c) return
      const error = e instanceof ApiError ? e : new ApiError(0, c.signal.aborted ? 'The mesh did not answer in time.' : String(e), 'down')
      this.set({ ...this.state, error })
    } finally {
      clearTimeout(limit)
    }
    // What is not served or not allowed may be so later, but not in a moment.
    const r = this.state.error?.reason
    this.next(r === 'gone' || r === 'forbidden' ? this.period * 10 : this.period)
  }

  private set(s: Live<T>) {
    this.state = s
    for (const f of this.watchers) f()
  }
}

const pollers = new Map<string, Poller<unknown>>()
const maxPollers = 64

export function useLive<T>(key: string, ask: (signal: AbortSignal) => Promise<T>, period = 3000): Live<T> & { again: () => void } {
  let p = pollers.get(key) as Poller<T> | undefined
  if (!p) {
    if (pollers.size >= maxPollers) pollers.delete(pollers.keys().next().value!)
    p = new Poller(ask, period)
    pollers.set(key, p as Poller<unknown>)
  }
  const state = useSyncExternalStore(p.subscribe, () => p.state)
  return { ...state, again: p.now }
}

/** A moment of a row. */
export interface Point {
  t: number
  rps: number
  success: number
  p50: number
  p95: number
  p99: number
}

// What was seen of each row since the page was opened: sparklines, where the mesh
// keeps no history or has not told it yet.
const maxPoints = 240
const maxRows = 4000
const seen = new Map<string, Point[]>()
const changed = new EventTarget()

export const rowKey = (r: { kind: string; namespace: string; name: string }) => `${r.kind}/${r.namespace}/${r.name}`

export function remember(rows: StatRow[], at: number) {
  for (const r of rows) {
    const key = rowKey(r)
    let list = seen.get(key)
    if (!list) {
      if (seen.size >= maxRows) continue
      seen.set(key, (list = []))
    }
    const last = list[list.length - 1]
    if (last && at - last.t < 1000) continue
    list.push({ t: at, rps: r.hasTraffic ? r.rps : 0, success: successRate(r) ?? NaN, p50: r.latencyMsP50, p95: r.latencyMsP95, p99: r.latencyMsP99 })
    if (list.length > maxPoints) list.shift()
  }
  changed.dispatchEvent(new Event('changed'))
}

/** Puts what the mesh kept before what was seen. */
export function recall(key: string, points: Point[]) {
  const list = seen.get(key) ?? []
  const first = list[0]?.t ?? Infinity
  const old = points.filter((p) => p.t < first - 1000)
  if (old.length) seen.set(key, [...old, ...list].slice(-maxPoints))
}

const none: Point[] = []
export const history = (key: string): Point[] => seen.get(key) ?? none

export function useRemembered(rows: StatRow[] | undefined, at: number | undefined) {
  useEffect(() => {
    if (rows && at) remember(rows, at)
  }, [rows, at])
}

export const total = (rows: StatRow[]) => rows.reduce((n, r) => n + num(r.successCount) + num(r.failureCount), 0)
