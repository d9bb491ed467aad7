// Series over time, drawn by uPlot, and a heat map of latencies.
import { useEffect, useMemo, useRef } from 'react'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'

export interface Line {
  label: string
  values: (number | null)[]
  colour: string // a custom property of the style sheet
  fill?: boolean
}

const read = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/** A chart; times are in seconds. */
export function Chart({ title, times, lines, unit, height = 180, top }: { title: string; times: number[]; lines: Line[]; unit: (v: number) => string; height?: number; top?: number }) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot>(undefined)
  const data = useMemo(() => [times, ...lines.map((l) => l.values)] as uPlot.AlignedData, [times, lines])
  const latest = useRef(data)
  latest.current = data
  const shape = lines.map((l) => l.label + l.colour).join()

  useEffect(() => {
    const el = box.current!
    let made: uPlot | undefined
    const draw = () => {
      made?.destroy()
      const axis = { stroke: read('--faint'), grid: { stroke: read('--line'), width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' }
      made = new uPlot(
        {
          width: el.clientWidth || 300,
          height,
          padding: [10, 8, 0, 0],
          legend: { show: false },
          cursor: { y: false, points: { size: 7 } },
          scales: { y: { range: (_u, _min, max) => [0, top ?? Math.max(max * 1.1, 0.001)] } },
          axes: [
            { ...axis, space: 70, size: 26, values: (_u, ts) => ts.map((t) => new Date(t * 1000).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: ts.length > 1 && ts[1] - ts[0] < 60 ? '2-digit' : undefined })) },
            { ...axis, size: 58, space: 30, values: (_u, vs) => vs.map(unit) },
          ],
          series: [{}, ...lines.map((l) => ({ label: l.label, stroke: read(l.colour), width: 2, fill: l.fill ? `${read(l.colour)}22` : undefined, points: { show: false }, spanGaps: false }))],
        },
        latest.current,
        el,
      )
      plot.current = made
    }
    draw()
    const sized = new ResizeObserver(() => made?.setSize({ width: el.clientWidth, height }))
    sized.observe(el)
    const themed = new MutationObserver(draw)
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] })
    return () => {
      sized.disconnect()
      themed.disconnect()
      made?.destroy()
      plot.current = undefined
    }
    // Lines' values come through setData below.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [shape, height, top, unit])

  useEffect(() => plot.current?.setData(data), [data])

  const words = lines.map((l) => `${l.label} ${unit([...l.values].reverse().find((v) => v !== null && !Number.isNaN(v)) ?? 0)}`).join(', ')
  return (
    <figure className="chart">
      <figcaption>
        <span>{title}</span>
        <span className="keys">
          {lines.map((l) => (
            <span key={l.label}>
              <svg viewBox="0 0 12 4" aria-hidden="true" className={`key ${l.colour.slice(2)}`}>
                <rect width="12" height="4" rx="2" />
              </svg>
              {l.label}
            </span>
          ))}
        </span>
      </figcaption>
      <div ref={box} role="img" aria-label={`${title}: now ${words}`} />
    </figure>
  )
}

/** Shares of requests by latency (rows, low to high) at each time (columns). */
export function HeatMap({ title, bounds, columns, times }: { title: string; bounds: number[]; columns: number[][]; times: number[] }) {
  const ref = useRef<HTMLCanvasElement>(null)
  useEffect(() => {
    const c = ref.current!
    const draw = () => {
      const scale = window.devicePixelRatio || 1
      const w = c.clientWidth
      const h = c.clientHeight
      c.width = w * scale
      c.height = h * scale
      const g = c.getContext('2d')!
      g.scale(scale, scale)
      g.clearRect(0, 0, w, h)
      const left = 58
      const below = 18
      const most = Math.max(1e-9, ...columns.flat())
      const cw = (w - left) / Math.max(1, columns.length)
      const ch = (h - below) / Math.max(1, bounds.length)
      const hue = read('--accent')
      g.font = '11px system-ui, sans-serif'
      columns.forEach((col, i) =>
        col.forEach((v, j) => {
          if (v <= 0) return
          g.globalAlpha = 0.12 + 0.88 * Math.sqrt(v / most)
          g.fillStyle = hue
          g.fillRect(left + i * cw, h - below - (j + 1) * ch, Math.ceil(cw) - 1, Math.ceil(ch) - 1)
        }),
      )
      g.globalAlpha = 1
      g.fillStyle = read('--faint')
      bounds.forEach((b, j) => {
        if (j % 2 === 0) g.fillText(b === Infinity ? '+∞' : b >= 1000 ? `${b / 1000} s` : `${b} ms`, 0, h - below - j * ch - ch / 2 + 4)
      })
      const n = Math.max(1, Math.floor(times.length / 5))
      times.forEach((t, i) => {
        const text = new Date(t * 1000).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' })
        if (i % n === 0 && left + i * cw + g.measureText(text).width <= w) g.fillText(text, left + i * cw, h - 4)
      })
    }
    draw()
    const sized = new ResizeObserver(draw)
    sized.observe(c)
    const themed = new MutationObserver(draw)
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] })
    return () => {
      sized.disconnect()
      themed.disconnect()
    }
  }, [bounds, columns, times])
  return (
    <figure className="chart">
      <figcaption>
        <span>{title}</span>
      </figcaption>
      <canvas ref={ref} className="heat" role="img" aria-label={`${title}: requests by latency over time`} />
    </figure>
  )
}
