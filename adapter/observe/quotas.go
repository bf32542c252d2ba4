package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

func newAmounts() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_quota_amount_total",
		Help: "Amounts that were asked of quotas by handler and result (granted, refused; failed_open, failed_closed where they were granted or refused for a failure).",
	}, []string{"handler", "result"})
}

// countAmount counts what a quota call asked for, by what became of it.
func (o *Observer) countAmount(handler string, d policy.Decision) {
	granted, refused := "granted", "refused"
	if d.Failure != nil {
		granted, refused = "failed_open", "failed_closed"
	}
	if d.Granted > 0 {
		o.amounts.WithLabelValues(handler, granted).Add(float64(d.Granted))
	}
	if rest := d.Asked - d.Granted; rest > 0 {
		o.amounts.WithLabelValues(handler, refused).Add(float64(rest))
	}
}

// CountQuotas makes the number of counts in memory a metric.
func (o *Observer) CountQuotas(counts func() int) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tollgate_quota_counts",
		Help: "Counts of quotas in memory; where limits.quota_counts are reached, further ones are overload failures.",
	}, func() float64 { return float64(counts()) }))
}
