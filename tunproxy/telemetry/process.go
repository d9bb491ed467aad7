package telemetry

import (
	"bytes"
	"os"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of the times in /proc/self/stat. Linux fixes it at 100 for
// what user space sees, on every architecture that Go supports.
const userHZ = 100

// process are the process_ and go_ families.
type process struct {
	start   time.Time
	buf     []byte // reused; the registry's lock is held during a print
	runtime []metrics.Sample
}

// goFamilies are what Go's runtime says of itself, by the names that Prometheus's
// clients give it.
func goFamilies() []goFamily {
	return []goFamily{
		{"/sched/goroutines:goroutines", "go_goroutines", "Number of goroutines that exist."},
		{"/gc/heap/live:bytes", "go_gc_heap_live_bytes", "Heap memory that the last garbage collection found in use."},
	}
}

type goFamily struct{ source, name, help string }

func newProcess(start time.Time) *process {
	p := &process{start: start}
	for _, f := range goFamilies() {
		p.runtime = append(p.runtime, metrics.Sample{Name: f.source})
	}
	return p
}

// collect reads /proc/self, which a process may do even when it is not dumpable.
func (p *process) collect(w *Writer) {
	w.Gauge("process_start_time_seconds", "Time when the process started (Unix seconds).")
	w.Sample("process_start_time_seconds", float64(p.start.Unix()))
	w.Counter("process_uptime_seconds_total", "Seconds since the process started.")
	w.Sample("process_uptime_seconds_total", float64(int64(time.Since(p.start)/time.Second)))
	if s, ok := p.stat(); ok {
		w.Counter("process_cpu_seconds_total", "CPU time used, user and system.")
		w.Sample("process_cpu_seconds_total", float64(s.ticks)/userHZ)
		w.Gauge("process_virtual_memory_bytes", "Virtual memory size.")
		w.Sample("process_virtual_memory_bytes", float64(s.virtual))
		w.Gauge("process_resident_memory_bytes", "Resident set size.")
		w.Sample("process_resident_memory_bytes", float64(s.resident))
		w.Gauge("process_threads", "Number of OS threads.")
		w.Sample("process_threads", float64(s.threads))
	}
	if n, ok := openFDs(); ok {
		w.Gauge("process_open_fds", "Number of open file descriptors.")
		w.Sample("process_open_fds", float64(n))
	}
	collectHeap(w)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		w.Gauge("process_max_fds", "Largest number of open file descriptors.")
		w.Sample("process_max_fds", float64(limit.Cur))
	}
	metrics.Read(p.runtime)
	for i, f := range goFamilies() {
		if v := p.runtime[i].Value; v.Kind() == metrics.KindUint64 {
			w.Gauge(f.name, f.help)
			w.Sample(f.name, float64(v.Uint64()))
		}
	}
}

// collectHeap asks the runtime for what was ever allocated: the names are those of
// Prometheus's Go client.
func collectHeap(w *Writer) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/tiny/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return
		}
	}
	w.Counter("go_memstats_mallocs_total", "Total count of heap objects allocated.")
	w.Sample("go_memstats_mallocs_total", float64(s[0].Value.Uint64()+s[1].Value.Uint64()))
	w.Counter("go_memstats_alloc_bytes_total", "Total count of bytes allocated for heap objects.")
	w.Sample("go_memstats_alloc_bytes_total", float64(s[2].Value.Uint64()))
}

type procStat struct{ ticks, threads, virtual, resident uint64 }

func (p *process) stat() (procStat, bool) {
	f, err := os.Open("/proc/self/stat")
	if err != nil {
		return procStat{}, false
	}
	defer f.Close()
	if p.buf == nil {
		p.buf = make([]byte, 1024)
	}
	n, err := f.Read(p.buf)
	if err != nil {
		return procStat{}, false
	}
	return parseStat(p.buf[:n])
}

// parseStat reads proc_pid_stat(5): the fields after the parenthesised name,
// which may itself hold spaces and parentheses.
func parseStat(b []byte) (procStat, bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return procStat{}, false
	}
	fields := bytes.Fields(b[i+1:]) // the first is field 3
	if len(fields) < 22 {
		return procStat{}, false
	}
	var v [5]uint64
	for k, n := range [5]int{14, 15, 20, 23, 24} { // utime, stime, num_threads, vsize, rss
		x, err := strconv.ParseUint(string(fields[n-3]), 10, 64)
		if err != nil {
			return procStat{}, false
		}
		v[k] = x
	}
	return procStat{ticks: v[0] + v[1], threads: v[2], virtual: v[3], resident: v[4] * uint64(os.Getpagesize())}, true
}

func openFDs() (int, bool) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, false
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0, false
	}
	return len(names) - 1, true // without d
}
