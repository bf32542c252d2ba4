package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
)

var (
	spansCounted = describe("tollgate_trace_spans_total", "Sampled spans by what became of them (exported, rejected, crowded, failed).", "result")
	spansWaiting = describe("tollgate_trace_spans_waiting", "Spans that wait to be sent.")
)

// SpansNotSent logs why spans are not sent.
func (o *Observer) SpansNotSent(err error) {
	if more, ok := o.failures.allow("traces"); ok {
		o.logger.Warn("spans could not be sent", "detail", err.Error(), "like_this_since_last_line", more)
	}
}

// CountTraces makes what a tracer counts metrics.
func (o *Observer) CountTraces(t *tracing.Tracer) { o.registry.MustRegister(&traceCollector{t}) }

type traceCollector struct{ tracer *tracing.Tracer }

// Describe describes all there is.
func (c *traceCollector) Describe(to chan<- *prometheus.Desc) {
	to <- spansCounted
	to <- spansWaiting
}

// Collect reads the counts.
func (c *traceCollector) Collect(to chan<- prometheus.Metric) {
	s := c.tracer.Stats()
	for result, n := range map[string]uint64{"exported": s.Exported, "rejected": s.Rejected, "crowded": s.Crowded, "failed": s.Failed} {
		to <- prometheus.MustNewConstMetric(spansCounted, prometheus.CounterValue, float64(n), result)
	}
	to <- prometheus.MustNewConstMetric(spansWaiting, prometheus.GaugeValue, float64(s.Waiting))
}

// CountReadiness makes it a metric whether the process is ready for calls.
func (o *Observer) CountReadiness(find func(readiness.Calls) readiness.Findings) {
	for name, calls := range map[string]readiness.Calls{"checks": readiness.All, "reports": readiness.Reports} {
		o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tollgate_ready", Help: "1 while the process is ready for calls of a kind (checks, reports), else 0; /readyz says why.",
			ConstLabels: prometheus.Labels{"calls": name},
		}, func() float64 {
			if find(calls).Err() != nil {
				return 0
			}
			return 1
		}))
	}
}
