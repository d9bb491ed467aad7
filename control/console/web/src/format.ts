// How figures look. Units are those of the CLI's columns.
import type { Figures } from './api'

export const num = (s: string | number | undefined) => Number(s ?? 0)

export function successRate(f: Pick<Figures, 'successCount' | 'failureCount'>): number | undefined {
  const ok = num(f.successCount)
  const all = ok + num(f.failureCount)
  return all ? ok / all : undefined
}

export function percent(x: number | undefined): string {
  if (x === undefined || Number.isNaN(x)) return '–'
  if (x === 1) return '100%'
  return `${(Math.floor(x * 10000) / 100).toFixed(x > 0.9995 ? 2 : x < 0.1 ? 2 : 1)}%` // never rounded up to 100
}

export function rate(x: number | undefined): string {
  if (x === undefined || Number.isNaN(x)) return '–'
  if (x >= 10000) return `${(x / 1000).toFixed(1)}k`
  return x >= 100 ? x.toFixed(0) : x.toFixed(1)
}

export function ms(x: number | undefined): string {
  if (x === undefined || Number.isNaN(x)) return '–'
  if (x >= 10000) return `${(x / 1000).toFixed(1)} s`
  if (x >= 100) return `${x.toFixed(0)} ms`
  return x >= 10 ? `${x.toFixed(0)} ms` : `${x.toFixed(1).replace(/\.0$/, '')} ms`
}

export function us(x: number): string {
  return x >= 1000 ? ms(x / 1000) : `${x.toFixed(0)} µs`
}

export function bytes(x: number | undefined): string {
  if (x === undefined || Number.isNaN(x)) return '–'
  const units = ['B', 'KB', 'MB', 'GB', 'TB']
  let i = 0
  while (x >= 1000 && i < units.length - 1) {
    x /= 1000
    i++
  }
  return `${i && x < 100 ? x.toFixed(1) : x.toFixed(0)} ${units[i]}`
}

export function duration(seconds: number): string {
  const s = Math.abs(seconds)
  if (s < 90) return `${Math.round(s)} s`
  if (s < 90 * 60) return `${Math.round(s / 60)} min`
  if (s < 48 * 3600) return `${(s / 3600).toFixed(s < 36000 ? 1 : 0)} h`
  return `${Math.round(s / 86400)} days`
}

export const clock = (t: number) => new Date(t).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' })

/** How well something goes; what colours show. */
export type Level = 'good' | 'fair' | 'bad' | 'none'

export function level(success: number | undefined): Level {
  if (success === undefined || Number.isNaN(success)) return 'none'
  return success >= 0.99 ? 'good' : success >= 0.95 ? 'fair' : 'bad'
}

/** A word as a shell reads it. */
export const word = (s: string) => (/^[\w./:=@,+%-]+$/.test(s) ? s : `'${s.replaceAll("'", "'\\''")}'`)

const shorts: Record<string, string> = { deployment: 'deploy', statefulset: 'sts', daemonset: 'ds', pod: 'po', service: 'svc', namespace: 'ns' }
export const short = (kind: string) => shorts[kind] ?? kind
