package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/result"
)

// Plot is a picture of a report.
type Plot struct{ Title, File string }

const (
	plotWidth   = 9 * vg.Inch
	plotHeight  = 4 * vg.Inch
	legendWidth = 1.2 * vg.Inch
	margin      = 0.12 * vg.Inch
	// manyPlaces is how many names have room beside each other.
	manyPlaces = 8
)

// newPlot is an empty one in the manner of all: lines across only, and letters
// that are found everywhere.
func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, vg.Points(8)
	for _, s := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		s.Font.Variant = "Sans"
	}
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(3)
	p.Legend.ThumbnailWidth = vg.Points(14)
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	p.Add(grid)
	return p
}

// save draws the legend beside the plot, where it hides nothing. The ground is
// white, so that a page may be dark.
func save(p *plot.Plot, path string) error {
	c := vgsvg.New(plotWidth, plotHeight)
	all := draw.New(c)
	all.FillPolygon(color.White, []vg.Point{all.Min, {X: all.Max.X, Y: all.Min.Y}, all.Max, {X: all.Min.X, Y: all.Max.Y}})
	legend := p.Legend
	p.Legend = plot.NewLegend()
	p.Draw(draw.Crop(all, margin, -legendWidth-margin, margin, -margin))
	legend.Draw(draw.Crop(all, plotWidth-legendWidth, -margin, margin, -4*margin))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	svg := strings.ReplaceAll(b.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	return os.WriteFile(path, []byte(svg), 0o644)
}

// steps are at most seven ticks from 0, of a length that is easily counted in.
func steps(_, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(high/7)))
	for i := 0; high/step > 7; i++ {
		step *= []float64{2, 2.5, 2}[i%3]
	}
	for v := 0.0; v <= high; v += step {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 4, 64)})
	}
	return ticks
}

// powers are ticks at powers of ten, in numbers that need no decoding.
func powers(low, high float64) (ticks []plot.Tick) {
	for v := math.Pow(10, math.Floor(math.Log10(low))); v <= high*1.001; v *= 10 {
		for i := range 9 {
			if at := v * float64(i+1); at >= low && at <= high {
				t := plot.Tick{Value: at}
				if i == 0 {
					t.Label = digits(at)
				}
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// Plots writes the pictures for which there are figures.
func Plots(dir string, b *result.Bench, base string) ([]Plot, error) {
	var out []Plot
	for _, f := range []func(string, *result.Bench, string) (*Plot, error){efficiency, memory} {
		p, err := f(dir, b, base)
		if err != nil {
			return nil, err
		}
		if p != nil {
			out = append(out, *p)
		}
	}
	for _, w := range b.Workloads {
		p, err := latency(dir, b, w)
		if err != nil {
			return nil, err
		}
		if p != nil {
			out = append(out, *p)
		}
	}
	return out, nil
}

// peerColor is that of a peer in all pictures: gray for the first, which is what there
// is without any, so that seven more can be told apart.
func peerColor(i int) color.Color {
	if i == 0 {
		return color.Gray{Y: 0x80}
	}
	return plotutil.Color(i - 1)
}

// group is bars of one peer, one for each place on the axis.
type group struct {
	name   string
	color  int // a peer has one in all pictures
	values plotter.Values
}

func bars(dir, file, title, unit string, places []string, groups []group) (*Plot, error) {
	if len(places) == 0 || len(groups) == 0 {
		return nil, nil
	}
	p := newPlot(title)
	p.Y.Label.Text, p.Y.Min = unit, 0
	width := vg.Length(float64(plotWidth-legendWidth) * 0.85 / float64(len(places)*(len(groups)+1)))
	for i, g := range groups {
		chart, err := plotter.NewBarChart(g.values, width)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", file, err)
		}
		chart.Color = peerColor(g.color)
		chart.LineStyle.Width = 0
		chart.Offset = width * vg.Length(float64(i)-float64(len(groups)-1)/2)
		p.Add(chart)
		p.Legend.Add(g.name, chart)
	}
	p.NominalX(places...)
	if len(places) > manyPlaces {
		l := &p.X.Tick.Label
		l.Rotation, l.XAlign, l.YAlign = math.Pi/4, text.XRight, text.YTop
	}
	p.Y.Max *= 1.05
	p.Y.Tick.Marker = plot.TickerFunc(steps)
	p.X.Min, p.X.Max = -0.5, float64(len(places))-0.5
	if err := save(p, filepath.Join(dir, file)); err != nil {
		return nil, err
	}
	return &Plot{Title: title, File: file}, nil
}

// efficiency: work per CPU second of the pair, relative to base.
func efficiency(dir string, b *result.Bench, base string) (*Plot, error) {
	var places []string
	for _, w := range b.Workloads {
		if s, ok := b.Get(w.Name, base, result.PerPair); ok && s.Median > 0 && w.Main != result.ClientRSS {
			places = append(places, w.Name)
		}
	}
	var groups []group
	for i, p := range b.Peers {
		if !p.MTLS { // what does without is no measure of those with it
			continue
		}
		g := group{name: p.Name, color: i}
		measured := false
		for _, w := range places {
			v := 0.0
			if r, ok := Ratio(b, w, p.Name, base, result.PerPair); ok {
				v, measured = r, true
			}
			g.values = append(g.values, v)
		}
		if measured {
			groups = append(groups, g)
		}
	}
	return bars(dir, "efficiency.svg", "Work per CPU second of the pair", "× "+base, places, groups)
}

// memory of the client's side.
func memory(dir string, b *result.Bench, _ string) (*Plot, error) {
	var places []string
	for _, w := range b.Workloads {
		if w.Name == "h1-64" || w.Main == result.ClientRSS {
			places = append(places, w.Name)
		}
	}
	var groups []group
	for i, p := range b.Peers {
		if len(p.Idle) == 0 {
			continue
		}
		g := group{name: p.Name, color: i, values: plotter.Values{float64(p.Idle[0].Resident) / (1 << 20)}}
		for _, w := range places {
			s, _ := b.Get(w, p.Name, result.ClientRSS)
			g.values = append(g.values, s.Median)
		}
		groups = append(groups, g)
	}
	return bars(dir, "memory.svg", "Resident memory of the client's sidecar", "MB", append([]string{"idle"}, places...), groups)
}

// latency: percentiles of an open loop, whose axis is the number of nines.
func latency(dir string, b *result.Bench, w result.Workload) (*Plot, error) {
	if w.Main != result.AddedP99 {
		return nil, nil
	}
	percentiles := []float64{10, 50, 75, 90, 95, 99, 99.5, 99.9}
	p := newPlot(w.About)
	p.X.Label.Text, p.Y.Label.Text = "percentile", "µs"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.TickerFunc(powers)
	var ticks plot.ConstantTicks
	for _, q := range percentiles {
		ticks = append(ticks, plot.Tick{Value: nines(q), Label: fmt.Sprintf("p%g", q)})
	}
	p.X.Tick.Marker = ticks
	drawn := false
	for i, q := range b.Peers {
		line := medianCurve(b, w.Name, q.Name, percentiles)
		if line == nil {
			continue
		}
		l, err := plotter.NewLine(line)
		if err != nil {
			return nil, fmt.Errorf("plot latency: %w", err)
		}
		l.Color, l.Width = peerColor(i), vg.Points(1.5)
		p.Add(l)
		p.Legend.Add(q.Name, l)
		drawn = true
	}
	if !drawn {
		return nil, nil
	}
	file := "latency-" + w.Name + ".svg"
	if err := save(p, filepath.Join(dir, file)); err != nil {
		return nil, err
	}
	return &Plot{Title: w.About, File: file}, nil
}

func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

// medianCurve is the median over runs of each percentile.
func medianCurve(b *result.Bench, workload, peer string, percentiles []float64) plotter.XYs {
	at := make([][]float64, len(percentiles))
	for _, r := range b.Runs {
		if r.Workload != workload || r.Peer != peer {
			continue
		}
		for i, v := range load.Quantiles(r.Load.Histogram, percentiles) {
			at[i] = append(at[i], v)
		}
	}
	var line plotter.XYs
	for i, v := range at {
		if len(v) == 0 {
			return nil
		}
		line = append(line, plotter.XY{X: nines(percentiles[i]), Y: max(result.Summary(v).Median, 0.1)})
	}
	return line
}
