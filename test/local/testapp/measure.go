package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// measured is what a measureCommand knows of its own requests.
type measured struct {
	Answered map[string]map[int]int `json:"answered"` // by URL and status
	Failed   map[string]int         `json:"failed"`   // without an answer
	TookUs   []int64                `json:"took_us"`  // sorted, of the answered ones
}

// measureCommand makes an exact number of HTTP/1.1 requests and says what became of
// each.
func measureCommand() *cobra.Command {
	var parallel int
	c := &cobra.Command{
		Use: "measure N@URL…", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var urls []string
			for _, a := range args {
				n, url, _ := strings.Cut(a, "@")
				count, err := strconv.Atoi(n)
				if err != nil || url == "" {
					return fmt.Errorf("%q: want N@URL", a)
				}
				urls = append(urls, slices.Repeat([]string{url}, count)...)
			}
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] }) //nolint:gosec // an order
			work := make(chan string, len(urls))
			for _, u := range urls {
				work <- u
			}
			close(work)
			m := &measured{Answered: map[string]map[int]int{}, Failed: map[string]int{}}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel}, Timeout: time.Minute}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range parallel {
				wg.Go(func() {
					for url := range work {
						start := time.Now()
						code, err := ask(cmd.Context(), client, url)
						took := time.Since(start)
						mu.Lock()
						m.add(url, code, err, took)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			slices.Sort(m.TookUs)
			return answer(m)
		},
	}
	c.Flags().IntVar(&parallel, "parallel", 16, "requests in flight")
	return c
}

func (m *measured) add(url string, code int, err error, took time.Duration) {
	if err != nil {
		m.Failed[url]++
		return
	}
	if m.Answered[url] == nil {
		m.Answered[url] = map[int]int{}
	}
	m.Answered[url][code]++
	m.TookUs = append(m.TookUs, took.Microseconds())
}

func ask(ctx context.Context, c *http.Client, url string) (code int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
