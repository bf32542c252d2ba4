package soak

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// sample is what was seen at one moment.
type sample struct {
	at                                                  time.Duration
	resident                                            float64 // MiB
	goroutines, files, connections                      float64
	checks, failed, wrong                               int
	slowest                                             time.Duration // check since the last sample
	acknowledged, reportsFailed                         int
	deliveredFile, deliveredCollector, deliveredWebhook float64
	pending                                             float64
	outage                                              bool
}

// columns are those of the CSV file.
var columns = []struct {
	name  string
	value func(s *sample) string
}{
	{"seconds", func(s *sample) string { return number(s.at.Seconds(), 1) }},
	{"rss_mib", func(s *sample) string { return number(s.resident, 1) }},
	{"goroutines", func(s *sample) string { return number(s.goroutines, 0) }},
	{"open_files", func(s *sample) string { return number(s.files, 0) }},
	{"connections", func(s *sample) string { return number(s.connections, 0) }},
	{"checks_ok", func(s *sample) string { return strconv.Itoa(s.checks) }},
	{"checks_failed", func(s *sample) string { return strconv.Itoa(s.failed) }},
	{"checks_wrong", func(s *sample) string { return strconv.Itoa(s.wrong) }},
	{"slowest_check_ms", func(s *sample) string { return number(milliseconds(s.slowest), 1) }},
	{"records_acknowledged", func(s *sample) string { return strconv.Itoa(s.acknowledged) }},
	{"reports_failed", func(s *sample) string { return strconv.Itoa(s.reportsFailed) }},
	{"delivered_file", func(s *sample) string { return number(s.deliveredFile, 0) }},
	{"delivered_collector", func(s *sample) string { return number(s.deliveredCollector, 0) }},
	{"delivered_webhook", func(s *sample) string { return number(s.deliveredWebhook, 0) }},
	{"pending", func(s *sample) string { return number(s.pending, 0) }},
	{"outage", func(s *sample) string { return strconv.FormatBool(s.outage) }},
}

func number(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// writeCSV writes a line for every sample.
func writeCSV(w io.Writer, samples []sample) error {
	c := csv.NewWriter(w)
	header := make([]string, len(columns))
	for i, column := range columns {
		header[i] = column.name
	}
	if err := c.Write(header); err != nil {
		return err
	}
	for i := range samples {
		row := make([]string, len(columns))
		for j, column := range columns {
			row[j] = column.value(&samples[i])
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// third returns the median memory of a third of the time, in MiB.
func third(samples []sample, which int) float64 {
	if len(samples) == 0 {
		return 0
	}
	var resident []float64
	long := samples[len(samples)-1].at / 3
	for i := range samples {
		if min(int(samples[i].at/max(long, 1)), 2) == which {
			resident = append(resident, samples[i].resident)
		}
	}
	return median(resident)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// extent says from where to where something went, and its median.
func extent(samples []sample, of func(s *sample) float64) string {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = of(&samples[i])
	}
	return fmt.Sprintf("%.0f to %.0f, median %.0f", slices.Min(values), slices.Max(values), median(values))
}
