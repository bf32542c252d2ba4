package otlp

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// The wire of Mixer's instances, written by hand.

func nested(number protowire.Number, parts ...string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), strings.Join(parts, "")))
}

func number(field protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v))
}

// The members of istio.policy.v1beta1.Value.
func text(v string) string   { return nested(1, v) }
func integer(v int64) string { return number(2, uint64(v)) }

func double(v float64) string {
	return string(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), math.Float64bits(v)))
}
func boolean(v bool) string                      { return number(4, protowire.EncodeBool(v)) }
func ip(raw string) string                       { return nested(5, nested(1, raw)) }
func instant(seconds int64, nanos int32) string  { return nested(6, stamp(seconds, nanos)) }
func duration(seconds int64, nanos int32) string { return nested(7, stamp(seconds, nanos)) }
func uri(v string) string                        { return nested(10, nested(1, v)) }

// stamp is the content of a TimeStamp or Duration.
func stamp(seconds int64, nanos int32) string {
	return nested(1, number(1, uint64(seconds)), number(2, uint64(int64(nanos))))
}

// entry is the content of a map's entry.
func entry(name string, value ...string) string { return nested(1, name) + nested(2, value...) }

func instance(name string) string { return nested(72295727, name) }

const noon = 1795262400 // 2026-11-21T12:00:00Z

const (
	ipv4 = "\x0a\x00\x00\x01"
	ipv6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
)

// accessLog has twelve variables in no order.
func accessLog() string {
	return nested(1, entry("sourceIp", ip(ipv4))) +
		nested(1, entry("url", uri("/productpage?q=1"))) +
		nested(1, entry("responseCode", integer(200))) +
		nested(1, entry("responseSize", integer(1<<53+1))) +
		nested(1, entry("latency", duration(0, 23_456_000))) +
		nested(1, entry("method", text("GET"))) +
		nested(1, entry("protocol", text("http"))) +
		nested(1, entry("user", text("cluster.local/ns/default/sa/bookinfo-gateway"))) +
		nested(1, entry("load", double(0.25))) +
		nested(1, entry("destinationService", text("productpage.default.svc.cluster.local"))) +
		nested(1, entry("mtls", boolean(true))) +
		nested(1, entry("receivedAt", instant(noon, 123_456_789))) +
		nested(2, stamp(noon, 250_000_000)) + nested(3, "warning") + nested(4, "global") +
		nested(5, entry("zone", text("eu-1"))) + instance("accesslog.instance.istio-system")
}

func spanOf(parts ...string) string {
	return nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312") + nested(3, "0020000000000001") + nested(4, "productpage.default") +
		nested(5, stamp(noon, 0)) + nested(6, stamp(noon, 23_456_000)) + instance("span.instance.istio-system") + strings.Join(parts, "")
}

func span() string {
	return spanOf(nested(7, entry("http.method", text("GET"))), nested(7, entry("http.status", integer(503))), number(8, 503),
		nested(11, "ingressgateway"), nested(12, nested(1, ipv4)), nested(13, "productpage-v1"), nested(14, nested(1, ipv6)),
		number(15, 10), number(16, 1400), number(17, 4183), number(18, 4900), nested(19, "http"))
}

func edge() string {
	return nested(1, stamp(noon, 0)) + nested(10, "istio-system") + nested(11, "ingressgateway") + nested(12, "kubernetes://deployment/ingressgateway") +
		nested(13, "kubernetes://ingressgateway-1.istio-system") + nested(20, "default") + nested(21, "productpage-v1") +
		nested(22, "kubernetes://deployment/productpage-v1") + nested(23, "kubernetes://productpage-v1-1.default") + nested(24, "default") +
		nested(25, "productpage") + nested(30, "http") + nested(31, "grpc") + instance("edge.instance.istio-system")
}

func decision(outcome string) string {
	d := record.Decision{
		ID: "7f9c24e8-3b12", Handler: "policies", Instance: "authinstance.instance.istio-system", Outcome: outcome, Code: "PERMISSION_DENIED",
		Check: "policy", Reason: "not an editor", Class: "timeout", Revision: "5d41402abc4b", Latency: 1500 * time.Microsecond,
		Input: `{"subject":{"user":"alice"}}`, Checks: `[{"check":"policy"}]`, Shadow: `{"divergence":"agree"}`,
	}
	return string(d.Append(nil))
}

func metricOf(name string, value ...string) string {
	return nested(1, value...) + instance(name+".instance.istio-system")
}

// rules are of a handler that knows its metrics.
var rules = &record.Delivery{
	SampleOneIn: 10,
	Severities:  []record.Severity{{Text: "odd", Number: record.SeverityFatal}},
	Metrics: []record.MetricRule{
		{Instance: "requestcount", Name: "requests", Kind: record.MetricCounter, Unit: "{request}", Description: "Requests."},
		{Instance: "connections", Kind: record.MetricGauge},
		{Instance: "latency", Name: "request.duration", Kind: record.MetricHistogram, Unit: "s", Bounds: []float64{0.1, 1}},
		{Instance: "requests.instance.a", Name: "requests", Kind: record.MetricGauge, Unit: "{request}", Description: "Requests."},
		{Instance: "requests.instance.b", Name: "requests", Kind: record.MetricCounter, Unit: "1", Description: "Requests."},
	},
}

// sample is a record in the batch that all samples of a kind make.
type sample struct {
	name     string
	raw      string
	delivery *record.Delivery
	// refused is in the cause of a record that is refused.
	refused string
}

func samples() map[record.Kind][]sample {
	return map[record.Kind][]sample{
		record.KindLogEntry: {
			{name: "example", raw: accessLog()},
			{name: "empty"},
			{name: "severity of the handler's, sampled", raw: nested(3, "ODD") + instance("a"), delivery: rules},
			{name: "severity unknown", raw: nested(3, "strange")},
			{name: "values that cannot be read", raw: nested(1, entry("ip", ip("abc"))) + nested(1, entry("none")) + nested(5, entry("zone"))},
			{name: "no UTF-8", raw: nested(1, entry("\xfe", text("a\xffb"))) + nested(3, "\x80") + instance("\xff.b")},
			{name: "numbers", raw: nested(1, entry("most", integer(math.MaxInt64))) + nested(1, entry("NaN", double(math.NaN()))) + nested(1, entry("zero", integer(0))) + nested(1, entry("no", boolean(false))) + nested(1, entry("empty", text("")))},
			{name: "a name twice", raw: nested(1, entry("b", integer(1))) + nested(1, entry("a", integer(2))) + nested(1, entry("b", text("last")))},
			{name: "names that are taken", raw: nested(1, entry(attrRecord, text("a"))) + nested(1, entry(renamedPrefix+attrRecord, text("b"))) +
				nested(1, entry(attrUndecoded, text("c"))) + nested(1, entry("monitored_resource.zone", text("d"))) + nested(4, "gce") +
				nested(5, entry("zone", text("e"))) + nested(5, entry("type", text("f")))},
			{name: "time before 1970", raw: nested(2, stamp(-1, 5))},
		},
		record.KindEdge:    {{name: "example", raw: edge()}, {name: "empty"}},
		record.KindNothing: {{name: "example", raw: instance("ping.instance.istio-system")}, {name: "empty"}},
		record.KindDecision: {
			{name: "deny", raw: decision("deny")},
			{name: "allow", raw: decision("allow")},
			{name: "failed_open", raw: decision("failed_open")},
			{name: "failed_closed", raw: decision("failed_closed")},
			{name: "empty"},
		},
		record.KindTraceSpan: {
			{name: "example", raw: span()},
			{name: "client", raw: spanOf(number(9, 1), number(8, 404))},
			{name: "server", raw: spanOf(number(8, 404))},
			{name: "rewritten client", raw: spanOf(number(9, 1), number(10, 1))},
			{name: "rewritten server", raw: spanOf(number(10, 1))},
			{name: "64-bit trace, upper case, no parent", raw: nested(1, "48485A3953BB6124") + nested(2, "A2FB4A1D1A96D312") + nested(5, stamp(noon, 0)) + nested(6, stamp(noon, 1))},
			{name: "parent that is none", raw: spanOf(nested(3, "root"))},
			{name: "ends before it starts", raw: spanOf(nested(6, stamp(noon-60, 0)))},
			{name: "ends before it starts and before 1970", raw: spanOf(nested(6, stamp(-1, 0)))},
			{name: "no end", raw: nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312") + nested(5, stamp(noon, 0))},
			{name: "no start", raw: nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312") + nested(6, stamp(noon, 0))},
			{name: "no time", raw: nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312")},
			{name: "before 1970", raw: nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312") + nested(5, stamp(-5, 0)) + nested(6, stamp(-1, 0))},
			{name: "tag with a name of ours", raw: spanOf(number(8, 200), nested(7, entry("http.response.status_code", text("OK"))))},
			{name: "empty", refused: "trace_id has 0 characters"},
			{name: "trace of zeros", raw: spanOf(nested(1, "00000000000000000000000000000000")), refused: "trace_id has 32 characters"},
			{name: "trace no hex", raw: spanOf(nested(1, "463ac35c9f6413ad48485a3953bb612g")), refused: "trace_id has 32 characters"},
			{name: "span too short", raw: spanOf(nested(2, "a2fb")), refused: "span_id has 4 characters"},
			{name: "span of zeros", raw: spanOf(nested(2, "0000000000000000")), refused: "span_id has 16 characters"},
		},
		record.KindMetric: {
			{name: "counter", raw: metricOf("requestcount", integer(1)) + nested(2, entry("code", integer(200))) + nested(2, entry("a", text("b"))), delivery: rules},
			{name: "counter again, other order", raw: nested(2, entry("a", text("b"))) + nested(2, entry("code", integer(200))) + metricOf("requestcount", integer(1<<53)), delivery: rules},
			{name: "counter with a dimension of another type", raw: metricOf("requestcount", integer(1)) + nested(2, entry("code", text("200"))) + nested(2, entry("a", text("b"))), delivery: rules},
			{name: "counter of doubles", raw: metricOf("requestcount", double(0.5)), delivery: rules},
			{name: "counter of both", raw: metricOf("requestcount", integer(2)), delivery: rules},
			{name: "overflow", raw: metricOf("requestcount", integer(math.MaxInt64)) + nested(2, entry("much")), delivery: rules},
			{name: "overflows", raw: metricOf("requestcount", integer(math.MaxInt64)) + nested(2, entry("much")), delivery: rules},
			{name: "counter below 0", raw: metricOf("requestcount", integer(-1)), delivery: rules, refused: `the counter "requests" got a negative value`},
			{name: "gauge", raw: metricOf("connections", integer(7)) + nested(3, "gce") + nested(4, entry("zone", text("eu-1"))), delivery: rules},
			{name: "gauge again", raw: metricOf("connections", integer(-3)) + nested(3, "gce") + nested(4, entry("zone", text("eu-1"))), delivery: rules},
			{name: "histogram", raw: metricOf("latency", duration(0, 100_000_000)), delivery: rules},
			{name: "histogram again", raw: metricOf("latency", double(0.5)), delivery: rules},
			{name: "histogram, most", raw: metricOf("latency", integer(2)), delivery: rules},
			{name: "histogram below 0", raw: metricOf("latency", double(-1)) + nested(2, entry("host", text("a"))), delivery: rules},
			{name: "same name, other kind", raw: nested(1, integer(5)) + instance("requests.instance.a"), delivery: rules},
			{name: "same name, other unit", raw: nested(1, integer(5)) + instance("requests.instance.b"), delivery: rules},
			{name: "same name, no rule", raw: metricOf("requests", integer(5))},
			{name: "default of an integer", raw: metricOf("hits", integer(5))},
			{name: "default of a duration", raw: metricOf("time", duration(1, 0))},
			{name: "no value", raw: metricOf("hits"), refused: "no value"},
			{name: "text", raw: metricOf("hits", text("12")), refused: "no number but a string"},
			{name: "NaN", raw: metricOf("hits", double(math.NaN())), refused: "not finite"},
			{name: "no name", raw: nested(1, integer(1)), refused: "no name"},
		},
	}
}

// newBatch makes a batch of samples, which arrived one second after the other.
func newBatch(tb testing.TB, kind record.Kind, samples ...sample) []record.Record {
	tb.Helper()
	var spool record.SpoolID
	_, err := hex.Decode(spool[:], []byte("9f86d081884c7d659a2feaa0c55ad015"))
	require.NoError(tb, err)
	batch := make([]record.Record, len(samples))
	for i, s := range samples {
		batch[i] = record.Record{
			Spool: spool, Sequence: 1042 + uint64(kind), Index: i, Kind: kind, Handler: "bookinfo", Caller: "spiffe://cluster.local/ns/istio-system/sa/mixer",
			Arrived: time.Unix(noon+int64(i), 5_000_000), Delivery: s.delivery, Raw: s.raw,
		}
	}
	return batch
}

// numbered makes a batch of so many log entries.
func numbered(tb testing.TB, n int) []record.Record {
	tb.Helper()
	list := make([]sample, n)
	for i := range list {
		list[i] = sample{raw: nested(1, entry("n", integer(int64(i)))) + instance(fmt.Sprintf("n%d.instance.a", i))}
	}
	return newBatch(tb, record.KindLogEntry, list...)
}

// mixed is one good record of each kind, and of each kind that can have one, a bad one.
func mixed(tb testing.TB) []record.Record {
	tb.Helper()
	var batch []record.Record
	for kind, s := range map[record.Kind]string{
		record.KindLogEntry: accessLog(), record.KindEdge: edge(), record.KindNothing: "", record.KindDecision: decision("deny"),
		record.KindTraceSpan: span(), record.KindMetric: metricOf("hits", integer(5)),
	} {
		batch = append(batch, newBatch(tb, kind, sample{raw: s})...)
	}
	return batch
}
