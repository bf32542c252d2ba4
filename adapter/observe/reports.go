package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Planned logs a handler whose reports cannot go where it wants them, with every problem.
func (o *Observer) Planned(plan *report.Plan) {
	if len(plan.Problems()) == 0 {
		o.logger.Info("handler takes reports", "handler", plan.Handler())
		return
	}
	if more, ok := o.problems.allow("report/" + plan.Handler()); ok {
		o.logger.Warn("a handler's reports go to the default sinks", "handler", plan.Handler(), "class", "configuration",
			"detail", plan.Problems().Error(), "like_this_since_last_line", more)
	}
}

// Reported counts the instances of a report call by what became of them; and logs refused calls and malformed instances at warn, at
// most once in ten seconds a handler and class.
func (o *Observer) Reported(r report.Reported) {
	handler, kind := o.handlers.bounded(r.Handler), r.Kind.String()
	count := func(result string, n int) {
		if n > 0 {
			o.reports.WithLabelValues(handler, kind, result).Add(float64(n))
		}
	}
	if r.Refused != nil {
		o.reportCalls.WithLabelValues(kind, r.Refused.Class).Inc()
		count("refused", r.Instances)
		if more, ok := o.failures.allow("report/" + handler + "/" + r.Refused.Class); ok {
			o.logger.Warn("a report was refused", "handler", handler, "kind", kind, "class", r.Refused.Class,
				"detail", r.Refused.Error(), "like_this_since_last_line", more)
		}
		return
	}
	o.reportCalls.WithLabelValues(kind, "ok").Inc()
	count("accepted", r.Accepted)
	count("sampled_out", r.Left.Sampled)
	count("malformed", r.Left.Malformed)
	if r.Left.Malformed > 0 {
		if more, ok := o.failures.allow("report/" + handler + "/malformed_instance"); ok {
			o.logger.Warn("reported instances cannot be read and were left out; check the instance's expressions", "handler", handler,
				"kind", kind, "instances", r.Left.Malformed, "like_this_since_last_line", more)
		}
	}
}

// DecisionsDropped logs why decisions did not become records.
func (o *Observer) DecisionsDropped(err error) {
	if more, ok := o.failures.allow("decisions"); ok {
		o.logger.Warn("decisions could not be recorded", "detail", err.Error(), "like_this_since_last_line", more)
	}
}

// CountReports makes the accounts of a pipeline metrics, all those of one sink as of one moment.
func (o *Observer) CountReports(pipeline *report.Pipeline) {
	o.registry.MustRegister(&pipelineCollector{pipeline})
}

// CountDecisionLog makes what a decision log counts metrics.
func (o *Observer) CountDecisionLog(log *decisionlog.Log) {
	o.registry.MustRegister(&decisionLogCollector{log})
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The accounts. In records, at every moment and for every sink:
// accepted + recovered = delivered + filtered + dead_lettered + the sum of dropped + pending.
var (
	recordsAccepted     = describe("tollgate_report_accepted_total", "Records accepted for a sink.", "sink")
	recordsRecovered    = describe("tollgate_report_recovered_total", "Records found in the spool at start that an earlier process had accepted.", "sink")
	recordsDelivered    = describe("tollgate_report_delivered_total", "Records that a sink has for good.", "sink")
	recordsFiltered     = describe("tollgate_report_filtered_total", "Records of kinds that a sink does not take.", "sink")
	recordsDeadLettered = describe("tollgate_report_dead_lettered_total", "Records that a sink refused for good.", "sink")
	recordsDropped      = describe("tollgate_report_dropped_total", "Records dropped by reason (oldest, newest, expired, corrupt, closed).", "sink", "reason")
	recordsPending      = describe("tollgate_report_pending", "Records that wait or are under way.", "sink")
	recordsInFlight     = describe("tollgate_report_in_flight", "Records of the pending ones that are under way.", "sink")
	recordsRefused      = describe("tollgate_report_refused_total", "Records of calls that a sink's queue refused, by class. They are not in the accounts.", "sink", "class")
	queueBytes          = describe("tollgate_report_queue_bytes", "Room taken of the queue's bound.", "sink")
	queueOldest         = describe("tollgate_report_oldest_seconds", "Age of the oldest pending record.", "sink")
	queueFault          = describe("tollgate_report_queue_fault", "1 while the queue's directory cannot be written, by class.", "sink", "class")
	spoolDamage         = describe("tollgate_report_spool_damaged_bytes_total", "Bytes of the spool that could not be read back.", "sink")
	deliveries          = describe("tollgate_report_deliveries_total", "Attempts to deliver a batch, by result (ok, failed).", "sink", "result")

	decisionsRecorded = describe("tollgate_decision_log_recorded_total", "Decisions that became records.")
	decisionsDropped  = describe("tollgate_decision_log_dropped_total", "Decisions that were to be recorded and are gone, by reason (crowded, refused).", "reason")
	decisionsWaiting  = describe("tollgate_decision_log_waiting", "Decisions on their way to a record.")
)

// CountSinks makes what sinks count of their own metrics, by their names: series that they keep, and items that the other side took
// a batch without.
func (o *Observer) CountSinks(sinks map[string]report.Sink) {
	for name, sink := range sinks {
		labels := prometheus.Labels{"sink": name}
		if keeper, ok := sink.(interface {
			Series() int
			Overflowed() uint64
		}); ok {
			o.registry.MustRegister(
				prometheus.NewGaugeFunc(prometheus.GaugeOpts{
					Name: "tollgate_report_series", Help: "Series that a sink keeps.", ConstLabels: labels,
				}, func() float64 { return float64(keeper.Series()) }),
				prometheus.NewCounterFunc(prometheus.CounterOpts{
					Name: "tollgate_report_series_overflowed_total", Help: "Values that found no room as a series of their own.", ConstLabels: labels,
				}, func() float64 { return float64(keeper.Overflowed()) }),
			)
		}
		if rejected, ok := sink.(interface{ Rejected() uint64 }); ok {
			o.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "tollgate_report_rejected_total", Help: "Items that the other side rejected of batches that it took.", ConstLabels: labels,
			}, func() float64 { return float64(rejected.Rejected()) }))
		}
	}
}

type pipelineCollector struct{ pipeline *report.Pipeline }

// Describe describes all there is.
func (c *pipelineCollector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		recordsAccepted, recordsRecovered, recordsDelivered, recordsFiltered, recordsDeadLettered, recordsDropped, recordsPending, recordsInFlight,
		recordsRefused, queueBytes, queueOldest, queueFault, spoolDamage, deliveries,
	} {
		to <- desc
	}
}

// Collect reads the accounts.
func (c *pipelineCollector) Collect(to chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for sink, s := range c.pipeline.Stats() {
		counter(recordsAccepted, s.Accepted.Records, sink)
		counter(recordsRecovered, s.Recovered.Records, sink)
		counter(recordsDelivered, s.Done.Records-s.Filtered-s.DeadLettered, sink)
		counter(recordsFiltered, s.Filtered, sink)
		counter(recordsDeadLettered, s.DeadLettered, sink)
		for reason, t := range s.Dropped {
			counter(recordsDropped, t.Records, sink, spool.Reason(reason).String())
		}
		gauge(recordsPending, float64(s.Pending.Records), sink)
		gauge(recordsInFlight, float64(s.InFlight.Records), sink)
		for class, t := range s.Refused {
			if t.Records > 0 {
				counter(recordsRefused, t.Records, sink, spool.Class(class).String())
			}
		}
		gauge(queueBytes, float64(s.Room), sink)
		gauge(queueOldest, s.Oldest.Seconds(), sink)
		if class, ok := spool.ClassOf(s.Fault); ok {
			gauge(queueFault, 1, sink, class.String())
		}
		counter(spoolDamage, s.Damage.Bytes, sink)
	}
	for sink, a := range c.pipeline.Attempts() {
		counter(deliveries, a.All-a.Failed, sink, "ok")
		counter(deliveries, a.Failed, sink, "failed")
	}
}

type decisionLogCollector struct{ log *decisionlog.Log }

// Describe describes all there is.
func (c *decisionLogCollector) Describe(to chan<- *prometheus.Desc) {
	to <- decisionsRecorded
	to <- decisionsDropped
	to <- decisionsWaiting
}

// Collect reads the counts.
func (c *decisionLogCollector) Collect(to chan<- prometheus.Metric) {
	s := c.log.Stats()
	to <- prometheus.MustNewConstMetric(decisionsRecorded, prometheus.CounterValue, float64(s.Recorded))
	to <- prometheus.MustNewConstMetric(decisionsDropped, prometheus.CounterValue, float64(s.Crowded), "crowded")
	to <- prometheus.MustNewConstMetric(decisionsDropped, prometheus.CounterValue, float64(s.Refused), "refused")
	to <- prometheus.MustNewConstMetric(decisionsWaiting, prometheus.GaugeValue, float64(s.Waiting))
}
