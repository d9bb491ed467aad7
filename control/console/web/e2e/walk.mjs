// Walks through the console in headless Chromium. It is started by the tests of
// test/console, which name in the environment:
//   LINK     what meshctl dashboard printed
//   MODE     the address that says what becomes of the mesh ("" for a real one)
//   WALK     which walk: pages, large, live
//   OUT      the folder for screenshots, "" for none
//   CHROMIUM the browser
// Each finding is a line "ok NAME", "not ok NAME: WHY" or "# TEXT".
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const { LINK, MODE, WALK, OUT, CHROMIUM } = process.env
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const origin = new URL(LINK).origin
const patience = 20_000

let failures = 0
async function step(name, f) {
  try {
    await f()
    console.log(`ok ${name}`)
  } catch (e) {
    failures++
    console.log(`not ok ${name}: ${String(e.message ?? e).replaceAll('\n', ' | ').slice(0, 900)}`)
  }
}

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--force-color-profile=srgb'] })
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce' })
// axe is put in by the browser's own hand; the page's policy holds for the page.
await context.addInitScript({ content: axe })
await context.addInitScript(() => {
  window.__violations = []
  document.addEventListener('securitypolicyviolation', (e) => window.__violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`))
})
const page = await context.newPage()
const elsewhere = []
const errors = []
page.on('request', (r) => {
  if (!r.url().startsWith(origin) && !r.url().startsWith('data:') && !r.url().startsWith('blob:')) elsewhere.push(r.url())
})
page.on('pageerror', (e) => errors.push(e.message))
page.on('dialog', (d) => {
  errors.push(`dialog: ${d.message()}`)
  void d.dismiss()
})

const mode = async (is) => MODE && (await fetch(`${MODE}?is=${is}`))
const sees = (text) => page.getByText(text).filter({ visible: true }).first().waitFor({ timeout: patience })
const goto = async (path) => {
  await page.goto(origin + path, { waitUntil: 'domcontentloaded' })
  await page.locator('main').waitFor({ timeout: patience })
}
const settle = (ms = 400) => page.waitForTimeout(ms)
const narrow = () => page.setViewportSize({ width: 390, height: 844 })
const wide = () => page.setViewportSize({ width: 1440, height: 900 })
const theme = (t) => page.emulateMedia({ colorScheme: t, reducedMotion: 'reduce' })

async function accessible(what) {
  const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }))
  const bad = result.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical')
  if (bad.length) throw new Error(`${what}: ${bad.map((v) => `${v.id} (${v.nodes.length}): ${v.nodes[0].target} ${v.nodes[0].failureSummary}`).join('; ')}`)
}

async function fits(what) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
  if (over > 0) throw new Error(`${what}: ${over} px wider than the screen`)
}

async function shot(name) {
  if (OUT) await page.screenshot({ path: join(OUT, `${name}.png`) })
}

const ageOfConnections = () => page.locator('section[aria-label="Connections of the pod"] td[data-title="Age"]', { hasText: /\d/ }).first().waitFor({ timeout: patience })

/** The pages, and what says that each has live data; those that are made of names
 * which no real mesh has are left out of its walk. */
const pages = [
  { path: '/', name: 'overview', live: () => page.locator('tbody tr').first().waitFor({ timeout: patience }) },
  { path: '/graph', name: 'topology', live: () => page.locator('.react-flow__node-card').first().waitFor({ timeout: patience }), empty: 'Nobody talks to anybody' },
  { path: '/ns/emojivoto/deployment/web', name: 'workload', live: () => page.locator('section[aria-label="Pods"] tbody tr').first().waitFor({ timeout: patience }), empty: /there is no such thing/ },
  { path: '/tap?ns=emojivoto&kind=deployment&target=web&run=1', name: 'tap', live: () => page.locator('section[aria-label="Requests"] tbody tr').nth(2).waitFor({ timeout: patience }), empty: null },
  { path: '/top?ns=emojivoto&kind=deployment&target=web&run=1', name: 'top', live: () => page.locator('section[aria-label="Requests by path"] tbody tr').nth(1).waitFor({ timeout: patience }), empty: null },
  { path: '/connections', name: 'connections', live: () => page.locator('tbody tr').first().waitFor({ timeout: patience }), empty: 'There are no connections' },
  { path: '/connections?pod=emojivoto/web-0', name: 'connections-pod', made: true, live: () => ageOfConnections(), empty: /there is no pod/ },
  { path: '/health', name: 'health', live: () => page.locator('.checks li').first().waitFor({ timeout: 90_000 }), empty: null },
  { path: '/certificates', name: 'certificates', live: () => page.locator('tbody tr').first().waitFor({ timeout: patience }), empty: 'No pod here has a sidecar' },
  {
    path: '/why?ns=emojivoto&from=deployment/emojivoto/web&to=svc/emojivoto/voting-svc&port=8080',
    name: 'why',
    live: async () => {
      await page.getByRole('button', { name: 'Ask' }).click()
      await page.locator('.verdict').waitFor({ timeout: patience })
    },
    empty: null,
  },
]
pages[0].empty = 'This mesh has no workloads yet'

async function enter() {
  await step('the link lets the browser in', async () => {
    const resp = await page.goto(LINK, { waitUntil: 'domcontentloaded' })
    if (!resp.ok() || new URL(page.url()).search) throw new Error(`${resp.status()} ${page.url()}`)
    const [cookie] = await context.cookies()
    if (!cookie.httpOnly || cookie.sameSite !== 'Strict') throw new Error(JSON.stringify(cookie))
    if (await page.evaluate(() => document.cookie)) throw new Error('scripts can read the cookie')
    await page.locator('main').waitFor({ timeout: patience })
  })
  await step('another browser with the same link is refused', async () => {
    const other = await browser.newContext()
    const p = await other.newPage()
    const resp = await p.goto(LINK)
    if (resp.status() !== 403 || !(await p.content()).includes('run meshctl dashboard again')) throw new Error(`${resp.status()}`)
    await other.close()
  })
}

async function honest() {
  await step('no script, style or request breaks the page’s own policy', async () => {
    const v = await page.evaluate(() => window.__violations)
    if (v.length) throw new Error(v.join('; '))
  })
  await step('nothing was asked of anybody else', async () => {
    if (elsewhere.length) throw new Error(elsewhere.join(' '))
  })
  await step('no script failed', async () => {
    if (errors.length) throw new Error(errors.join(' | '))
  })
}

/** Every page with live data, empty, away and back. */
async function walkPages() {
  await mode('up')
  for (const p of pages)
    await step(`${p.name}: live`, async () => {
      await goto(p.path)
      await p.live()
      await settle()
      for (const t of ['light', 'dark']) {
        await theme(t)
        await settle(200)
        await accessible(`${p.name}, ${t}`)
        await shot(`${p.name}-${t}`)
      }
      await narrow()
      await settle(500)
      await fits(`${p.name} at 390 px`)
      await accessible(`${p.name} at 390 px`)
      await shot(`${p.name}-390-dark`)
      await theme('light')
      await settle(200)
      await shot(`${p.name}-390-light`)
      await page.setViewportSize({ width: 2560, height: 1300 })
      await settle(400)
      await fits(`${p.name} at 2560 px`)
      await shot(`${p.name}-2560`)
      await wide()
      const v = await page.evaluate(() => window.__violations)
      if (v.length) throw new Error(v.join('; '))
      if (await page.evaluate(() => document.title.includes('owned'))) throw new Error('a label was run as HTML')
    })
  await step('the commands of tap mirror the form', async () => {
    await goto('/tap?ns=emojivoto&kind=deployment&target=web')
    await page.getByLabel('Method').fill('post')
    await page.getByLabel('Path begins with').fill('/emojivoto')
    await page.getByRole('textbox', { name: 'To', exact: true }).fill('svc/voting-svc')
    const text = await page.locator('.command code').first().textContent()
    if (!text.endsWith('tap deploy/web --to svc/voting-svc --method POST --path /emojivoto -n emojivoto')) throw new Error(text)
    await page.reload()
    if ((await page.getByLabel('Path begins with').inputValue()) !== '/emojivoto') throw new Error('the address does not keep the form')
  })
  await step('the keys lead to the pages', async () => {
    await goto('/')
    await pages[0].live()
    await page.keyboard.press('g')
    await page.keyboard.press('h')
    await page.waitForURL(`${origin}/health`)
    await page.keyboard.press('g')
    await page.keyboard.press('o')
    await page.waitForURL(`${origin}/`)
    await pages[0].live()
    await page.keyboard.press('/')
    await page.keyboard.type('voting')
    await page.waitForURL(/q=voting/)
    if ((await page.locator('tbody tr').count()) !== 1) throw new Error('the filter does not filter')
    await page.keyboard.press('Escape')
    await page.keyboard.press('?')
    await page.getByRole('dialog').waitFor()
    await accessible('the keys')
    await page.keyboard.press('Escape')
  })
  await step('the graph leads to a workload', async () => {
    await goto('/graph?ns=emojivoto')
    await pages[1].live()
    await settle(300)
    await page.locator('.react-flow__node-card', { hasText: 'web' }).click()
    await page.getByRole('complementary').getByText('Called by').waitFor({ timeout: patience })
    await accessible('the drawer of the graph')
    await shot('topology-drawer')
    await page.getByRole('link', { name: /Open the workload/ }).click()
    await page.waitForURL(/\/ns\/emojivoto\/deployment\/web/)
    await page.goBack()
    await page.goBack().catch(() => undefined)
    await goto('/graph?view=table')
    await page.locator('tbody tr').first().waitFor({ timeout: patience })
    await accessible('the graph as a table')
  })
  await step('no wire of the graph goes beneath a card', async () => {
    for (const view of ['group=namespace', 'group=none', 'ns=booksapp&group=none']) {
      await goto(`/graph?${view}`)
      await page.locator('.canvas[data-took] .react-flow__edge-path').first().waitFor({ state: 'attached', timeout: patience })
      await settle(500)
      const crossed = await page.evaluate(() => {
        const cards = [...document.querySelectorAll('.vertex')].map((e) => e.getBoundingClientRect())
        const found = []
        for (const path of document.querySelectorAll('.react-flow__edge-path')) {
          const m = path.getScreenCTM()
          const length = path.getTotalLength()
          for (let at = 0; at <= length; at += 4) {
            const p = path.getPointAtLength(at).matrixTransform(m)
            if (cards.some((c) => p.x > c.left + 4 && p.x < c.right - 4 && p.y > c.top + 4 && p.y < c.bottom - 4)) {
              found.push(path.id)
              break
            }
          }
        }
        return { found, wires: document.querySelectorAll('.react-flow__edge-path').length }
      })
      if (crossed.found.length || !crossed.wires) throw new Error(`${view}: ${JSON.stringify(crossed)}`)
    }
  })
  await step('tables that stand below each other have their columns below each other', async () => {
    await goto('/')
    await pages[0].live()
    const edges = await page.locator('main table').evaluateAll((list) => list.map((t) => [...t.querySelectorAll('th')].map((h) => Math.round(h.getBoundingClientRect().right)).join(' ')))
    if (edges.length < 2 || new Set(edges).size !== 1) throw new Error(edges.join(' | '))
  })
  await step('what attackers write is text', async () => {
    await goto('/tap?ns=emojivoto&kind=deployment&target=web&run=1')
    await sees(/<img src=x/)
    const run = async (where) => {
      if ((await page.locator('main img').count()) || (await page.title()).includes('owned')) throw new Error(`it was run: ${where}`)
    }
    await run('tap')
    // Of an attacker alone: a label of his pod, and what his requests' headers have.
    const alone = `ns=emojivoto&kind=deployment&target=web&run=1&path=${encodeURIComponent('/<')}`
    await goto(`/tap?${alone}`)
    for (const place of ['label', 'method', 'x']) await sees(new RegExp(`<img src=${place} onerror=`))
    const title = await page.locator('code.path').first().getAttribute('title')
    if (!title.startsWith('<img src=authority onerror=')) throw new Error(`the authority is ${title}`)
    const lock = await page.locator('section[aria-label="Requests"] .lock').first().getAttribute('title')
    if (!lock.includes('<img src=tls onerror=')) throw new Error(`the lock says ${lock}`)
    await run('tap of an attacker')
    await goto(`/top?${alone}`)
    for (const place of ['label', 'method', 'x']) await sees(new RegExp(`<img src=${place} onerror=`))
    await run('top')
    await goto('/why?ns=emojivoto&from=deployment/emojivoto/web&to=svc/emojivoto/voting-svc&port=8080')
    await page.getByRole('button', { name: 'Ask' }).click()
    await sees(/<img src=x onerror=/)
    await run('why')
  })
  if (!MODE) return
  await step('a workload has a past', async () => {
    await goto('/ns/emojivoto/deployment/web')
    await sees(/Unhealthy pod\/web-7f9c5b8d4-x7k2p: Readiness probe failed: \/<img .*\(3 times\)/)
    await sees(/ScalingReplicaSet deployment\/web: Scaled up/)
    if (await page.getByText('OfAnother').count()) throw new Error('events of another workload')
    if ((await page.locator('main img').count()) || (await page.title()).includes('owned')) throw new Error('an event was run as HTML')
  })
  await mode('empty')
  for (const p of pages) {
    if (p.empty === null) continue
    await step(`${p.name}: empty`, async () => {
      await goto(p.path)
      await sees(p.empty)
      await accessible(`${p.name}, empty`)
      if (p.name === 'overview') await shot('overview-empty')
    })
  }
  for (const p of pages) {
    if (p.name === 'why' || p.name === 'health') continue
    await step(`${p.name}: the API is down, and comes back`, async () => {
      await mode('up')
      await goto(p.path)
      await p.live()
      await mode('down')
      await sees('The mesh does not answer.')
      if (p.name === 'overview') {
        await p.live() // what was known stays
        await shot('overview-down')
      }
      await accessible(`${p.name}, down`)
      await page.reload()
      await sees(/does not answer/)
      await mode('up')
      await page.getByText('The mesh does not answer.').waitFor({ state: 'hidden', timeout: patience })
      if (p.name === 'tap' || p.name === 'top') {
        const again = page.getByRole('button', { name: /Ask again|Start/ }).first()
        if (await again.isVisible()) await again.click()
      }
      await p.live()
    })
  }
  await step('who may not see all namespaces is shown his own', async () => {
    await mode('forbidden')
    await goto('/')
    await page.waitForURL(/ns=emojivoto/, { timeout: patience })
    await sees(/you may not see this/)
    await accessible('forbidden')
    await shot('overview-forbidden')
    await mode('up')
  })
}

/** 200 workloads. */
async function walkLarge() {
  const time = async (path, live) => {
    await goto('/health')
    return page.evaluate(
      async ([path, selector]) => {
        const began = performance.now()
        history.pushState(null, '', path)
        dispatchEvent(new PopStateEvent('popstate'))
        while (!document.querySelector(selector)) await new Promise((r) => requestAnimationFrame(r))
        await new Promise((r) => requestAnimationFrame(() => setTimeout(r)))
        return performance.now() - began
      },
      [path, live],
    )
  }
  await step('overview of 200 workloads', async () => {
    const t = await time('/', '.tablewrap tbody tr')
    const n = await page.locator('tbody tr').count()
    if (n !== 200) throw new Error(`${n} rows`)
    console.log(`# overview_ms ${Math.round(t)}`)
    if (t > 3000) throw new Error(`${t} ms`)
    await accessible('200 workloads')
    await shot('large-overview')
  })
  for (const group of ['folded', 'namespace', 'none'])
    await step(`graph of 200 workloads, ${group}`, async () => {
      await goto(`/graph?group=${group}`)
      await page.locator('.canvas[data-took]').waitFor({ timeout: 60_000 })
      const c = page.locator('.canvas')
      const took = Number(await c.getAttribute('data-took'))
      console.log(`# graph_${group}_ms ${took} for ${await c.getAttribute('data-nodes')} nodes`)
      if (took > 10_000) throw new Error(`${took} ms`)
      await settle(800)
      await shot(`large-graph-${group}`)
      // Figures change with every answer, and places do not: there is one layout.
      const stands = () => page.locator('.react-flow__edge').evaluateAll((list) => list.map((e) => e.getAttribute('aria-label')).join())
      const before = await stands()
      for (let n = 0; n < 100 && (await stands()) === before; n++) await settle(200)
      if ((await stands()) === before) throw new Error('the figures do not change')
      if ((await c.getAttribute('data-laid')) !== '1') throw new Error(`${await c.getAttribute('data-laid')} layouts`)
      if (group === 'folded') {
        const size = await page.locator('.vertex .title').first().evaluate((e) => e.getBoundingClientRect().height)
        console.log(`# folded_title_px ${size.toFixed(1)}`)
        if (size < 9) throw new Error(`titles are ${size} px high: nobody can read them`)
      }
    })
}

/** A real mesh with the sample. */
async function walkLive() {
  await step('connections-pod: live', async () => {
    await goto('/connections')
    await page.locator('td[data-title="Pod"] a').first().click()
    await ageOfConnections()
    await accessible('connections-pod')
    await shot('live-connections-pod')
  })
  for (const p of pages.filter((p) => !p.made))
    await step(`${p.name}: live`, async () => {
      await goto(p.path)
      await p.live()
      await settle(1500)
      await accessible(p.name)
      await shot(`live-${p.name}`)
    })
}

await enter()
await ({ pages: walkPages, large: walkLarge, live: walkLive })[WALK]()
await honest()
await browser.close()
process.exit(failures ? 1 : 0)
