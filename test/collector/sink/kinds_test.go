package sink_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	policy "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/otlp"
	"github.com/tollgate-mesh/tollgate/template/edge"
	"github.com/tollgate-mesh/tollgate/template/logentry"
	"github.com/tollgate-mesh/tollgate/template/metric"
	"github.com/tollgate-mesh/tollgate/template/reportnothing"
	"github.com/tollgate-mesh/tollgate/template/tracespan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const noon = 1795262400 // 2026-11-21T12:00:00Z

func stamp(seconds int64, nanos int32) *policy.TimeStamp {
	return &policy.TimeStamp{Value: &types.Timestamp{Seconds: seconds, Nanos: nanos}}
}

func text(v string) *policy.Value {
	return &policy.Value{Value: &policy.Value_StringValue{StringValue: v}}
}

func integer(v int64) *policy.Value {
	return &policy.Value{Value: &policy.Value_Int64Value{Int64Value: v}}
}

func duration(v time.Duration) *policy.Value {
	return &policy.Value{Value: &policy.Value_DurationValue{DurationValue: &policy.Duration{Value: types.DurationProto(v)}}}
}

type marshaler interface{ Marshal() ([]byte, error) }

func marshal(t *testing.T, m marshaler) string {
	t.Helper()
	raw, err := m.Marshal()
	require.NoError(t, err)
	return string(raw)
}

// everything is at least one record of each kind, with every field of Mixer's templates and every kind of value.
func everything(t *testing.T) []record.Record {
	t.Helper()
	delivery := &record.Delivery{SampleOneIn: 10, Metrics: []record.MetricRule{
		{Instance: "requestcount", Name: "requests", Kind: record.MetricCounter, Unit: "{request}", Description: "Requests."},
		{Instance: "connections", Kind: record.MetricGauge},
		{Instance: "latency", Name: "request.duration", Kind: record.MetricHistogram, Bounds: []float64{0.1, 1}},
	}}
	span := func(change func(*tracespan.InstanceMsg)) *tracespan.InstanceMsg {
		s := &tracespan.InstanceMsg{
			Name: "span.instance.istio-system", TraceId: "463ac35c9f6413ad48485a3953bb6124", SpanId: "a2fb4a1d1a96d312", ParentSpanId: "0020000000000001",
			SpanName: "productpage.default", StartTime: stamp(noon, 0), EndTime: stamp(noon, 23_456_000), HttpStatusCode: 404,
			SpanTags:   map[string]*policy.Value{"http.method": text("GET"), "retries": integer(2)},
			SourceName: "ingressgateway", SourceIp: &policy.IPAddress{Value: []byte{10, 0, 0, 1}},
			DestinationName: "productpage-v1", DestinationIp: &policy.IPAddress{Value: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
			RequestSize: 10, RequestTotalSize: 1400, ResponseSize: 4183, ResponseTotalSize: 4900, ApiProtocol: "http",
		}
		change(s)
		return s
	}
	decision := record.Decision{
		ID: "7f9c24e8-3b12", Handler: "policies", Instance: "auth.instance.istio-system", Outcome: "failed_closed", Code: "UNAVAILABLE", Check: "policy",
		Reason: "timeout", Class: "timeout", Revision: "5d41402abc4b", Latency: 1500 * time.Microsecond, Input: `{"subject":{"user":"alice"}}`,
	}
	labels := map[string]*policy.Value{"code": integer(200), "destination": text("productpage.default")}
	var batch []record.Record
	for _, r := range []struct {
		kind record.Kind
		raw  string
	}{
		{record.KindLogEntry, marshal(t, &logentry.InstanceMsg{
			Name: "accesslog.instance.istio-system", Timestamp: stamp(noon, 250_000_000), Severity: "warning", MonitoredResourceType: "global",
			MonitoredResourceDimensions: map[string]*policy.Value{"zone": text("eu-1")},
			Variables: map[string]*policy.Value{
				"string": text("a"), "int64": integer(1<<53 + 1), "duration": duration(23456 * time.Microsecond),
				"double":    {Value: &policy.Value_DoubleValue{DoubleValue: 0.25}},
				"bool":      {Value: &policy.Value_BoolValue{BoolValue: true}},
				"ip":        {Value: &policy.Value_IpAddressValue{IpAddressValue: &policy.IPAddress{Value: []byte{10, 0, 0, 1}}}},
				"timestamp": {Value: &policy.Value_TimestampValue{TimestampValue: stamp(noon, 123_456_789)}},
				"email":     {Value: &policy.Value_EmailAddressValue{EmailAddressValue: &policy.EmailAddress{Value: "a@example.com"}}},
				"dns":       {Value: &policy.Value_DnsNameValue{DnsNameValue: &policy.DNSName{Value: "example.com"}}},
				"uri":       {Value: &policy.Value_UriValue{UriValue: &policy.Uri{Value: "http://example.com/"}}},
				"no utf-8":  text("a\xff"),
				"bad ip":    {Value: &policy.Value_IpAddressValue{IpAddressValue: &policy.IPAddress{Value: []byte{10, 0, 0}}}},
			},
		})},
		{record.KindEdge, marshal(t, &edge.InstanceMsg{
			Name: "edge.instance.istio-system", Timestamp: stamp(noon, 0), SourceWorkloadNamespace: "istio-system", SourceWorkloadName: "ingressgateway",
			SourceOwner: "kubernetes://deployment/ingressgateway", SourceUid: "kubernetes://ingressgateway-1", DestinationWorkloadNamespace: "default",
			DestinationWorkloadName: "productpage-v1", DestinationOwner: "kubernetes://deployment/productpage-v1", DestinationUid: "kubernetes://productpage-v1-1",
			DestinationServiceNamespace: "default", DestinationServiceName: "productpage", ContextProtocol: "http", ApiProtocol: "grpc",
		})},
		{record.KindNothing, marshal(t, &reportnothing.InstanceMsg{Name: "ping.instance.istio-system"})},
		{record.KindDecision, string(decision.Append(nil))},
		{record.KindTraceSpan, marshal(t, span(func(*tracespan.InstanceMsg) {}))},
		{record.KindTraceSpan, marshal(t, span(func(s *tracespan.InstanceMsg) { s.ClientSpan, s.RewriteClientSpanId = true, true }))},
		{record.KindTraceSpan, marshal(t, span(func(s *tracespan.InstanceMsg) { s.RewriteClientSpanId = true }))},
		{record.KindTraceSpan, marshal(t, span(func(s *tracespan.InstanceMsg) { s.EndTime = stamp(noon-60, 0) }))},
		{record.KindMetric, marshal(t, &metric.InstanceMsg{Name: "requestcount.instance.istio-system", Value: integer(1), Dimensions: labels})},
		{record.KindMetric, marshal(t, &metric.InstanceMsg{Name: "requestcount.instance.istio-system", Value: integer(2), Dimensions: labels})},
		{record.KindMetric, marshal(t, &metric.InstanceMsg{Name: "connections.instance.istio-system", Value: integer(7), MonitoredResourceType: "gce", MonitoredResourceDimensions: map[string]*policy.Value{"zone": text("eu-1")}})},
		{record.KindMetric, marshal(t, &metric.InstanceMsg{Name: "latency.instance.istio-system", Value: duration(250 * time.Millisecond)})},
		{record.KindMetric, marshal(t, &metric.InstanceMsg{Name: "latency.instance.istio-system", Value: duration(2 * time.Second)})},
	} {
		batch = append(batch, record.Record{
			Sequence: 1042, Index: len(batch), Kind: r.kind, Handler: "bookinfo", Caller: "spiffe://cluster.local/ns/istio-system/sa/mixer",
			Arrived: time.Unix(noon+int64(len(batch)), 0), Delivery: delivery, Raw: r.raw,
		})
	}
	return batch
}

// arrived is what a Collector wrote, apart from how it was put together.
type arrived struct {
	Resources, Scopes    []map[string]any
	Logs, Spans, Metrics []map[string]any
}

// TestAllKinds compares what a Collector writes, whichever way it got it, with testdata/arrived.json. With UPDATE_GOLDEN=1 it writes
// that file instead.
func TestAllKinds(t *testing.T) {
	for _, protocol := range []string{"grpc", "http"} {
		for _, compression := range []string{"gzip", "none"} {
			t.Run(protocol+" "+compression, func(t *testing.T) {
				c := newCollector(t, true)
				c.start(t)
				o := otlp.Options{Protocol: protocol, Endpoint: c.grpc, Compression: compression, Resource: map[string]string{"k8s.cluster.name": "west"}}
				if protocol == "http" {
					o.Endpoint = "http://" + c.http
				}
				sink, err := otlp.New(o, slog.New(slog.DiscardHandler))
				require.NoError(t, err)
				require.NoError(t, sink.Deliver(t.Context(), everything(t)))
				require.NoError(t, sink.Close(t.Context()))
				c.stop(t)

				var all arrived
				c.read(t, func(w *written) {
					for _, r := range w.ResourceLogs {
						all.Resources = append(all.Resources, r.Resource)
						for _, s := range r.ScopeLogs {
							all.Scopes, all.Logs = append(all.Scopes, s.Scope), append(all.Logs, s.LogRecords...)
						}
					}
					for _, r := range w.ResourceSpans {
						all.Resources = append(all.Resources, r.Resource)
						for _, s := range r.ScopeSpans {
							all.Scopes, all.Spans = append(all.Scopes, s.Scope), append(all.Spans, s.Spans...)
						}
					}
					for _, r := range w.ResourceMetrics {
						all.Resources = append(all.Resources, r.Resource)
						for _, s := range r.ScopeMetrics {
							all.Scopes, all.Metrics = append(all.Scopes, s.Scope), append(all.Metrics, s.Metrics...)
						}
					}
				})
				var got bytes.Buffer
				encoder := json.NewEncoder(&got)
				encoder.SetIndent("", "  ")
				require.NoError(t, encoder.Encode(all))
				if os.Getenv("UPDATE_GOLDEN") != "" {
					require.NoError(t, os.WriteFile("testdata/arrived.json", got.Bytes(), 0o644))
				}
				want, err := os.ReadFile("testdata/arrived.json")
				require.NoError(t, err)
				require.Equal(t, string(want), got.String())
			})
		}
	}
}
