// Where a person is: the address bar says it all, so every view can be linked to.
import { useSyncExternalStore } from 'react'

const moved = new EventTarget()

function subscribe(f: () => void) {
  window.addEventListener('popstate', f)
  moved.addEventListener('moved', f)
  return () => {
    window.removeEventListener('popstate', f)
    moved.removeEventListener('moved', f)
  }
}

/** The path and query now. */
export function useLocation(): URL {
  const href = useSyncExternalStore(subscribe, () => window.location.href)
  return new URL(href)
}

export function go(to: string, opts: { replace?: boolean } = {}) {
  if (opts.replace) window.history.replaceState(null, '', to)
  else window.history.pushState(null, '', to)
  moved.dispatchEvent(new Event('moved'))
}

/** Changes parameters of the address and leaves the rest. */
export function setParams(change: Record<string, string | undefined>, opts: { replace?: boolean } = { replace: true }) {
  const u = new URL(window.location.href)
  for (const [k, v] of Object.entries(change)) {
    if (v) u.searchParams.set(k, v)
    else u.searchParams.delete(k)
  }
  go(u.pathname + u.search, opts)
}

/** A link to a page that keeps the namespace that is looked at. */
export function link(path: string, params: Record<string, string | undefined> = {}): string {
  const q = new URLSearchParams()
  const ns = new URLSearchParams(window.location.search).get('ns')
  if (ns) q.set('ns', ns)
  for (const [k, v] of Object.entries(params)) {
    if (v) q.set(k, v)
    else q.delete(k)
  }
  return q.size ? `${path}?${q}` : path
}
