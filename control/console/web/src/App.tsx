// The frame around the pages: where to go, which namespace, light or dark, whether
// the mesh answers, and the keys.
import { type ReactNode, lazy, Suspense, useEffect, useMemo, useRef, useState } from 'react'
import { ALL, ApiError, type Session, session, stat } from './api'
import { clock } from './format'
import { useLive } from './live'
import { A, Failure, Icon, type IconName, Loading } from './parts'
import { go, link, setParams, useLocation } from './router'
import { ScopeContext } from './scope'
import { Overview } from './pages/Overview'
import { Workload } from './pages/Workload'
import { Tap } from './pages/Tap'
import { Connections } from './pages/Connections'
import { Health } from './pages/Health'
import { Certificates } from './pages/Certificates'
import { Why } from './pages/Why'

const Graph = lazy(() => import('./pages/Graph'))

interface Place {
  path: string
  title: string
  icon: IconName
  key: string
  page: () => ReactNode
}

const places: Place[] = [
  { path: '/', title: 'Overview', icon: 'overview', key: 'o', page: () => <Overview /> },
  { path: '/graph', title: 'Topology', icon: 'graph', key: 'g', page: () => <Graph /> },
  { path: '/tap', title: 'Tap', icon: 'tap', key: 't', page: () => <Tap key="tap" mode="tap" /> },
  { path: '/top', title: 'Top', icon: 'top', key: 'p', page: () => <Tap key="top" mode="top" /> },
  { path: '/connections', title: 'Connections', icon: 'connections', key: 'c', page: () => <Connections /> },
  { path: '/health', title: 'Health', icon: 'health', key: 'h', page: () => <Health /> },
  { path: '/certificates', title: 'Certificates', icon: 'certificates', key: 'e', page: () => <Certificates /> },
  { path: '/why', title: 'Why', icon: 'why', key: 'w', page: () => <Why /> },
]

type Theme = 'auto' | 'light' | 'dark'

function useTheme(): [Theme, (t: Theme) => void] {
  const [theme, setTheme] = useState<Theme>(() => {
    const t = localStorage.getItem('tunmesh.theme')
    return t === 'light' || t === 'dark' ? t : 'auto'
  })
  useEffect(() => {
    const dark = matchMedia('(prefers-color-scheme: dark)')
    const apply = () => {
      document.documentElement.dataset.theme = theme === 'auto' ? (dark.matches ? 'dark' : 'light') : theme
    }
    apply()
    localStorage.setItem('tunmesh.theme', theme)
    dark.addEventListener('change', apply)
    return () => dark.removeEventListener('change', apply)
  }, [theme])
  return [theme, setTheme]
}

export function App() {
  const [who, setWho] = useState<Session>()
  const [error, setError] = useState<ApiError>()
  const [tries, setTries] = useState(0)
  useEffect(() => {
    let over = false
    let timer: ReturnType<typeof setTimeout>
    session().then(
      (s) => !over && (setWho(s), setError(undefined)),
      (e) => {
        if (over) return
        setError(e instanceof ApiError ? e : new ApiError(0, String(e), 'down'))
        timer = setTimeout(() => setTries((n) => n + 1), 3000)
      },
    )
    return () => {
      over = true
      clearTimeout(timer)
    }
  }, [tries])
  const [theme, setTheme] = useTheme()
  if (!who) return <main className="alone">{error ? <Failure error={error} what="The console" again={() => setTries(tries + 1)} /> : <Loading what="the console" />}</main>
  return <Frame who={who} theme={theme} setTheme={setTheme} />
}

function Frame({ who, theme, setTheme }: { who: Session; theme: Theme; setTheme: (t: Theme) => void }) {
  const here = useLocation()
  const ns = here.searchParams.get('ns') || ALL
  const scope = useMemo(() => ({ session: who, ns }), [who, ns])
  const [keys, setKeys] = useState(false)
  const [menu, setMenu] = useState(false)
  const main = useRef<HTMLElement>(null)

  const workload = /^\/ns\/([^/]+)\/(deployment|statefulset|daemonset)\/([^/]+)$/.exec(here.pathname)
  const place = places.find((p) => p.path === here.pathname)
  const title = workload ? decodeURIComponent(workload[3]) : (place?.title ?? 'Not found')
  useEffect(() => {
    document.title = `${title} · Tunmesh`
  }, [title])
  useEffect(() => {
    setMenu(false)
  }, [here.pathname])
  useKeys(setKeys)

  return (
    <ScopeContext.Provider value={scope}>
      <a className="skip" href="#main" onClick={(e) => (e.preventDefault(), main.current?.focus())}>
        Skip to the page
      </a>
      <div className="frame">
        <header className="side" data-open={menu}>
          <A to={link('/')} className="brand">
            <svg viewBox="0 0 32 32" aria-hidden="true">
              <rect width="32" height="32" rx="8" />
              <path d="M12 10h8M10.6 12.6l4 7.6M21.4 12.6l-4 7.6M12 10a3 3 0 1 1-6 0 3 3 0 0 1 6 0zM26 10a3 3 0 1 1-6 0 3 3 0 0 1 6 0zM19 23a3 3 0 1 1-6 0 3 3 0 0 1 6 0z" />
            </svg>
            Tunmesh
          </A>
          <button type="button" className="plain burger" aria-expanded={menu} aria-controls="nav" aria-label="Menu" onClick={() => setMenu(!menu)}>
            <Icon name={menu ? 'close' : 'menu'} />
          </button>
          <nav id="nav" aria-label="Pages">
            {places.map((p) => (
              <A key={p.path} to={link(p.path)} aria-current={place === p || (p.path === '/' && workload) ? 'page' : undefined} title={`${p.title} (g ${p.key})`}>
                <Icon name={p.icon} />
                <span>{p.title}</span>
              </A>
            ))}
          </nav>
          <div className="foot">
            <div className="mesh" title={who.mesh}>
              <span className="label">{who.local ? 'Local mesh' : 'Cluster'}</span>
              <span>{who.local ? who.mesh.replace(/^local mesh /, '') : who.mesh.replace(/^https?:\/\//, '')}</span>
            </div>
            <div className="tools">
              <button type="button" className="plain" aria-label={`Theme: ${theme}`} title={`Theme: ${theme}`} onClick={() => setTheme(theme === 'auto' ? 'light' : theme === 'light' ? 'dark' : 'auto')}>
                <Icon name={theme === 'auto' ? 'auto' : theme === 'light' ? 'sun' : 'moon'} />
              </button>
              <button type="button" className="plain" aria-label="Keys" title="Keys (?)" onClick={() => setKeys(true)}>
                <Icon name="keys" />
              </button>
              <a className="notices" href="/assets/notices.txt" target="_blank" rel="noreferrer">
                Notices
              </a>
            </div>
          </div>
        </header>
        <div className="body">
          <Bar title={title} ns={ns} fallback={who.namespace} kind={workload ? workload[2] : undefined} />
          <main id="main" ref={main} tabIndex={-1}>
            <Suspense fallback={<Loading what={title} />}>
              {workload ? (
                <Workload key={here.pathname} namespace={decodeURIComponent(workload[1])} kind={workload[2]} name={decodeURIComponent(workload[3])} />
              ) : place ? (
                place.page()
              ) : (
                <div className="empty">
                  <h2>There is no such page</h2>
                  <p>
                    <A to="/">Go to the overview</A>
                  </p>
                </div>
              )}
            </Suspense>
          </main>
        </div>
      </div>
      {keys && <Keys close={() => setKeys(false)} />}
    </ScopeContext.Provider>
  )
}

/** The title, the namespace, and whether what is shown is now. */
function Bar({ title, ns, fallback, kind }: { title: string; ns: string; fallback: string; kind?: string }) {
  const namespaces = useLive('namespaces', (s) => stat({ kind: 'namespace', namespace: ALL, name: ALL }, {}, s), 5000)
  const names = useMemo(() => {
    const set = new Set((namespaces.data ?? []).map((r) => r.name))
    if (ns !== ALL) set.add(ns)
    if (fallback) set.add(fallback)
    return [...set].sort()
  }, [namespaces.data, ns, fallback])
  // Who may not see all is shown what his kubeconfig means.
  const refused = namespaces.error?.reason === 'forbidden' && !new URLSearchParams(window.location.search).has('ns')
  useEffect(() => {
    if (refused && fallback) setParams({ ns: fallback })
  }, [refused, fallback])
  const down = namespaces.error?.reason === 'down' ? namespaces.error : undefined
  return (
    <div className="top">
      <div className="bar">
        <h1>
          {title}
          {kind && <small>{kind}</small>}
        </h1>
        {!kind && (
          <label className="ns">
            <span>Namespace</span>
            <select value={ns} onChange={(e) => setParams({ ns: e.target.value === ALL ? undefined : e.target.value }, { replace: false })}>
              <option value={ALL}>All</option>
              {names.map((n) => (
                <option key={n} value={n}>
                  {n}
                </option>
              ))}
            </select>
          </label>
        )}
        <span className="pulse" data-on={!down} role="status">
          {down ? 'away' : 'live'}
        </span>
      </div>
      {down && (
        <div className="banner" role="alert">
          <strong>The mesh does not answer.</strong> {namespaces.at ? `What is shown is of ${clock(namespaces.at)}. ` : ''}It is asked again every few seconds. <span className="message">{down.message}</span>
        </div>
      )}
    </div>
  )
}

/** g and a letter goes to a page; / searches; ? tells. */
function useKeys(show: (on: boolean) => void) {
  useEffect(() => {
    let before = ''
    let timer: ReturnType<typeof setTimeout>
    const on = (e: KeyboardEvent) => {
      if (e.metaKey || e.ctrlKey || e.altKey) return
      const at = e.target as HTMLElement
      const typing = at.matches('input, select, textarea')
      if (e.key === 'Escape') {
        show(false)
        if (typing) at.blur()
        return
      }
      if (typing) return
      if (before === 'g') {
        before = ''
        const p = places.find((x) => x.key === e.key)
        if (p) {
          e.preventDefault()
          go(link(p.path))
        }
        return
      }
      if (e.key === 'g') {
        before = 'g'
        clearTimeout(timer)
        timer = setTimeout(() => (before = ''), 1200)
      } else if (e.key === '/') {
        const s = document.querySelector<HTMLElement>('[data-search]')
        if (s) {
          e.preventDefault()
          s.focus()
        }
      } else if (e.key === '?') show(true)
    }
    window.addEventListener('keydown', on)
    return () => {
      clearTimeout(timer)
      window.removeEventListener('keydown', on)
    }
  }, [show])
}

function Keys({ close }: { close: () => void }) {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => ref.current?.showModal(), [])
  return (
    <dialog ref={ref} aria-label="Keys" onClose={close} onClick={(e) => e.target === ref.current && close()}>
      <h2>Keys</h2>
      <dl>
        {places.map((p) => (
          <div key={p.path}>
            <dt>
              <kbd>g</kbd> <kbd>{p.key}</kbd>
            </dt>
            <dd>{p.title}</dd>
          </div>
        ))}
        <div>
          <dt>
            <kbd>/</kbd>
          </dt>
          <dd>Search</dd>
        </div>
        <div>
          <dt>
            <kbd>?</kbd>
          </dt>
          <dd>This list</dd>
        </div>
        <div>
          <dt>
            <kbd>Esc</kbd>
          </dt>
          <dd>Close, or leave a field</dd>
        </div>
      </dl>
      <button type="button" onClick={close}>
        Close
      </button>
    </dialog>
  )
}
