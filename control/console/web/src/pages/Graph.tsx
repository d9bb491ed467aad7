// Who talks to whom.
import {
  Background,
  BaseEdge,
  Controls,
  type Edge as FlowEdge,
  EdgeLabelRenderer,
  type EdgeProps,
  getBezierPath,
  Handle,
  MarkerType,
  MiniMap,
  type Node,
  type NodeProps,
  Position,
  ReactFlow,
  ReactFlowProvider,
  useReactFlow,
} from '@xyflow/react'
import '@xyflow/react/dist/style.css'
import { memo, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react'
import { ALL, type Edge, type EdgeEnd, edges as askEdges, endKey, type StatRow, workloads } from '../api'
import { bytes, level, type Level, ms, num, percent, rate, successRate } from '../format'
import { rowKey, useLive, useRemembered } from '../live'
import { layout, type Placed, type Point, prepare } from '../layout'
import { A, type Column, Command, Dot, Empty, Failure, Icon, Loading, Lock, Success, Table } from '../parts'
import { go, link, setParams, useLocation } from '../router'
import { useCommand, useScope } from '../scope'
import { pageOf } from './Overview'

// From how many workloads on namespaces are folded unless a person wants it else.
const many = 60

interface Vertex {
  id: string
  title: string
  sub: string
  group?: string
  end?: EdgeEnd
  namespace?: string // a folded one
  rps: number
  ok: number | undefined
  meshed: boolean
}

interface Link {
  id: string
  from: string
  to: string
  list: Edge[]
  rps: number
  ok: number | undefined
  p99: number
  secure: boolean
  open: number
}

type Grouping = 'namespace' | 'folded' | 'none'

/** The graph that a view of the mesh shows. */
function draw(rows: StatRow[], edges: Edge[], grouping: Grouping, quiet: boolean): { vertices: Vertex[]; links: Link[] } {
  const busy = new Set(edges.flatMap((e) => [endKey(e.src), endKey(e.dst)]))
  const vertices = new Map<string, Vertex>()
  const idOf = (e: EdgeEnd) => (grouping === 'folded' ? `ns/${e.namespace}` : endKey(e))
  const byNamespace = new Map<string, StatRow[]>()
  for (const r of rows) {
    byNamespace.set(r.namespace, [...(byNamespace.get(r.namespace) ?? []), r])
    if (grouping === 'folded' || (!quiet && !busy.has(rowKey(r)))) continue
    vertices.set(rowKey(r), {
      id: rowKey(r), title: r.name, sub: grouping === 'namespace' ? r.kind : r.namespace, group: grouping === 'namespace' ? `ns/${r.namespace}` : undefined,
      end: r, rps: r.hasTraffic ? r.rps : 0, ok: r.hasTraffic ? successRate(r) : undefined, meshed: r.meshedPods > 0,
    })
  }
  if (grouping === 'folded')
    for (const [ns, list] of byNamespace) {
      const ok = list.reduce((n, r) => n + num(r.successCount), 0)
      const bad = list.reduce((n, r) => n + num(r.failureCount), 0)
      vertices.set(`ns/${ns}`, { id: `ns/${ns}`, title: ns, sub: `${list.length} workload${list.length === 1 ? '' : 's'}`, namespace: ns, rps: list.reduce((n, r) => n + (r.hasTraffic ? r.rps : 0), 0), ok: ok + bad ? ok / (ok + bad) : undefined, meshed: list.some((r) => r.meshedPods > 0) })
    }
  for (const e of edges.flatMap((x) => [x.src, x.dst])) {
    if (vertices.has(idOf(e))) continue // else it is of a namespace that is not looked at, or outside of the mesh
    vertices.set(idOf(e), grouping === 'folded' ? { id: idOf(e), title: e.namespace || 'outside', sub: 'elsewhere', namespace: e.namespace, rps: 0, ok: undefined, meshed: true } : { id: idOf(e), title: e.name || 'outside', sub: e.namespace || e.kind, group: grouping === 'namespace' && e.namespace ? `ns/${e.namespace}` : undefined, end: e, rps: 0, ok: undefined, meshed: true })
  }
  const links = new Map<string, Link>()
  for (const e of edges) {
    const from = idOf(e.src)
    const to = idOf(e.dst)
    if (grouping === 'folded' && from === to) continue
    const id = `${from}>${to}`
    const l = links.get(id) ?? { id, from, to, list: [], rps: 0, ok: undefined, p99: 0, secure: true, open: 0 }
    l.list.push(e)
    l.rps += e.rps
    l.p99 = Math.max(l.p99, e.latencyMsP99)
    l.secure &&= !e.noTlsReason
    l.open += num(e.tcpOpenConnections)
    links.set(id, l)
  }
  for (const l of links.values()) {
    const ok = l.list.reduce((n, e) => n + num(e.successCount), 0)
    const bad = l.list.reduce((n, e) => n + num(e.failureCount), 0)
    l.ok = ok + bad ? ok / (ok + bad) : undefined
  }
  return { vertices: [...vertices.values()], links: [...links.values()] }
}

const size = { width: 196, height: 62 }

const Card = memo(({ data, selected }: NodeProps<Node<{ v: Vertex; dim: boolean; down: boolean }>>) => {
  const { v } = data
  return (
    <div className="vertex" data-level={level(v.ok)} data-selected={selected} data-dim={data.dim} data-meshed={v.meshed}>
      <Handle type="target" position={data.down ? Position.Top : Position.Left} isConnectable={false} />
      <span className="title">
        <Dot at={level(v.ok)} />
        {v.title}
      </span>
      <span className="line">
        <span>{v.sub}</span>
        <span>{v.ok === undefined ? (v.meshed ? '' : 'no sidecar') : `${rate(v.rps)} rps · ${percent(v.ok)}`}</span>
      </span>
      <Handle type="source" position={data.down ? Position.Bottom : Position.Right} isConnectable={false} />
    </div>
  )
})

const Group = memo(({ data }: NodeProps<Node<{ name: string }>>) => <div className="vgroup">{data.name}</div>)

const stroke = (l: Level) => `var(--${l === 'none' ? 'faint' : l})`

/** A path along points with round corners, and the middle of its longest part. */
function along(points: Point[]): [string, number, number] {
  let path = `M${points[0].x} ${points[0].y}`
  let longest = -1
  let middle = points[0]
  points.slice(1).forEach((to, i) => {
    const from = points[i]
    const length = Math.hypot(to.x - from.x, to.y - from.y)
    if (length > longest) {
      longest = length
      middle = { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 }
    }
    const next = points[i + 2]
    if (!next) {
      path += `L${to.x} ${to.y}`
      return
    }
    const after = Math.hypot(next.x - to.x, next.y - to.y)
    const r = Math.min(24, length / 2, after / 2)
    const toward = (p: Point, d: number) => `${to.x + ((p.x - to.x) * r) / (d || 1)} ${to.y + ((p.y - to.y) * r) / (d || 1)}`
    path += `L${toward(from, length)}Q${to.x} ${to.y} ${toward(next, after)}`
  })
  return [path, middle.x, middle.y]
}

const Wire = memo((p: EdgeProps<FlowEdge<{ l: Link; dim: boolean; labels: boolean; route?: Point[] }>>) => {
  const l = p.data!.l
  const [path, x, y] = p.data!.route?.length ? along(p.data!.route) : getBezierPath(p)
  const at = level(l.ok)
  return (
    <>
      <BaseEdge id={p.id} path={path} markerEnd={p.markerEnd} style={{ stroke: stroke(at), strokeWidth: 1.5 + Math.min(6, Math.log10(1 + l.rps) * 2.2), opacity: p.data!.dim ? 0.15 : 0.85 }} interactionWidth={18} />
      {(p.data!.labels || p.selected) && !p.data!.dim && (
        <EdgeLabelRenderer>
          <div className="wire" data-level={at} style={{ transform: `translate(-50%, -50%) translate(${x}px, ${y}px)` }}>
            <Icon name={l.secure ? 'lock' : 'unlock'} />
            {l.rps ? `${rate(l.rps)} rps` : l.open ? `${l.open} open` : ''}
          </div>
        </EdgeLabelRenderer>
      )}
    </>
  )
})

const nodeTypes = { card: Card, space: Group }
const edgeTypes = { wire: Wire }

export default function Graph() {
  return (
    <ReactFlowProvider>
      <Page />
    </ReactFlowProvider>
  )
}

function Page() {
  useEffect(prepare, [])
  const { ns } = useScope()
  const command = useCommand()
  const p = useLocation().searchParams
  const rows = useLive(`workloads/${ns}`, (s) => workloads(ns, s))
  const edges = useLive(`edges/${ns}`, (s) => askEdges(ns, s))
  useRemembered(rows.data, rows.at)
  const grouping = (p.get('group') as Grouping | null) ?? ((rows.data?.length ?? 0) > many ? 'folded' : ns === ALL ? 'namespace' : 'none')
  const quiet = p.get('quiet') === '1'
  const asTable = p.get('view') === 'table'
  const graph = useMemo(() => draw(rows.data ?? [], edges.data ?? [], grouping, quiet), [rows.data, edges.data, grouping, quiet])
  if (!edges.data || !rows.data) {
    const error = edges.error ?? rows.error
    return error ? <Failure error={error} what="Topology" again={edges.again} /> : <Loading what="the topology" />
  }
  return (
    <>
      <div className="toolbar">
        <label className="field inline">
          Group
          <select value={grouping} onChange={(e) => setParams({ group: e.target.value })}>
            <option value="namespace">by namespace</option>
            <option value="folded">namespaces folded</option>
            <option value="none">not at all</option>
          </select>
        </label>
        <label className="field inline">
          <input type="checkbox" checked={quiet} onChange={(e) => setParams({ quiet: e.target.checked ? '1' : undefined })} disabled={grouping === 'folded'} />
          without traffic, too
        </label>
        <label className="field inline">
          <input type="checkbox" checked={asTable} onChange={(e) => setParams({ view: e.target.checked ? 'table' : undefined })} />
          as a table
        </label>
        <Command text={command('edges deploy')} />
      </div>
      {graph.vertices.length === 0 ? (
        <Empty title="Nobody talks to anybody" command={command('tap deploy')}>
          What meshed workloads send each other is drawn here within a few seconds. Tick “without traffic, too” to see the {rows.data.length} workloads.
        </Empty>
      ) : asTable ? (
        <EdgeTable links={graph.links} />
      ) : (
        <Canvas vertices={graph.vertices} links={graph.links} />
      )}
    </>
  )
}

function Canvas({ vertices, links }: { vertices: Vertex[]; links: Link[] }) {
  const [placed, setPlaced] = useState<Placed>()
  const [took, setTook] = useState<number>()
  const laid = useRef(0)
  const [down, setDown] = useState(false)
  const [picked, setPicked] = useState<string>()
  const narrow = useNarrow()
  const flow = useReactFlow()
  const box = useRef<HTMLDivElement>(null)
  const shape = useMemo(() => JSON.stringify([vertices.map((v) => [v.id, v.group]).sort(), links.map((l) => l.id).sort()]), [vertices, links])

  useEffect(() => {
    let over = false
    const began = performance.now()
    void layout(
      vertices.map((v) => ({ id: v.id, group: v.group, ...size })),
      links.map((l) => ({ id: l.id, from: l.from, to: l.to })),
      narrow, // a telephone is read from top to bottom
    ).then((p) => {
      if (over) return
      laid.current++
      setPlaced(p)
      setDown(narrow)
      setTook(Math.round(performance.now() - began))
    })
    return () => {
      over = true
    }
    // Figures change all the time, and places only with what there is.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shape, narrow])

  useEffect(() => {
    if (!placed) return
    const fit = () => void flow.fitView({ padding: 0.08, maxZoom: 1.2 })
    const t = setTimeout(fit, 30)
    const sized = new ResizeObserver(fit)
    if (box.current) sized.observe(box.current)
    return () => {
      clearTimeout(t)
      sized.disconnect()
    }
  }, [placed, flow])

  const near = useMemo(() => {
    if (!picked) return undefined
    const l = links.find((x) => x.id === picked)
    const set = new Set<string>(l ? [l.from, l.to] : [picked])
    if (!l) for (const x of links) if (x.from === picked || x.to === picked) set.add(x.from).add(x.to)
    return set
  }, [picked, links])

  const nodes = useMemo<Node[]>(() => {
    if (!placed) return []
    const groups = [...placed.groups].map(([id, g]): Node => ({ id, type: 'space', position: { x: g.x, y: g.y }, width: g.width, height: g.height, style: { width: g.width, height: g.height }, data: { name: id.slice(3) }, selectable: false, focusable: false, draggable: false, zIndex: -1 }))
    const cards = vertices.filter((v) => placed.boxes.has(v.id)).map((v): Node => ({
      id: v.id, type: 'card', position: placed.boxes.get(v.id)!, parentId: v.group && placed.groups.has(v.group) ? v.group : undefined,
      width: size.width, height: size.height, data: { v, down, dim: !!near && !near.has(v.id) }, selected: v.id === picked, draggable: false, connectable: false,
      ariaLabel: `${v.title}, ${v.sub}, ${v.ok === undefined ? 'no requests' : `${rate(v.rps)} requests per second, ${percent(v.ok)} successful`}`,
    }))
    return [...groups, ...cards]
  }, [placed, vertices, near, picked, down])

  const wires = useMemo<FlowEdge[]>(() => {
    if (!placed) return []
    return links.filter((l) => placed.boxes.has(l.from) && placed.boxes.has(l.to)).map((l): FlowEdge => ({
      id: l.id, source: l.from, target: l.to, type: 'wire', selected: l.id === picked,
      data: { l, dim: !!near && l.id !== picked && !(near.has(l.from) && near.has(l.to) && (l.from === picked || l.to === picked)), labels: links.length <= 40, route: placed.routes.get(l.id) },
      markerEnd: { type: MarkerType.ArrowClosed, width: 14, height: 14, color: stroke(level(l.ok)), markerUnits: 'userSpaceOnUse' },
      ariaLabel: `${name(l.from)} to ${name(l.to)}: ${rate(l.rps)} requests per second, ${percent(l.ok)} successful, ${l.secure ? 'mTLS' : 'not mTLS'}`,
    }))
  }, [placed, links, near, picked])

  const vertex = vertices.find((v) => v.id === picked)
  const wire = links.find((l) => l.id === picked)
  return (
    <div className="canvas" ref={box} data-took={took} data-laid={laid.current} data-nodes={vertices.length}>
      {!placed && <Loading what="the layout" />}
      <div className="flow">
      <ReactFlow
        nodes={nodes}
        edges={wires}
        nodeTypes={nodeTypes}
        edgeTypes={edgeTypes}
        minZoom={0.05}
        maxZoom={2}
        nodesDraggable={false}
        nodesConnectable={false}
        deleteKeyCode={null}
        onlyRenderVisibleElements={vertices.length > 300}
        onNodeClick={(_, n) => n.type === 'card' && setPicked(n.id === picked ? undefined : n.id)}
        onNodeDoubleClick={(_, n) => open(vertices.find((v) => v.id === n.id))}
        onEdgeClick={(_, e) => setPicked(e.id === picked ? undefined : e.id)}
        onPaneClick={() => setPicked(undefined)}
        onSelectionChange={({ nodes: ns, edges: es }) => {
          const id = ns[0]?.id ?? es[0]?.id
          if (id && id !== picked) setPicked(id)
        }}
        aria-label="Topology of the mesh"
      >
        <Background gap={22} size={1.4} />
        <Controls showInteractive={false} />
        {vertices.length > 12 && <MiniMap pannable zoomable nodeStrokeWidth={0} ariaLabel="Overview of the graph" nodeClassName={(n) => `mini ${n.type === 'card' ? level((n.data as { v: Vertex }).v.ok) : 'group'}`} />}
      </ReactFlow>
      </div>
      <div className="legend" aria-hidden="true">
        <span><Dot at="good" /> ≥ 99%</span>
        <span><Dot at="fair" /> ≥ 95%</span>
        <span><Dot at="bad" /> below</span>
        <span><Icon name="lock" /> mTLS</span>
        <span>width: requests</span>
      </div>
      {(vertex || wire) && (
        <aside className="drawer" aria-label="What is selected">
          <button type="button" className="plain close" aria-label="Close" onClick={() => setPicked(undefined)}>
            <Icon name="close" />
          </button>
          {vertex && <VertexFacts v={vertex} links={links} pick={setPicked} />}
          {wire && <WireFacts l={wire} />}
        </aside>
      )}
    </div>
  )
}

function useNarrow(): boolean {
  const media = useMemo(() => matchMedia('(max-width: 760px)'), [])
  return useSyncExternalStore(
    (f) => {
      media.addEventListener('change', f)
      return () => media.removeEventListener('change', f)
    },
    () => media.matches,
  )
}

const name = (id: string) => id.split('/').pop()!

function open(v?: Vertex) {
  if (v?.namespace) go(link('/graph', { ns: v.namespace, group: undefined }))
  else if (v?.end && v.end.namespace) go(pageOf(v.end))
}

function VertexFacts({ v, links, pick }: { v: Vertex; links: Link[]; pick: (id: string) => void }) {
  const list = (title: string, of: Link[], end: (l: Link) => string) =>
    of.length > 0 && (
      <>
        <h3>{title}</h3>
        <ul>
          {of.slice(0, 12).map((l) => (
            <li key={l.id}>
              <button type="button" className="plain" onClick={() => pick(l.id)}>
                <Lock secure={l.secure} /> {name(end(l))}
              </button>
              <span>
                {rate(l.rps)} rps · {percent(l.ok)}
              </span>
            </li>
          ))}
        </ul>
      </>
    )
  return (
    <>
      <h2>
        <Dot at={level(v.ok)} /> {v.title}
      </h2>
      <p className="dim">{v.sub}</p>
      <p>{v.ok === undefined ? 'No requests in the last minute.' : `${rate(v.rps)} requests per second, ${percent(v.ok)} successful.`}</p>
      {list('Called by', links.filter((l) => l.to === v.id), (l) => l.from)}
      {list('Calls', links.filter((l) => l.from === v.id), (l) => l.to)}
      {v.namespace ? (
        <A className="button primary" to={link('/graph', { ns: v.namespace, group: undefined })}>
          Open the namespace <Icon name="arrow" />
        </A>
      ) : (
        v.end && v.end.namespace && (
          <A className="button primary" to={pageOf(v.end)}>
            Open the workload <Icon name="arrow" />
          </A>
        )
      )}
    </>
  )
}

function WireFacts({ l }: { l: Link }) {
  return (
    <>
      <h2>
        {name(l.from)} → {name(l.to)}
      </h2>
      <dl className="facts">
        <dt>Success</dt>
        <dd><Success value={l.ok} /></dd>
        <dt>Requests</dt>
        <dd>{rate(l.rps)} per second</dd>
        <dt>P99</dt>
        <dd>{l.rps ? ms(l.p99) : '–'}</dd>
        <dt>Open</dt>
        <dd>{l.open} connections</dd>
      </dl>
      {l.list.slice(0, 10).map((e) => (
        <div key={endKey(e.src) + endKey(e.dst)} className="ids">
          <p>
            <Lock secure={!e.noTlsReason} reason={e.noTlsReason} /> {e.src.name} → {e.dst.name}
          </p>
          {e.noTlsReason ? <p className="dim">not mTLS: {e.noTlsReason.replaceAll('_', ' ')}</p> : <p className="dim">{e.clientId} → {e.serverId}</p>}
        </div>
      ))}
    </>
  )
}

function EdgeTable({ links }: { links: Link[] }) {
  const columns: Column<Link>[] = [
    { id: 'from', title: 'From', cell: (l) => <Ends id={l.from} list={l.list} src />, sort: (l) => name(l.from) },
    { id: 'to', title: 'To', cell: (l) => <Ends id={l.to} list={l.list} />, sort: (l) => name(l.to) },
    { id: 'tls', title: 'mTLS', cell: (l) => <Lock secure={l.secure} reason={l.list.find((e) => e.noTlsReason)?.noTlsReason} />, sort: (l) => Number(l.secure) },
    { id: 'ok', title: 'Success', right: true, cell: (l) => <Success value={l.ok} />, sort: (l) => l.ok ?? NaN },
    { id: 'rps', title: 'RPS', right: true, cell: (l) => rate(l.rps), sort: (l) => l.rps },
    { id: 'p99', title: 'P99', right: true, cell: (l) => (l.rps ? ms(l.p99) : '–'), sort: (l) => l.p99 },
    { id: 'open', title: 'Open', right: true, cell: (l) => l.open, sort: (l) => l.open },
    { id: 'bytes', title: 'Written', right: true, extra: true, cell: (l) => `${bytes(l.list.reduce((n, e) => n + e.tcpWriteBytesRate, 0))}/s`, sort: (l) => l.list.reduce((n, e) => n + e.tcpWriteBytesRate, 0) },
  ]
  return (
    <section className="panel" aria-label="Edges">
      <Table caption="Who talks to whom" rows={links} columns={columns} rowKey={(l) => l.id} initial={{ id: 'rps', down: true }} />
    </section>
  )
}

function Ends({ id, list, src }: { id: string; list: Edge[]; src?: boolean }) {
  const e = src ? list[0].src : list[0].dst
  return id.startsWith('ns/') || !e.namespace ? <>{name(id)}</> : (
    <span className="who">
      <A to={pageOf(e)}>{e.name}</A>
      <small>{e.namespace}</small>
    </span>
  )
}
