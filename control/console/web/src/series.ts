// The history that the mesh keeps, where it keeps one: sparklines and charts begin
// with it instead of with the moment at which the page was opened.
import { useEffect } from 'react'
import { ALL, type Series, series, workloadKinds } from './api'
import { type Point, recall } from './live'

const asked = new Map<string, number>()

function points(s: Series): Point[] {
  // The last step may not be known yet; a step before without requests is one without.
  let n = s.t.length
  while (n > 0 && Number.isNaN(s.rps[n - 1])) n--
  return s.t.slice(0, n).map((t, i) => ({ t: t * 1000, rps: s.rps[i] || 0, success: s.success[i], p50: s.p50[i], p95: s.p95[i], p99: s.p99[i] }))
}

/** Recalls the last minutes of all workloads of a namespace, or of one. */
export function useHistory(ns: string, kind?: string, name: string = ALL, window = 900, step = 15) {
  useEffect(() => {
    const key = `${ns}/${kind}/${name}/${window}`
    if (Date.now() - (asked.get(key) ?? 0) < 60_000) return
    asked.set(key, Date.now())
    const c = new AbortController()
    for (const k of kind ? [kind] : workloadKinds) {
      series({ kind: k, namespace: ns, name }, window, step, c.signal).then(
        (list) => {
          for (const s of list) recall(`${s.kind}/${s.namespace}/${s.name}`, points(s))
        },
        () => asked.delete(key), // no history is no error: the page says since when it knows
      )
    }
    return () => c.abort()
  }, [ns, kind, name, window, step])
}
