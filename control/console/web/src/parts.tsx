// The parts that pages are made of.
import { type ReactNode, useEffect, useId, useMemo, useRef, useState } from 'react'
import type { ApiError } from './api'
import { type Level, level, percent } from './format'
import { go } from './router'

export function Icon({ name }: { name: keyof typeof paths }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  )
}

const paths = {
  overview: 'M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z',
  graph: 'M6 8.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM18 8.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM12 20.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM8.5 6h7M7.2 8.2l3.6 7.6M16.8 8.2l-3.6 7.6',
  tap: 'M3 12h4l3-7 4 14 3-7h4',
  top: 'M5 20V10M12 20V4M19 20v-7',
  connections: 'M4 8h13M14 5l3 3-3 3M20 16H7M10 13l-3 3 3 3',
  health: 'M12 20s-7.5-4.6-7.5-10A4.3 4.3 0 0 1 12 7.3 4.3 4.3 0 0 1 19.5 10c0 5.4-7.5 10-7.5 10z',
  certificates: 'M12 3l7 3v5c0 4.6-3 8-7 10-4-2-7-5.4-7-10V6zM9 11.5l2.2 2.2L15.2 9.7',
  why: 'M9.2 9a3 3 0 1 1 4.3 2.7c-1 .5-1.5 1.2-1.5 2.3M12 17.4v.1M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z',
  lock: 'M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z',
  unlock: 'M7 11V8a5 5 0 0 1 9.6-2M6 11h12v9H6z',
  sun: 'M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4',
  moon: 'M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5z',
  auto: 'M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4',
  close: 'M6 6l12 12M18 6L6 18',
  play: 'M7 5l12 7-12 7z',
  stop: 'M6 6h12v12H6z',
  keys: 'M3 7h18v11H3zM7 11h.1M11 11h.1M15 11h.1M8 15h8',
  arrow: 'M5 12h14M13 6l6 6-6 6',
  menu: 'M4 7h16M4 12h16M4 17h16',
} as const

export type IconName = keyof typeof paths

/** A link inside the page. */
export function A({ to, children, className, ...rest }: { to: string; children: ReactNode; className?: string; 'aria-current'?: 'page' | undefined; title?: string }) {
  return (
    <a
      href={to}
      className={className}
      {...rest}
      onClick={(e) => {
        if (e.metaKey || e.ctrlKey || e.shiftKey || e.button !== 0) return
        e.preventDefault()
        go(to)
      }}
    >
      {children}
    </a>
  )
}

/** A success rate with a bar: length, colour and figure say the same. */
export function Success({ value }: { value: number | undefined }) {
  return (
    <span className="success" data-level={level(value)}>
      <span className="bar" aria-hidden="true">
        <svg viewBox="0 0 100 4" preserveAspectRatio="none">
          <rect width={value === undefined ? 0 : Math.max(value * 100, 2)} height="4" />
        </svg>
      </span>
      <span className="figure">{percent(value)}</span>
    </span>
  )
}

export function Dot({ at }: { at: Level }) {
  return <span className="dot" data-level={at} aria-hidden="true" />
}

/** A line without axes. */
export function Spark({ values, label, at = 'none', floor = 0, wide = false }: { values: number[]; label: string; at?: Level; floor?: number; wide?: boolean }) {
  const w = wide ? 240 : 96
  const h = wide ? 44 : 24
  const d = useMemo(() => {
    const known = values.filter((v) => !Number.isNaN(v))
    if (known.length < 2) return undefined
    const top = Math.max(...known, floor + 1e-9)
    const step = w / (values.length - 1)
    let line = ''
    let area = ''
    let open = false
    values.forEach((v, i) => {
      if (Number.isNaN(v)) {
        open = false
        return
      }
      const x = (i * step).toFixed(1)
      const y = (h - 2 - ((v - floor) / (top - floor)) * (h - 4)).toFixed(1)
      line += `${open ? 'L' : 'M'}${x} ${y}`
      area += `${area ? 'L' : 'M'}${x} ${y}`
      open = true
    })
    return { line, area: `${area}L${w} ${h}L0 ${h}Z` }
  }, [values, floor, w, h])
  return (
    <svg className="spark" data-level={at} viewBox={`0 0 ${w} ${h}`} preserveAspectRatio="none" role="img" aria-label={label}>
      {d ? (
        <>
          <path className="area" d={d.area} />
          <path className="line" d={d.line} />
        </>
      ) : (
        <path className="rest" d={`M0 ${h - 2}H${w}`} />
      )}
    </svg>
  )
}

/** Nothing to show, and what to do about it. */
export function Empty({ title, children, command }: { title: string; children?: ReactNode; command?: string }) {
  return (
    <div className="empty">
      <svg viewBox="0 0 96 56" aria-hidden="true">
        <path d="M18 28h60M18 28l30-16M18 28l30 16M78 28L48 12M78 28L48 44" />
        <circle cx="18" cy="28" r="8" />
        <circle cx="78" cy="28" r="8" />
        <circle cx="48" cy="12" r="6" />
        <circle cx="48" cy="44" r="6" />
      </svg>
      <h2>{title}</h2>
      {children && <p>{children}</p>}
      {command && <Command text={command} />}
    </div>
  )
}

/** An error, by what it means. */
export function Failure({ error, what, again }: { error: ApiError; what: string; again?: () => void }) {
  const titles: Record<ApiError['reason'], string> = {
    down: `${what}: the mesh does not answer`,
    forbidden: `${what}: you may not see this`,
    unauthorized: 'This browser is not let in',
    gone: `${what}: this mesh does not serve it`,
    absent: `${what}: there is no such thing`,
    refused: `${what}: the question was refused`,
  }
  const hints: Partial<Record<ApiError['reason'], ReactNode>> = {
    down: 'It is asked again every few seconds; what comes back appears by itself. meshctl check says what is wrong.',
    forbidden: 'Ask who runs the cluster for the role named above, or choose a namespace that you may see at the top.',
    unauthorized: 'Run meshctl dashboard again and open the link that it prints.',
    gone: 'The control plane is older than this page, or built without it: upgrade it with meshctl upgrade.',
  }
  return (
    <div className="empty failure" role="alert">
      <h2>{titles[error.reason]}</h2>
      <p className="message">{error.message}</p>
      {hints[error.reason] && <p>{hints[error.reason]}</p>}
      {again && (
        <button type="button" onClick={again}>
          Ask again
        </button>
      )}
    </div>
  )
}

export function Loading({ what }: { what: string }) {
  return (
    <div className="loading" role="status">
      <span className="sr">Loading {what}</span>
      <i />
      <i />
      <i />
    </div>
  )
}

/** The command that shows the same in a terminal. */
export function Command({ text }: { text: string }) {
  const [copied, setCopied] = useState(false)
  useEffect(() => {
    if (!copied) return
    const t = setTimeout(() => setCopied(false), 1500)
    return () => clearTimeout(t)
  }, [copied])
  return (
    <div className="command">
      <span aria-hidden="true">$</span>
      <code>{text}</code>
      <button
        type="button"
        className="plain"
        aria-label="Copy the command"
        title="Copy the command"
        onClick={() =>
          void navigator.clipboard
            ?.writeText(text)
            .then(() => setCopied(true))
            .catch(() => setCopied(false))
        }
      >
        {copied ? 'copied' : <Icon name="copy" />}
      </button>
    </div>
  )
}

export interface Column<R> {
  id: string
  title: string
  /** Of small screens: left out there. */
  extra?: boolean
  right?: boolean
  /** In percent: tables that stand below each other have their columns below each other. */
  width?: number
  cell: (r: R) => ReactNode
  sort?: (r: R) => number | string
}

/** A table whose columns sort; rows may lead somewhere. On small screens each row
 * is a card. */
export function Table<R>(p: {
  caption: string
  rows: R[]
  columns: Column<R>[]
  rowKey: (r: R) => string
  initial?: { id: string; down: boolean }
  onRow?: (r: R) => void
  limit?: number
}) {
  const [by, setBy] = useState(p.initial)
  const [limit, setLimit] = useState(p.limit ?? 250)
  const sorted = useMemo(() => {
    const c = p.columns.find((x) => x.id === by?.id)
    if (!c?.sort || !by) return p.rows
    const f = c.sort
    const sign = by.down ? -1 : 1
    return [...p.rows].sort((a, b) => {
      const x = f(a)
      const y = f(b)
      return sign * (typeof x === 'number' && typeof y === 'number' ? (Number.isNaN(x) ? -Infinity : x) - (Number.isNaN(y) ? -Infinity : y) : String(x).localeCompare(String(y)))
    })
  }, [p.rows, p.columns, by])
  const fixed = p.columns.some((c) => c.width)
  return (
    <div className="tablewrap">
      <table className={fixed ? 'cards fixed' : 'cards'}>
        <caption className="sr">{p.caption}</caption>
        {fixed && (
          <colgroup>
            {p.columns.map((c) => (
              <col key={c.id} className={c.extra ? 'extra' : undefined} style={{ width: `${c.width}%` }} />
            ))}
          </colgroup>
        )}
        <thead>
          <tr>
            {p.columns.map((c) => (
              <th
                key={c.id}
                scope="col"
                className={`${c.right ? 'right' : ''} ${c.extra ? 'extra' : ''}`}
                aria-sort={by?.id === c.id ? (by.down ? 'descending' : 'ascending') : undefined}
              >
                {c.sort ? (
                  <button type="button" className="plain" onClick={() => setBy({ id: c.id, down: by?.id === c.id ? !by.down : !!c.right })}>
                    {c.title}
                    <span className="mark" aria-hidden="true">
                      {by?.id === c.id ? (by.down ? '▾' : '▴') : ''}
                    </span>
                  </button>
                ) : (
                  c.title
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, limit).map((r) => (
            <tr key={p.rowKey(r)} className={p.onRow ? 'leads' : undefined} onClick={p.onRow && ((e) => !(e.target as Element).closest('a,button') && p.onRow!(r))}>
              {p.columns.map((c) => (
                <td key={c.id} data-title={c.title} className={`${c.right ? 'right' : ''} ${c.extra ? 'extra' : ''}`}>
                  {c.cell(r)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > limit && (
        <button type="button" className="more" onClick={() => setLimit(limit + 500)}>
          Show {Math.min(500, sorted.length - limit)} more of {sorted.length}
        </button>
      )}
    </div>
  )
}

export function Field({ label, children, hint }: { label: string; children: (id: string) => ReactNode; hint?: string }) {
  const id = useId()
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {hint && <small>{hint}</small>}
    </div>
  )
}

export function Tile({ title, value, sub, children, at = 'none' }: { title: string; value: ReactNode; sub?: ReactNode; children?: ReactNode; at?: Level }) {
  return (
    <section className="tile" data-level={at}>
      <h2>{title}</h2>
      <div className="value">{value}</div>
      {sub && <div className="sub">{sub}</div>}
      {children}
    </section>
  )
}

/** Text that filters, kept short of a keystroke's worth of work. */
export function Search({ value, onChange, label }: { value: string; onChange: (v: string) => void; label: string }) {
  const ref = useRef<HTMLInputElement>(null)
  return (
    <div className="search">
      <Icon name="search" />
      <input ref={ref} type="search" value={value} aria-label={label} placeholder={label} data-search onChange={(e) => onChange(e.target.value)} />
      <kbd aria-hidden="true">/</kbd>
    </div>
  )
}

/** mTLS as a lock with a word for those who do not see it. */
export function Lock({ secure, reason }: { secure: boolean; reason?: string }) {
  const text = secure ? 'mTLS' : `not mTLS${reason ? `: ${reason.replaceAll('_', ' ')}` : ''}`
  return (
    <span className="lock" data-secure={secure} title={text}>
      <Icon name={secure ? 'lock' : 'unlock'} />
      <span className="sr">{text}</span>
    </span>
  )
}
