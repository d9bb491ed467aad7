import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import react from '@vitejs/plugin-react'
import { defineConfig, type Plugin } from 'vite'

const out = join(import.meta.dirname, '../dist')

// The folder is kept by a file that is in the repository: vite must not empty it.
function clean(): Plugin {
  return {
    name: 'clean',
    apply: 'build',
    buildStart() {
      for (const f of readdirSync(out)) if (f !== '.gitignore') rmSync(join(out, f), { recursive: true })
    },
  }
}

// Whose software the page has in it, with their terms.
function notices(): Plugin {
  const packages = new Set<string>()
  return {
    name: 'notices',
    apply: 'build',
    generateBundle() {
      for (const id of this.getModuleIds()) {
        const m = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id.replace(/^\0/, '').replace(/\?.*$/, ''))
        if (m) packages.add(m[1])
      }
      const texts = [...packages].sort().map((dir) => {
        const p = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'))
        const files = readdirSync(dir).filter((f) => /^(licen[cs]e|notice|copying)/i.test(f)).sort()
        const body = files.map((f) => readFileSync(join(dir, f), 'utf8').trim()).join('\n\n')
        return `${p.name} ${p.version}\nLicense: ${p.license ?? 'see below'}\n${p.repository?.url ?? p.homepage ?? ''}\n\n${body || `(the package ${p.name} has no file of its terms; they are those of ${p.license})`}\n`
      })
      this.emitFile({ type: 'asset', fileName: 'notices.txt', source: `The console of Tunmesh contains the software of others:\n\n${texts.join(`\n${'-'.repeat(78)}\n\n`)}` })
    },
  }
}

// What is large is kept compressed: programs that embed it are smaller, and it is
// sent as it is.
function compress(): Plugin {
  return {
    name: 'compress',
    apply: 'build',
    closeBundle() {
      for (const f of readdirSync(out)) {
        if (!/\.(js|css|txt)$/.test(f)) continue
        writeFileSync(join(out, `${f}.gz`), gzipSync(readFileSync(join(out, f)), { level: 9 }))
        rmSync(join(out, f))
      }
    },
  }
}

export default defineConfig({
  base: '/assets/',
  plugins: [clean(), react(), notices(), compress()],
  build: {
    outDir: out,
    emptyOutDir: false,
    assetsDir: '',
    assetsInlineLimit: 0,
    target: 'es2022',
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2000,
  },
})

