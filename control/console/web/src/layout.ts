// Where the graph's nodes are: elkjs in a worker, so that the page never waits.
import ELK, { type ElkNode } from 'elkjs/lib/elk-api'
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

export interface Placed {
  boxes: Map<string, { x: number; y: number }>
  groups: Map<string, { x: number; y: number; width: number; height: number }>
}

const options = {
  'elk.algorithm': 'layered',
  'elk.layered.spacing.nodeNodeBetweenLayers': '120',
  'elk.spacing.nodeNode': '26',
  'elk.spacing.componentComponent': '48',
  'elk.layered.nodePlacement.strategy': 'BRANDES_KOEPF',
  'elk.layered.thoroughness': '4',
  'elk.separateConnectedComponents': 'true',
  'elk.aspectRatio': '1.7',
}
const inner = { ...options, 'elk.padding': '[top=48,left=20,bottom=20,right=20]' }

let elk: InstanceType<typeof ELK> | undefined

/** Lays nodes out from callers to called. Groups are boxes around their nodes. */
export async function layout(boxes: Box[], wires: Wire[], down: boolean): Promise<Placed> {
  const direction = { 'elk.direction': down ? 'DOWN' : 'RIGHT', ...(down && { 'elk.layered.spacing.nodeNodeBetweenLayers': '60', 'elk.aspectRatio': '0.7' }) }
  elk ??= new ELK({ workerUrl })
  const groups = new Map<string, Box[]>()
  for (const b of boxes) if (b.group) groups.set(b.group, [...(groups.get(b.group) ?? []), b])
  const leaf = (b: Box): ElkNode => ({ id: b.id, width: b.width, height: b.height })
  const inside = new Map(boxes.map((b) => [b.id, b.group]))
  const own = (g?: string) => wires.filter((w) => inside.get(w.from) === g && inside.get(w.to) === g && w.from !== w.to)
  const edge = (w: Wire, from = w.from, to = w.to) => ({ id: w.id, sources: [from], targets: [to] })
  // Each group by itself, then the groups among each other: a namespace's own shape
  // stays what it is whoever calls into it, and large meshes are laid out fast.
  const shaped = await Promise.all(
    [...groups].map(async ([g, list]) => {
      const shape: ElkNode = { id: g, layoutOptions: { ...inner, ...direction }, children: list.map(leaf), edges: own(g).map((w) => edge(w)) }
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
  const top = await elk.layout({
    id: 'root',
    layoutOptions: { ...options, ...direction },
    children: [...shaped.map(({ g, placed }) => ({ id: g, width: placed.width, height: placed.height })), ...boxes.filter((b) => !b.group).map(leaf)],
    edges: [...between.values()],
  })
  const result: Placed = { boxes: new Map(), groups: new Map() }
  for (const n of top.children ?? []) {
    const at = { x: n.x ?? 0, y: n.y ?? 0 }
    if (groups.has(n.id)) result.groups.set(n.id, { ...at, width: n.width ?? 0, height: n.height ?? 0 })
    else result.boxes.set(n.id, at)
  }
  for (const { placed } of shaped) for (const n of placed.children ?? []) result.boxes.set(n.id, { x: n.x ?? 0, y: n.y ?? 0 })
  return result
}
