// What `meshctl check` says.
import { check, type CheckCategory, type CheckResult } from '../api'
import { clock } from '../format'
import { useLive } from '../live'
import { Command, Failure, Loading, Tile } from '../parts'
import { useCommand } from '../scope'

const glyph: Record<CheckResult['result'], string> = { success: '√', warning: '‼', error: '×' }
const levels = { success: 'good', warning: 'fair', error: 'bad' } as const

export function Health() {
  const command = useCommand()
  const live = useLive('check', check, 15000)
  if (!live.data) return live.error ? <Failure error={live.error} what="The checks" again={live.again} /> : <Loading what="the checks: this may take some seconds" />
  const all = live.data.categories.flatMap((c) => c.checks)
  const count = (r: CheckResult['result']) => all.filter((c) => c.result === r).length
  const bad = count('error')
  const warn = count('warning')
  return (
    <>
      <div className="tiles">
        <Tile title="Status" value={bad ? 'Not healthy' : warn ? 'Healthy, with warnings' : 'Healthy'} at={bad ? 'bad' : warn ? 'fair' : 'good'} sub={live.at && `checked at ${clock(live.at)}`} />
        <Tile title="Failed" value={bad} at={bad ? 'bad' : 'none'} />
        <Tile title="Warnings" value={warn} at={warn ? 'fair' : 'none'} />
        <Tile title="Passed" value={count('success')} />
      </div>
      <div className="toolbar">
        <Command text={command('check', '')} />
        <button type="button" onClick={live.again}>
          Check again
        </button>
      </div>
      {live.data.categories.map((c) => (
        <Category key={c.categoryName} category={c} />
      ))}
    </>
  )
}

function Category({ category }: { category: CheckCategory }) {
  return (
    <section className="panel" aria-label={category.categoryName}>
      <div className="head">
        <h2>{category.categoryName}</h2>
      </div>
      <ul className="checks">
        {category.checks.map((c) => (
          <li key={c.description} data-level={levels[c.result]}>
            <span className="glyph" aria-hidden="true">
              {glyph[c.result]}
            </span>
            <span className="sr">{c.result}: </span>
            <div>
              {c.description}
              {c.error && <p className="message">{c.error}</p>}
              {c.hint && <p className="hint">See {c.hint}</p>}
            </div>
          </li>
        ))}
      </ul>
    </section>
  )
}
