package soak

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"text/template"
	"time"
)

// results are what a soak came to, beside its samples.
type results struct {
	long                              time.Duration
	checksPerSecond, reportsPerSecond int
	baseline, after                   float64 // goroutines
	second, last                      float64 // median memory of thirds, in MiB
	tollgate, generator               float64 // cores
	lost                              map[string]int
}

var pageTemplate = template.Must(template.New("page").Parse(`# Soak

Written by ` + "`make soak SOAK={{.Long}}`" + ` on {{.Date}}; {{.Cores}} cores, {{.Go}}. [bench/README.md](../bench/README.md#soak) says what it does.

![The course of the run](soak.svg)

Shaded: a sink was away.

| | |
|---|---|
{{range .Rows}}| {{index . 0}} | {{index . 1}} |
{{end}}
`))

// page writes the figures for people.
func (s *soak) page(w io.Writer, r *results, passed bool) error {
	checks, failed, wrong, _ := s.callers.checks.second()
	_, refused, _, _ := s.callers.reports.second()
	rotated := map[string]int{"certificate": s.certificates.count()}
	for _, rotation := range s.rotations {
		rotated[rotation.name] = rotation.count()
	}
	verdict := "passed"
	if !passed {
		verdict = "**failed**"
	}
	stalls, stood := s.stalls.total()
	last := len(s.samples) - 1
	rows := [][2]string{
		{"verdict", verdict},
		{"load a second", fmt.Sprintf("%d checks, %d report calls with %d records each for three sinks, %d connections that come and go", r.checksPerSecond, r.reportsPerSecond, perCall, visitsPerSecond)},
		{"checks answered as they had to be", strconv.Itoa(checks)},
		{"checks that failed; that were answered wrong", fmt.Sprintf("%d; %d", failed, wrong)},
		{"time of checks: median, p99, p99.9, slowest", fmt.Sprintf("%.1f, %.1f, %.1f, %.0f ms", milliseconds(s.callers.checks.quantile(0.5)),
			milliseconds(s.callers.checks.quantile(0.99)), milliseconds(s.callers.checks.quantile(0.999)), milliseconds(s.callers.checks.quantile(1)))},
		{"records acknowledged; report calls refused", fmt.Sprintf("%d; %d", s.callers.reported.count(), refused)},
		{"records lost: by the file, by the Collector, by the web server", fmt.Sprintf("%d, %d, %d", r.lost["file"], r.lost["collector"], r.lost["webhook"])},
		{"outages of a sink; most records that waited", fmt.Sprintf("%d; %.0f", s.outages, s.most(func(s *sample) float64 { return s.pending }))},
		{"values replaced: secret, API key, caller's token, list, signing key, certificate", fmt.Sprintf("%d, %d, %d, %d, %d, %d",
			rotated["token"], rotated["key"], rotated["caller"], rotated["listed"], rotated["signer"], rotated["certificate"])},
		{"handlers compiled", fmt.Sprintf("%.0f", s.last.Sum("tollgate_handlers_compiled_total"))},
		{"RSS, medians of the second and the last third", fmt.Sprintf("%.1f, %.1f MiB: %.3f", r.second, r.last, r.last/r.second)},
		{"RSS", extent(s.samples, func(s *sample) float64 { return s.resident }) + " MiB"},
		{"goroutines before and after the load", fmt.Sprintf("%.0f, %.0f", r.baseline, r.after)},
		{"goroutines under load", extent(s.samples, func(s *sample) float64 { return s.goroutines })},
		{"open files", extent(s.samples, func(s *sample) float64 { return s.files })},
		{"processor time: Tollgate; the load's side", fmt.Sprintf("%.2f; %.2f cores", r.tollgate, r.generator)},
		{"times the machine stood still for more than a second; calls that had no answer in time because of it", fmt.Sprintf("%d, %s in all; %d checks, %d report calls",
			stalls, stood.Round(time.Second), s.callers.checks.excused(&s.stalls), s.callers.reports.excused(&s.stalls))},
		{"samples, all of which balanced", fmt.Sprintf("%d in %s", len(s.samples), s.samples[last].at.Round(time.Second))},
	}
	return pageTemplate.Execute(w, map[string]any{
		"Long": r.long, "Date": time.Now().Format(time.DateOnly), "Cores": runtime.NumCPU(), "Go": runtime.Version(), "Rows": rows,
	})
}

func (s *soak) most(of func(s *sample) float64) (most float64) {
	for i := range s.samples {
		most = max(most, of(&s.samples[i]))
	}
	return most
}
