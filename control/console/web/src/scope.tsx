// Which mesh and which namespace is looked at.
import { createContext, useContext } from 'react'
import { ALL, type Session } from './api'
import { short, word } from './format'

export interface Scope {
  session: Session
  /** The namespace chosen, or ALL. */
  ns: string
}

export const ScopeContext = createContext<Scope>({ session: { version: '', mesh: '', local: false, namespace: '', command: 'meshctl' }, ns: ALL })
export const useScope = () => useContext(ScopeContext)

/** How a command begins, and how it names the namespace. */
export function useCommand(): (text: string, ns?: string) => string {
  const { session, ns } = useScope()
  return (text, of) => {
    const n = of ?? ns
    return `${session.command} ${text}${n === ALL ? ' -A' : n ? ` -n ${word(n)}` : ''}`
  }
}

export const resource = (kind: string, name: string) => (name && name !== ALL ? `${short(kind)}/${word(name)}` : short(kind))
