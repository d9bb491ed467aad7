// Package metrics knows what the sidecars counted. It owns scraping them
// (Scraper), a window of a minute or so in memory (Window), and the few questions
// that stat asks (Querier), which a real store will answer as well. It refuses
// to know what a row of stat looks like (control/query).
//
// Names, labels and the meaning of quantiles are those of the Prometheus
// queries that Linkerd's viz asks; where a window in memory knows better than
// samples ten seconds apart, it says so:
//
//   - A counter that appears in a sidecar that was scraped before began at zero,
//     so its first value counts. Prometheus cannot know and leaves it out.
//   - Quantiles are of all requests in the window, not of the last two scrapes.
package metrics
