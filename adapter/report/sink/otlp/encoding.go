package otlp

import (
	"context"
	"maps"
	"slices"
	"time"

	logsservice "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	metricsservice "go.opentelemetry.io/proto/slim/otlp/collector/metrics/v1"
	traceservice "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/slim/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// signal is one of OpenTelemetry's kinds of data. Each is a service of its own.
type signal uint8

// The signals in the order in which they are sent. Metrics come last: where an answer is lost in between, log records and spans
// that come twice can be told by their ids, and sums cannot.
const (
	logs signal = iota
	traces
	metrics
)

const signals = int(metrics) + 1

// signalOf is false for a kind that this version does not know.
func signalOf(kind record.Kind) (signal, bool) {
	switch kind {
	case record.KindLogEntry, record.KindEdge, record.KindNothing, record.KindDecision:
		return logs, true
	case record.KindTraceSpan:
		return traces, true
	case record.KindMetric:
		return metrics, true
	}
	return 0, false
}

func (s signal) method() string {
	return [...]string{
		"/opentelemetry.proto.collector.logs.v1.LogsService/Export",
		"/opentelemetry.proto.collector.trace.v1.TraceService/Export",
		"/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	}[s]
}

func (s signal) path() string { return [...]string{"/v1/logs", "/v1/traces", "/v1/metrics"}[s] }

func (s signal) items() string { return [...]string{"log records", "spans", "data points"}[s] }

// request is what is sent about records of one signal.
type request struct {
	signal  signal
	records []int // their indices in the batch
	items   int
	message proto.Message
	answer  proto.Message
}

// rejected returns how many of the items the answer says were rejected, and what else it says.
func (r *request) rejected() (items int64, message string) {
	switch a := r.answer.(type) {
	case *logsservice.ExportLogsServiceResponse:
		return a.GetPartialSuccess().GetRejectedLogRecords(), a.GetPartialSuccess().GetErrorMessage()
	case *traceservice.ExportTraceServiceResponse:
		return a.GetPartialSuccess().GetRejectedSpans(), a.GetPartialSuccess().GetErrorMessage()
	case *metricsservice.ExportMetricsServiceResponse:
		return a.GetPartialSuccess().GetRejectedDataPoints(), a.GetPartialSuccess().GetErrorMessage()
	}
	return 0, ""
}

// encoding makes requests. It is used by many goroutines at once.
type encoding struct {
	resource *resourcepb.Resource
	scope    *commonpb.InstrumentationScope
}

func newEncoding(resource map[string]string) encoding {
	all := map[string]string{"service.name": "tollgate"}
	maps.Copy(all, resource)
	e := encoding{resource: &resourcepb.Resource{}, scope: &commonpb.InstrumentationScope{Name: "tollgate"}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e.resource.Attributes = append(e.resource.Attributes, &commonpb.KeyValue{Key: name, Value: textValue(all[name])})
	}
	return e
}

// encode makes the request about records of one signal. Those of which nothing can be made are refused.
func (e *encoding) encode(ctx context.Context, signal signal, batch []record.Record, indices []int, refused *refusals) *request {
	r := &request{signal: signal, records: make([]int, 0, len(indices))}
	var attrs attributes
	add := func(one func(*record.Record, *attributes) error) {
		for at := range pace.Over(ctx, indices) {
			i := indices[at]
			if err := one(&batch[i], &attrs); err != nil {
				refused.add([]int{i}, err)
				continue
			}
			r.records = append(r.records, i)
		}
	}
	switch signal {
	case logs:
		scope := &logspb.ScopeLogs{Scope: e.scope, LogRecords: make([]*logspb.LogRecord, 0, len(indices))}
		add(func(r *record.Record, attrs *attributes) error {
			l, err := newLogRecord(r, attrs)
			if err == nil {
				scope.LogRecords = append(scope.LogRecords, l)
			}
			return err
		})
		r.items = len(scope.LogRecords)
		r.message = &logsservice.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{Resource: e.resource, ScopeLogs: []*logspb.ScopeLogs{scope}}}}
		r.answer = &logsservice.ExportLogsServiceResponse{}
	case traces:
		scope := &tracepb.ScopeSpans{Scope: e.scope, Spans: make([]*tracepb.Span, 0, len(indices))}
		add(func(r *record.Record, attrs *attributes) error {
			s, err := newSpan(r, attrs)
			if err == nil {
				scope.Spans = append(scope.Spans, s)
			}
			return err
		})
		r.items = len(scope.Spans)
		r.message = &traceservice.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{Resource: e.resource, ScopeSpans: []*tracepb.ScopeSpans{scope}}}}
		r.answer = &traceservice.ExportTraceServiceResponse{}
	case metrics:
		all := newAggregation()
		add(all.add)
		r.items = len(all.points)
		scope := &metricspb.ScopeMetrics{Scope: e.scope, Metrics: all.metrics()}
		r.message = &metricsservice.ExportMetricsServiceRequest{ResourceMetrics: []*metricspb.ResourceMetrics{{Resource: e.resource, ScopeMetrics: []*metricspb.ScopeMetrics{scope}}}}
		r.answer = &metricsservice.ExportMetricsServiceResponse{}
	}
	return r
}

// nanos returns a time as OTLP has it, which is from 1970 to 2554 and has 0 for none.
func nanos(t time.Time) (uint64, bool) {
	const last = 18_446_744_072 // the last second of which all nanoseconds fit
	seconds := t.Unix()
	if seconds < 0 || seconds > last || t.IsZero() {
		return 0, false
	}
	return uint64(seconds)*uint64(time.Second) + uint64(t.Nanosecond()), true //nolint:gosec // not negative
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
