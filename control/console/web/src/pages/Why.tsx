// What would happen to a connection, in sentences.
import { useMemo, useState } from 'react'
import { ALL, ApiError, stat, type Target, why, type WhyAnswer, workloads } from '../api'
import { num, short, word } from '../format'
import { useLive } from '../live'
import { Command, Empty, Failure, Field } from '../parts'
import { setParams, useLocation } from '../router'
import { useCommand, useScope } from '../scope'

const ends = { WORKS: 'good', DEGRADED: 'fair', FAILS: 'bad', VERDICT_UNSPECIFIED: 'none' } as const
const marks = { OK: 'good', NOTE: 'fair', BAD: 'bad', MARK_UNSPECIFIED: 'none' } as const
const glyphs = { OK: '√', NOTE: '‼', BAD: '×', MARK_UNSPECIFIED: '·' } as const
const titles = { WORKS: 'It works', DEGRADED: 'It works now and then', FAILS: 'It fails', VERDICT_UNSPECIFIED: 'Nobody can tell' } as const

const parse = (s: string): Target | undefined => {
  const [kind, namespace, name] = s.split('/')
  return name ? { kind, namespace, name } : undefined
}

export function Why() {
  const { ns } = useScope()
  const command = useCommand()
  const p = useLocation().searchParams
  const from = p.get('from') ?? ''
  const to = p.get('to') ?? ''
  const port = p.get('port') ?? ''
  const known = useLive(`workloads/${ns}`, (s) => workloads(ns, s))
  const services = useLive(`services/${ns}`, (s) => stat({ kind: 'service', namespace: ALL, name: ALL }, {}, s).catch(() => stat({ kind: 'service', namespace: ns, name: ALL }, {}, s)), 10000)
  const [answer, setAnswer] = useState<WhyAnswer>()
  const [error, setError] = useState<ApiError>()
  const [asking, setAsking] = useState(false)
  const options = useMemo(() => (known.data ?? []).map((r) => ({ value: `${r.kind}/${r.namespace}/${r.name}`, text: `${short(r.kind)}/${r.name} (${r.namespace})` })), [known.data])
  const names = useMemo(() => (services.data ?? []).map((r) => `svc/${r.namespace}/${r.name}`), [services.data])

  const a = parse(from)
  const m = /^svc\/([^/]+)\/([^/]+)$/.exec(to)
  const target = m ? { kind: 'service', namespace: m[1], name: m[2] } : undefined
  const line = a && to ? command(`why ${short(a.kind)}/${word(a.name)} ${target ? `svc/${word(target.name)}${target.namespace !== a.namespace ? ` --to-namespace ${word(target.namespace)}` : ''}` : word(to)}${port ? ` --port ${word(port)}` : ''}`, a.namespace) : undefined
  const ask = async () => {
    if (!a || !to) return
    setAsking(true)
    setError(undefined)
    setAnswer(undefined)
    try {
      setAnswer(await why(a, target, to, num(port)))
    } catch (e) {
      setError(e instanceof ApiError ? e : new ApiError(0, String(e), 'down'))
    } finally {
      setAsking(false)
    }
  }
  return (
    <>
      <form
        className="panel form few"
        onSubmit={(e) => {
          e.preventDefault()
          void ask()
        }}
      >
        <Field label="From">
          {(id) => (
            <select id={id} value={from} onChange={(e) => setParams({ from: e.target.value })} required>
              <option value="">choose</option>
              {from && !options.some((o) => o.value === from) && <option value={from}>{from}</option>}
              {options.map((o) => (
                <option key={o.value} value={o.value}>
                  {o.text}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="To" hint="svc/NAMESPACE/NAME, a host name or an address">
          {(id) => (
            <>
              <input id={id} data-search value={to} onChange={(e) => setParams({ to: e.target.value })} list="services" placeholder="svc/emojivoto/voting-svc" required />
              <datalist id="services">
                {names.map((n) => (
                  <option key={n} value={n} />
                ))}
              </datalist>
            </>
          )}
        </Field>
        <Field label="Port" hint="empty: the only one">
          {(id) => <input id={id} type="number" min={1} max={65535} value={port} onChange={(e) => setParams({ port: e.target.value })} />}
        </Field>
        <button type="submit" className="primary" disabled={!a || !to || asking}>
          {asking ? 'Asking…' : 'Ask'}
        </button>
      </form>
      {line && (
        <div className="toolbar">
          <Command text={line} />
        </div>
      )}
      {error && <Failure error={error} what="Why" again={() => void ask()} />}
      {answer ? (
        <section className="panel" aria-label="The answer" aria-live="polite">
          <div className="verdict" data-level={ends[answer.verdict]}>
            <strong>{titles[answer.verdict]}</strong>
            <p>{answer.summary}</p>
          </div>
          <ul className="checks">
            {answer.reasons.map((r, i) => (
              <li key={i} data-level={marks[r.mark]}>
                <span className="glyph" aria-hidden="true">
                  {glyphs[r.mark]}
                </span>
                <div>
                  <b>{r.subject}</b> {r.text}
                </div>
              </li>
            ))}
          </ul>
        </section>
      ) : (
        !error && <Empty title="Would this connection work?">Choose who connects and to what: the mesh says what it would do, step by step: the name, the Service, its endpoints, the policy, the identities, and the last failures.</Empty>
      )}
    </>
  )
}
