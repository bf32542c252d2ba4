package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
)

var (
	keySets = documentMetrics{
		size:  describe("tollgate_key_set_keys", "Keys that signatures can be verified with.", "set"),
		age:   describe("tollgate_key_set_age_seconds", "Time since the keys were last read.", "set"),
		reads: describe("tollgate_key_set_refreshes_total", "Attempts to read a key set, by result (ok, failed).", "set", "result"),
	}
	lists = documentMetrics{
		size:  describe("tollgate_list_entries", "Entries of a list, as of its last good document.", "list"),
		age:   describe("tollgate_list_age_seconds", "Time since a list was last read; absent where it never was.", "list"),
		reads: describe("tollgate_list_reads_total", "Attempts to read a list, by result (ok, failed).", "list", "result"),
	}
	htpasswd = documentMetrics{
		size:  describe("tollgate_htpasswd_users", "Users of an htpasswd file.", "file"),
		age:   describe("tollgate_htpasswd_age_seconds", "Time since an htpasswd file was last read.", "file"),
		reads: describe("tollgate_htpasswd_reads_total", "Attempts to read an htpasswd file, by result (ok, failed).", "file", "result"),
	}
)

// documentMetrics are what is known of documents of one kind.
type documentMetrics struct {
	size, age, reads *prometheus.Desc
}

// CountKeySets makes figures of key sets metrics.
func (o *Observer) CountKeySets(stats func() map[string]follow.Stats) {
	o.registry.MustRegister(&documentCollector{keySets, stats})
}

// CountLists makes figures of named lists metrics.
func (o *Observer) CountLists(stats func() map[string]follow.Stats) {
	o.registry.MustRegister(&documentCollector{lists, stats})
}

// CountHtpasswd makes figures of htpasswd files metrics.
func (o *Observer) CountHtpasswd(stats func() map[string]follow.Stats) {
	o.registry.MustRegister(&documentCollector{htpasswd, stats})
}

type documentCollector struct {
	documentMetrics
	stats func() map[string]follow.Stats
}

// Describe describes all there is.
func (c *documentCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.size
	to <- c.age
	to <- c.reads
}

// Collect reads the figures.
func (c *documentCollector) Collect(to chan<- prometheus.Metric) {
	for name, s := range c.stats() {
		to <- prometheus.MustNewConstMetric(c.size, prometheus.GaugeValue, float64(s.Size), name)
		if s.Loaded {
			to <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, s.Age.Seconds(), name)
		}
		to <- prometheus.MustNewConstMetric(c.reads, prometheus.CounterValue, float64(s.Read), name, "ok")
		to <- prometheus.MustNewConstMetric(c.reads, prometheus.CounterValue, float64(s.Failed), name, "failed")
	}
}
