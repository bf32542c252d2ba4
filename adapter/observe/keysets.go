package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/keyset"
)

var (
	keySetKeys      = describe("tollgate_key_set_keys", "Keys that signatures can be verified with.", "set")
	keySetAge       = describe("tollgate_key_set_age_seconds", "Time since the keys were last read.", "set")
	keySetRefreshes = describe("tollgate_key_set_refreshes_total", "Attempts to read a key set, by result (ok, failed).", "set", "result")
)

type keySetCollector struct {
	stats func() map[string]keyset.Stats
}

// Describe describes all there is.
func (c *keySetCollector) Describe(to chan<- *prometheus.Desc) {
	to <- keySetKeys
	to <- keySetAge
	to <- keySetRefreshes
}

// Collect reads the figures.
func (c *keySetCollector) Collect(to chan<- prometheus.Metric) {
	for set, s := range c.stats() {
		to <- prometheus.MustNewConstMetric(keySetKeys, prometheus.GaugeValue, float64(s.Keys), set)
		if s.Loaded {
			to <- prometheus.MustNewConstMetric(keySetAge, prometheus.GaugeValue, s.Age.Seconds(), set)
		}
		to <- prometheus.MustNewConstMetric(keySetRefreshes, prometheus.CounterValue, float64(s.Refreshed), set, "ok")
		to <- prometheus.MustNewConstMetric(keySetRefreshes, prometheus.CounterValue, float64(s.Failed), set, "failed")
	}
}
