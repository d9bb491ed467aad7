// Where the graph's nodes are: elkjs in a worker, so that the page never waits.
import ELK, { type ElkExtendedEdge, type ElkNode } from 'elkjs/lib/elk-api'
import workerUrl from 'elkjs/lib/elk-worker.min.js?url'

export interface Box {
  id: string
  width: number
  height: number
  group?: string
}

export interface Wire {
  id: string
  from: string
  to: string
}

export interface Point {
  x: number
  y: number
}

export interface Placed {
  /** Ways around the boxes; of many, of those wires that stay in one group or are in none. */
  routes: Map<string, Point[]>
  boxes: Map<string, { x: number; y: number }>
  groups: Map<string, { x: number; y: number; width: number; height: number }>
}

const options = {
  'elk.algorithm': 'layered',
  'elk.layered.spacing.nodeNodeBetweenLayers': '120',
  'elk.spacing.nodeNode': '26',
  'elk.spacing.componentComponent': '48',
  'elk.layered.nodePlacement.strategy': 'BRANDES_KOEPF',
  'elk.separateConnectedComponents': 'true',
  'elk.edgeRouting': 'POLYLINE',
  'elk.aspectRatio': '1.7',
}
// How often an order with fewer crossings is looked for: of many boxes, once.
const thorough = (n: number) => ({ 'elk.layered.thoroughness': n > few ? '1' : '4' })
const inner = { ...options, 'elk.padding': '[top=48,left=20,bottom=20,right=20]' }

// Up to how many boxes all is laid out at once, so that wires between groups go around
// boxes as well; the time grows with the square.
const few = 60

const leaf = (b: Box): ElkNode => ({ id: b.id, width: b.width, height: b.height })
const edge = (w: Wire) => ({ id: w.id, sources: [w.from], targets: [w.to] })
const route = (e: ElkExtendedEdge, at: Point): Point[] => (e.sections ?? []).flatMap((s) => [s.startPoint, ...(s.bendPoints ?? []), s.endPoint].map((p) => ({ x: p.x + at.x, y: p.y + at.y })))

async function whole(boxes: Box[], wires: Wire[], groups: Map<string, Box[]>, direction: Record<string, string>): Promise<Placed> {
  const all: ElkNode = await elk!.layout({
    id: 'root',
    layoutOptions: { ...options, ...direction, 'elk.hierarchyHandling': 'INCLUDE_CHILDREN', 'elk.json.edgeCoords': 'ROOT' },
    children: [...[...groups].map(([g, list]) => ({ id: g, layoutOptions: { ...inner, ...direction }, children: list.map(leaf) })), ...boxes.filter((b) => !b.group).map(leaf)],
    edges: wires.filter((w) => w.from !== w.to).map(edge),
  })
  const result: Placed = { boxes: new Map(), groups: new Map(), routes: new Map() }
  for (const n of all.children ?? []) {
    const at = { x: n.x ?? 0, y: n.y ?? 0 }
    if (groups.has(n.id)) result.groups.set(n.id, { ...at, width: n.width ?? 0, height: n.height ?? 0 })
    else result.boxes.set(n.id, at)
    for (const c of n.children ?? []) result.boxes.set(c.id, { x: c.x ?? 0, y: c.y ?? 0 })
  }
  for (const e of all.edges ?? []) result.routes.set(e.id, route(e, { x: 0, y: 0 }))
  return result
}

let elk: InstanceType<typeof ELK> | undefined

/** Starts the worker, which takes as long as laying out some dozens of boxes does: best while their figures are asked for. */
export function prepare() {
  if (elk) return
  elk = new ELK({ workerUrl })
  const boxes = ['a', 'b', 'c'].map((id) => ({ id, width: 1, height: 1 }))
  // What fails here fails again, and is told, when it matters.
  elk.layout({ id: 'root', layoutOptions: options, children: boxes, edges: [edge({ id: 'w', from: 'a', to: 'b' })] }).catch(() => {})
}

/** Lays nodes out from callers to called. Groups are boxes around their nodes. */
export async function layout(boxes: Box[], wires: Wire[], down: boolean): Promise<Placed> {
  const direction = { ...thorough(boxes.length), 'elk.direction': down ? 'DOWN' : 'RIGHT', ...(down && { 'elk.layered.spacing.nodeNodeBetweenLayers': '60', 'elk.aspectRatio': '0.7' }) }
  prepare()
  const groups = new Map<string, Box[]>()
  for (const b of boxes) if (b.group) groups.set(b.group, [...(groups.get(b.group) ?? []), b])
  const inside = new Map(boxes.map((b) => [b.id, b.group]))
  if (boxes.length <= few) return whole(boxes, wires, groups, direction)
  const own = (g?: string) => wires.filter((w) => inside.get(w.from) === g && inside.get(w.to) === g && w.from !== w.to)
  // Each group by itself, then the groups among each other: large meshes are laid out
  // fast.
  const shaped = await Promise.all(
    [...groups].map(async ([g, list]) => {
      const shape: ElkNode = { id: g, layoutOptions: { ...inner, ...direction }, children: list.map(leaf), edges: own(g).map(edge) }
      const placed: ElkNode = await elk!.layout(shape)
      return { g, placed }
    }),
  )
  const between = new Map<string, ReturnType<typeof edge>>()
  for (const w of wires) {
    const from = inside.get(w.from) ?? w.from
    const to = inside.get(w.to) ?? w.to
    if (from !== to && !between.has(`${from}>${to}`)) between.set(`${from}>${to}`, { id: `${from}>${to}`, sources: [from], targets: [to] })
  }
  const top = await elk!.layout({
    id: 'root',
    layoutOptions: { ...options, ...direction },
    children: [...shaped.map(({ g, placed }) => ({ id: g, width: placed.width, height: placed.height })), ...boxes.filter((b) => !b.group).map(leaf)],
    edges: [...between.values()],
  })
  const result: Placed = { boxes: new Map(), groups: new Map(), routes: new Map() }
  const ids = new Set(wires.map((w) => w.id))
  const follow = (list: ElkExtendedEdge[] | undefined, at: Point) => {
    for (const e of list ?? []) if (ids.has(e.id)) result.routes.set(e.id, route(e, at))
  }
  for (const n of top.children ?? []) {
    const at = { x: n.x ?? 0, y: n.y ?? 0 }
    if (groups.has(n.id)) result.groups.set(n.id, { ...at, width: n.width ?? 0, height: n.height ?? 0 })
    else result.boxes.set(n.id, at)
  }
  follow(top.edges, { x: 0, y: 0 })
  for (const { g, placed } of shaped) {
    for (const n of placed.children ?? []) result.boxes.set(n.id, { x: n.x ?? 0, y: n.y ?? 0 })
    follow(placed.edges, result.groups.get(g) ?? { x: 0, y: 0 })
  }
  return result
}
