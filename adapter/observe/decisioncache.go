package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
)

var (
	cacheHits      = describe("tollgate_decision_cache_hits_total", "Requests that a Rego policy answered from memory.")
	cacheMisses    = describe("tollgate_decision_cache_misses_total", "Requests that a Rego policy which remembers had to be evaluated for.")
	cacheEvictions = describe("tollgate_decision_cache_evictions_total", "Answers that were forgotten to make room.")
	cacheEntries   = describe("tollgate_decision_cache_entries", "Answers that are remembered.")
	cacheBytes     = describe("tollgate_decision_cache_bytes", "Memory that remembered answers take, estimated.")
)

// CountDecisionCache makes figures of the decision cache metrics.
func (o *Observer) CountDecisionCache(stats func() rego.CacheStats) {
	o.registry.MustRegister(cacheCollector{stats})
}

type cacheCollector struct{ stats func() rego.CacheStats }

// Describe describes all there is.
func (c cacheCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{cacheHits, cacheMisses, cacheEvictions, cacheEntries, cacheBytes} {
		to <- d
	}
}

// Collect reads the figures.
func (c cacheCollector) Collect(to chan<- prometheus.Metric) {
	s := c.stats()
	to <- prometheus.MustNewConstMetric(cacheHits, prometheus.CounterValue, float64(s.Hits))
	to <- prometheus.MustNewConstMetric(cacheMisses, prometheus.CounterValue, float64(s.Misses))
	to <- prometheus.MustNewConstMetric(cacheEvictions, prometheus.CounterValue, float64(s.Evictions))
	to <- prometheus.MustNewConstMetric(cacheEntries, prometheus.GaugeValue, float64(s.Entries))
	to <- prometheus.MustNewConstMetric(cacheBytes, prometheus.GaugeValue, float64(s.Bytes))
}
