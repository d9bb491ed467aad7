// Package console has the tests of the console in a real browser: headless
// Chromium, driven by playwright-core, through `meshctl dashboard`. They need
// `make console`, and are left out by name without Node, Chromium or the page.
package console
