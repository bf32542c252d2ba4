package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/lists"
)

var (
	listEntries = describe("tollgate_list_entries", "Entries of a list, as of its last good document.", "list")
	listAge     = describe("tollgate_list_age_seconds", "Time since a list was last read; absent where it never was.", "list")
	listReads   = describe("tollgate_list_reads_total", "Attempts to read a list, by result (ok, failed).", "list", "result")
)

// CountLists makes what is known of named lists metrics.
func (o *Observer) CountLists(stats func() map[string]lists.Stats) {
	o.registry.MustRegister(&listCollector{stats})
}

type listCollector struct{ stats func() map[string]lists.Stats }

// Describe describes all there is.
func (c *listCollector) Describe(to chan<- *prometheus.Desc) {
	to <- listEntries
	to <- listAge
	to <- listReads
}

// Collect reads the figures.
func (c *listCollector) Collect(to chan<- prometheus.Metric) {
	for name, s := range c.stats() {
		to <- prometheus.MustNewConstMetric(listEntries, prometheus.GaugeValue, float64(s.Entries), name)
		if s.Loaded {
			to <- prometheus.MustNewConstMetric(listAge, prometheus.GaugeValue, s.Age.Seconds(), name)
		}
		to <- prometheus.MustNewConstMetric(listReads, prometheus.CounterValue, float64(s.Read), name, "ok")
		to <- prometheus.MustNewConstMetric(listReads, prometheus.CounterValue, float64(s.Failed), name, "failed")
	}
}
