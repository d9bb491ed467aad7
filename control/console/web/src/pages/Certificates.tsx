// Who vouches for whom, and until when.
import { useMemo } from 'react'
import { ALL, health, type ProxyHealth } from '../api'
import { duration, type Level, num } from '../format'
import { useLive } from '../live'
import { type Column, Command, Dot, Empty, Failure, Loading, Table, Tile } from '../parts'
import { useCommand, useScope } from '../scope'

const day = 86400
// Those of sidecars live a day and are renewed after 70 % of it.
const leafSoon = 2 * 3600
const authoritySoon = 60 * day

function expiry(unix: string, soon: number): { at: Level; text: string } {
  const t = num(unix)
  if (!t) return { at: 'none', text: 'not known yet' }
  const left = t - Date.now() / 1000
  if (left <= 0) return { at: 'bad', text: `expired ${duration(left)} ago` }
  return { at: left < soon ? 'fair' : 'good', text: `${duration(left)} left` }
}

export function Certificates() {
  const { ns } = useScope()
  const command = useCommand()
  const live = useLive('health', health, 5000)
  const rows = useMemo(() => (live.data?.proxies ?? []).filter((p) => ns === ALL || p.namespace === ns), [live.data, ns])
  if (!live.data) return live.error ? <Failure error={live.error} what="Certificates" again={live.again} /> : <Loading what="certificates" />
  const columns: Column<ProxyHealth>[] = [
    {
      id: 'pod',
      title: 'Pod',
      cell: (p) => (
        <span className="who">
          <Dot at={expiry(p.certificateNotAfterUnix, leafSoon).at} />
          {p.pod}
        </span>
      ),
      sort: (p) => p.pod,
    },
    { id: 'ns', title: 'Namespace', cell: (p) => p.namespace, sort: (p) => p.namespace },
    { id: 'left', title: 'Expires', right: true, cell: (p) => expiry(p.certificateNotAfterUnix, leafSoon).text, sort: (p) => num(p.certificateNotAfterUnix) },
    { id: 'until', title: 'At', right: true, extra: true, cell: (p) => (num(p.certificateNotAfterUnix) ? new Date(num(p.certificateNotAfterUnix) * 1000).toLocaleString() : '–') },
    { id: 'version', title: 'Sidecar', extra: true, cell: (p) => p.version || '–', sort: (p) => p.version },
    { id: 'connected', title: 'Control plane', cell: (p) => (p.connected ? 'connected' : 'not connected'), sort: (p) => Number(p.connected) },
  ]
  return (
    <>
      <div className="tiles">
        {live.data.certificates.map((c) => {
          const e = expiry(c.notAfterUnix, authoritySoon)
          return (
            <Tile
              key={c.name + c.subject + c.notAfterUnix}
              title={c.name[0].toUpperCase() + c.name.slice(1)}
              value={e.text}
              at={e.at}
              sub={
                <>
                  {c.subject}
                  <br />
                  until {new Date(num(c.notAfterUnix) * 1000).toLocaleString()}
                  {e.at !== 'good' && (
                    <>
                      <br />
                      Renew it: docs/certificates.md
                    </>
                  )}
                </>
              }
            />
          )
        })}
      </div>
      <div className="toolbar">
        <Command text={command('identity', ns === ALL ? '' : ns)} />
      </div>
      {rows.length === 0 ? (
        <Empty title="No pod here has a sidecar" command={command('inject app.yaml | kubectl apply -f -', '')}>
          Sidecars get a certificate when they start; it is listed here with its expiry.
        </Empty>
      ) : (
        <section className="panel" aria-label="Certificates of sidecars">
          <div className="head">
            <h2>Sidecars</h2>
            <span className="facts">each lives a day and is renewed by itself</span>
          </div>
          <Table caption="Certificates of sidecars" rows={rows} columns={columns} rowKey={(p) => `${p.namespace}/${p.pod}`} initial={{ id: 'left', down: false }} />
        </section>
      )}
    </>
  )
}
