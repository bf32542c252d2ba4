package soak

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// Sizes of the plot, in pixels.
const (
	plotWidth   = 800
	panelHeight = 110
	panelGap    = 34
	marginLeft  = 70
	marginRight = 20
)

// panel is one of the plot's parts, all of which have the same time axis.
type panel struct {
	title string
	lines []line
}

type line struct {
	color string
	value func(before, s *sample) float64
}

var panels = []panel{
	{"resident memory, MiB", []line{{"#0550ae", func(_, s *sample) float64 { return s.resident }}}},
	{"goroutines", []line{{"#0550ae", func(_, s *sample) float64 { return s.goroutines }}}},
	{"open files; connections of callers (grey)", []line{
		{"#8c959f", func(_, s *sample) float64 { return s.connections }},
		{"#0550ae", func(_, s *sample) float64 { return s.files }},
	}},
	{"checks answered as expected a second; failed or wrong (red)", []line{
		{"#116329", func(before, s *sample) float64 {
			return float64(s.checks-before.checks) / max(s.at-before.at, 1).Seconds()
		}},
		{"#cf222e", func(before, s *sample) float64 { return float64(s.failed + s.wrong - before.failed - before.wrong) }},
	}},
	{"slowest check of a second, ms", []line{{"#0550ae", func(_, s *sample) float64 { return milliseconds(s.slowest) }}}},
	{"records that wait for a sink", []line{{"#953800", func(_, s *sample) float64 { return s.pending }}}},
}

var plotTemplate = template.Must(template.New("plot").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="12" fill="#1f2328">
<rect width="{{.Width}}" height="{{.Height}}" fill="#ffffff"/>
{{range .Panels}}<text x="{{$.Left}}" y="{{.TitleY}}">{{.Title}}</text>
{{range .Shades}}<rect x="{{.X}}" y="{{.Y}}" width="{{.Width}}" height="{{.Height}}" fill="#fff1e5"/>
{{end}}<path d="M{{$.Left}} {{.Top}}V{{.Bottom}}H{{$.Right}}" fill="none" stroke="#8c959f"/>
<text x="{{$.Labels}}" y="{{.TopLabel}}" text-anchor="end">{{.Max}}</text><text x="{{$.Labels}}" y="{{.Bottom}}" text-anchor="end">0</text>
{{range .Lines}}<polyline fill="none" stroke="{{.Color}}" points="{{.Points}}"/>
{{end}}{{end}}{{range .Ticks}}<text x="{{.X}}" y="{{$.TicksY}}" text-anchor="middle">{{.Text}}</text>
{{end}}</svg>
`))

// plot draws the samples. Times when a sink was away are shaded. Where there are more samples than pixels, the largest of those that
// share a pixel counts.
func plot(w io.Writer, samples []sample) error {
	type (
		shade   struct{ X, Y, Width, Height string }
		drawn   struct{ Color, Points string }
		section struct {
			Title, Max                    string
			TitleY, Top, TopLabel, Bottom int
			Shades                        []shade
			Lines                         []drawn
		}
		tick struct{ X, Text string }
	)
	const right = plotWidth - marginRight
	end := samples[len(samples)-1].at
	x := func(at time.Duration) float64 { return marginLeft + float64(at)/float64(end)*(right-marginLeft) }
	picture := struct {
		Width, Height, Left, Right, Labels, TicksY int
		Panels                                     []section
		Ticks                                      []tick
	}{Width: plotWidth, Height: len(panels)*(panelHeight+panelGap) + panelGap, Left: marginLeft, Right: right, Labels: marginLeft - 6}
	for i, p := range panels {
		top := panelGap + i*(panelHeight+panelGap)
		s := section{Title: p.title, TitleY: top - 8, Top: top, TopLabel: top + 10, Bottom: top + panelHeight}
		values, highest := make([][]float64, len(p.lines)), 1.0
		for l, line := range p.lines {
			for j := range samples {
				values[l] = append(values[l], line.value(&samples[max(j-1, 0)], &samples[j]))
				highest = max(highest, values[l][j])
			}
		}
		s.Max = number(highest, 0)
		for l, line := range p.lines {
			s.Lines = append(s.Lines, drawn{line.color, points(samples, values[l], x, func(v float64) float64 {
				return float64(s.Bottom) - v/highest*panelHeight
			})})
		}
		for j := 0; j < len(samples); j++ {
			begin := j
			for j < len(samples) && samples[j].outage {
				j++
			}
			if j > begin {
				from, to := x(samples[begin].at), x(samples[min(j, len(samples)-1)].at)
				s.Shades = append(s.Shades, shade{number(from, 1), strconv.Itoa(top), number(to-from, 1), strconv.Itoa(panelHeight)})
			}
		}
		picture.Panels = append(picture.Panels, s)
	}
	picture.TicksY = picture.Height - panelGap + 16
	const ticks = 6
	for i := range ticks + 1 {
		at := end * time.Duration(i) / ticks
		picture.Ticks = append(picture.Ticks, tick{number(x(at), 1), at.Round(time.Second).String()})
	}
	return plotTemplate.Execute(w, picture)
}

func points(samples []sample, values []float64, x func(time.Duration) float64, y func(float64) float64) string {
	var text strings.Builder
	for i := 0; i < len(samples); {
		pixel, highest := int(x(samples[i].at)), values[i]
		for i++; i < len(samples) && int(x(samples[i].at)) == pixel; i++ {
			highest = max(highest, values[i])
		}
		fmt.Fprintf(&text, "%d,%s ", pixel, number(y(highest), 1))
	}
	return strings.TrimSpace(text.String())
}
