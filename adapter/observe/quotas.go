package observe

import "github.com/prometheus/client_golang/prometheus"

// CountQuotas makes the number of counts in memory a metric.
func (o *Observer) CountQuotas(counts func() int) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tollgate_quota_counts",
		Help: "Counts of quotas in memory; where limits.quota_counts are reached, further ones are overload failures.",
	}, func() float64 { return float64(counts()) }))
}
