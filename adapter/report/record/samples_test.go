package record_test

import (
	"encoding/hex"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// The wire, written by hand.

func nested(number protowire.Number, parts ...string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), strings.Join(parts, "")))
}

func number(field protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v))
}

// overlong is a field whose length has two bytes more than it needs, as Mixer's encoder writes lengths.
func overlong(field protowire.Number, content string) string {
	if len(content) > 0x7f {
		panic("too long")
	}
	return string(protowire.AppendTag(nil, field, protowire.BytesType)) + string([]byte{byte(len(content)) | 0x80, 0x80, 0x00}) + content
}

// The members of istio.policy.v1beta1.Value.
func text(v string) string { return nested(1, v) }

func integer(v int64) string {
	return number(2, uint64(v))
}

func double(v float64) string {
	return string(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), math.Float64bits(v)))
}
func boolean(v bool) string   { return number(4, protowire.EncodeBool(v)) }
func ip(raw string) string    { return nested(5, nested(1, raw)) }
func email(v string) string   { return nested(8, nested(1, v)) }
func dnsName(v string) string { return nested(9, nested(1, v)) }
func uri(v string) string     { return nested(10, nested(1, v)) }
func instant(parts ...string) string {
	return nested(6, parts...)
}
func duration(seconds int64, nanos int32) string { return nested(7, stamp(seconds, nanos)) }

// stamp is the content of a TimeStamp or Duration.
func stamp(seconds int64, nanos int32) string {
	return nested(1, number(1, uint64(seconds)), number(2, uint64(int64(nanos))))
}

// entry is the content of a map's entry.
func entry(name string, value ...string) string { return nested(1, name) + nested(2, value...) }

func instance(name string) string { return nested(72295727, name) }

const noon = 1795262400 // 2026-11-21T12:00:00Z

var (
	ipv4 = "\x0a\x00\x00\x01"
	ipv6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	// mapped is how Go keeps an IPv4 address, and so does Mixer.
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff" + ipv4
)

type sample struct{ name, raw string }

// accessLog has twelve variables in no order.
func accessLog() string {
	return nested(1, entry("sourceIp", ip(mapped))) +
		nested(1, entry("url", text("/productpage?q=1"))) +
		nested(1, entry("responseCode", integer(200))) +
		nested(1, entry("responseSize", integer(4183))) +
		nested(1, entry("latency", duration(0, 23_456_000))) +
		nested(1, entry("method", text("GET"))) +
		nested(1, entry("protocol", text("http"))) +
		nested(1, entry("user", text("cluster.local/ns/default/sa/bookinfo-gateway"))) +
		nested(1, entry("userAgent", text("Mozilla/5.0 (X11; Linux x86_64)"))) +
		nested(1, entry("destinationService", text("productpage.default.svc.cluster.local"))) +
		nested(1, entry("mtls", boolean(true))) +
		nested(1, entry("receivedAt", instant(stamp(noon, 123_456_789)))) +
		nested(2, stamp(noon, 250_000_000)) + nested(3, "info") + nested(4, "global") +
		nested(5, entry("zone", text("eu-1"))) + instance("accesslog.instance.istio-system")
}

func metric() string {
	return nested(1, integer(4183)) + nested(2, entry("response_code", integer(200))) +
		nested(2, entry("destination", text("productpage.default"))) + nested(3, "UNSPECIFIED") + instance("responsesize.instance.istio-system")
}

func span() string {
	return nested(1, "463ac35c9f6413ad48485a3953bb6124") + nested(2, "a2fb4a1d1a96d312") + nested(3, "0020000000000001") + nested(4, "productpage.default") +
		nested(5, stamp(noon, 0)) + nested(6, stamp(noon, 23_456_000)) + nested(7, entry("http.method", text("GET"))) +
		nested(7, entry("http.status", integer(200))) + number(8, 200) + number(9, 1) + number(10, 1) +
		nested(11, "ingressgateway") + nested(12, nested(1, mapped)) + nested(13, "productpage-v1") + nested(14, nested(1, ipv6)) +
		number(15, 10) + number(16, 1400) + number(17, 4183) + number(18, 4900) + nested(19, "http") + instance("span.instance.istio-system")
}

func edge() string {
	return nested(1, stamp(noon, 0)) + nested(10, "istio-system") + nested(11, "ingressgateway") + nested(12, "kubernetes://deployment/ingressgateway") +
		nested(13, "kubernetes://ingressgateway-1.istio-system") + nested(20, "default") + nested(21, "productpage-v1") +
		nested(22, "kubernetes://deployment/productpage-v1") + nested(23, "kubernetes://productpage-v1-1.default") + nested(24, "default") +
		nested(25, "productpage") + nested(30, "http") + nested(31, "http") + instance("edge.instance.istio-system")
}

func decision() string {
	d := record.Decision{
		ID: "kf3c7hq2mzx5a4bn", Handler: "bookinfo", Instance: "authinstance.instance.istio-system", Outcome: "deny", Code: "PERMISSION_DENIED",
		Check: "rego/mixerauthz.allow", Reason: "not an editor", Revision: "5d41402abc4b", Latency: 41_250 * time.Nanosecond,
		Input: `{"action": {"method": "PUT"}, "subject": {"properties": {"custom_token_header": "***"}, "user": "alice"}}`,
	}
	return string(d.Append(nil))
}

// samples are well-formed records of each kind in every form that might be read wrongly. They make the golden lines, and are the
// fuzzers' seeds.
func samples() map[record.Kind][]sample {
	some := func(value ...string) string { return nested(1, entry("k", value...)) }
	deep := strings.Repeat("[", 900) + strings.Repeat("]", 900)
	return map[record.Kind][]sample{
		record.KindLogEntry: {
			{"example", accessLog()},
			{"empty", ""},
			{"name only", instance("accesslog.instance.istio-system")},
			{"every kind of value", nested(1, entry("string", text("a"))) + nested(1, entry("int64", integer(-5))) + nested(1, entry("double", double(1.5))) +
				nested(1, entry("true", boolean(true))) + nested(1, entry("false", boolean(false))) + nested(1, entry("IPv4", ip(ipv4))) +
				nested(1, entry("IPv4 in 16 bytes", ip(mapped))) + nested(1, entry("IPv6", ip(ipv6))) + nested(1, entry("timestamp", instant(stamp(noon, 100)))) +
				nested(1, entry("duration", duration(1, 500_000_000))) + nested(1, entry("email", email("a@example.com"))) +
				nested(1, entry("DNS name", dnsName("example.com"))) + nested(1, entry("URI", uri("http://example.com/?a=b&c=<d>")))},
			{"values that are empty", nested(1, entry("string", text(""))) + nested(1, entry("email", email(""))) + nested(1, entry("int64", integer(0))) +
				nested(1, entry("duration", duration(0, 0))) + nested(1, entry("epoch", instant(nested(1))))},
			{"values that cannot be read", nested(1, entry("no member")) + nested(1, nested(1, "no value")) + nested(1, entry("IP of 3 bytes", ip("abc"))) +
				nested(1, entry("string map", nested(11, nested(1, nested(1, "a"), nested(2, "b"))))) + nested(1, entry("future \"member\"", nested(12, "x"))) +
				nested(1, entry("year 10000", instant(stamp(253402300800, 0)))) + nested(1, entry("long duration", duration(1<<40, 0))) +
				nested(1, entry("fine", text("a"))) + nested(5, entry("zone"))},
			{"integers", nested(1, entry("most", integer(math.MaxInt64))) + nested(1, entry("least", integer(math.MinInt64))) +
				nested(1, entry("more than a double holds", integer(1<<53+1)))},
			{"doubles", nested(1, entry("NaN", double(math.NaN()))) + nested(1, entry("+Inf", double(math.Inf(1)))) + nested(1, entry("-Inf", double(math.Inf(-1)))) +
				nested(1, entry("one", double(1))) + nested(1, entry("-0", double(math.Copysign(0, -1)))) + nested(1, entry("most", double(math.MaxFloat64))) +
				nested(1, entry("least", double(math.SmallestNonzeroFloat64))) + nested(1, entry("1e21", double(1e21))) + nested(1, entry("1e20", double(1e20))) +
				nested(1, entry("1e-6", double(1e-6))) + nested(1, entry("1e-7", double(1e-7))) + nested(1, entry("0.1", double(0.1)))},
			{"durations", nested(1, entry("ns", duration(0, 1))) + nested(1, entry("-1.5", duration(-1, -500_000_000))) + nested(1, entry("-ns", duration(0, -1))) +
				nested(1, entry("hour", duration(3600, 0))) + nested(1, entry("tenth", duration(0, 100_000_000))) +
				nested(1, entry("long", duration(9223372035, 999_999_999))) + nested(1, entry("mixed signs", duration(2, -500_000_000)))},
			{"times", nested(1, entry("first", instant(stamp(-62135596800, 0)))) + nested(1, entry("last", instant(stamp(253402300799, 999_999_999)))) +
				nested(1, entry("trimmed", instant(stamp(noon, 120_000_000)))) + nested(1, entry("two parts", instant(nested(1, number(1, noon)), nested(1, number(2, 5)))))},
			{"texts", some(text("\"\\/\b\f\n\r\t\x00\x1f\x7f\u0080\u0085\u009f\u00a0\u2028\u2029é漢😀\ufffd<>&'"))},
			{"no UTF-8", some(text("a\xffb\xc3\xe2\x82c\xed\xa0\x80")) + nested(1, entry("\xfe", integer(1))) + nested(1, entry("\xff", integer(2))) + nested(3, "\x80")},
			{"keys", nested(1, entry("b", integer(1))) + nested(1, entry("a.b", integer(2))) + nested(1, entry("", integer(3))) + nested(1, entry("\n", integer(4))) +
				nested(1, entry("B", integer(5))) + nested(1, entry("é", integer(6))) + nested(1, entry("aa", integer(7)))},
			{"a key twice", nested(1, entry("b", integer(1))) + nested(1, entry("a", integer(2))) + nested(1, entry("b", integer(3))) + nested(1, entry("a", text("last"))) +
				nested(1, entry("unread at first")) + nested(1, entry("unread at first", integer(4)))},
			{"entries", nested(1) + nested(1, nested(2, integer(1)), nested(1, "value first")) + nested(1, nested(1, "first"), nested(1, "key twice"), nested(2, integer(2))) +
				nested(1, nested(1, "value twice"), nested(2, text("first")), nested(2, integer(3))) + nested(1, number(3, 1), entry("unknown fields", integer(4)), nested(9, "x")) +
				some(text("first"), integer(5))},
			{"overlong", overlong(1, overlong(1, "k")+overlong(2, overlong(1, "v"))) + "\x9a\x80\x00" + "\x84\x80\x00info" + overlong(2, overlong(1, "\x88\x00\x81\x80\x00"))},
			{"unknown fields", number(99, 1) + some(integer(1)) + nested(98, "\xff\xff") + "\xe3\x06\x08\x01\xe4\x06" + "\xe5\x06abcd" + "\xe1\x06abcdefgh"},
			{"fields twice", nested(3, "info") + nested(3, "error") + nested(2, nested(1, number(1, noon))) + nested(2, nested(1, number(2, 5))) + instance("a") + instance("b")},
			{"time that is none", nested(2, stamp(253402300800, 0))},
			{"time without a value", nested(2)},
			{"time of Go's zero", nested(2, stamp(-62135596800, 0))},
			{"many values", many(100)},
		},
		record.KindMetric: {
			{"example", metric()},
			{"empty", ""},
			{"double", nested(1, double(0.25)) + instance("m")},
			{"duration", nested(1, duration(0, 5_000_000))},
			{"NaN", nested(1, double(math.NaN()))},
			{"string", nested(1, text("12"))},
			{"value that cannot be read", nested(1, ip("abc")) + nested(2, entry("a")) + nested(4, entry("b"))},
			{"value in two parts", nested(1, integer(5)) + nested(1)},
			{"value with a stranger", nested(1, integer(5)) + nested(1, nested(12))},
			{"value twice", nested(1, text("first")) + nested(1, integer(5))},
			{"resource", nested(1, integer(1)) + nested(4, entry("zone", text("eu-1"))) + nested(4, entry("host", text("a"))) + nested(3, "gce")},
			{"dimension twice", nested(2, entry("a", text("1"))) + nested(1, integer(1)) + nested(2, entry("a", text("2")))},
		},
		record.KindTraceSpan: {
			{"example", span()},
			{"empty", ""},
			{"ends before it starts", nested(5, stamp(noon, 0)) + nested(6, stamp(noon-1, 0))},
			{"nothing in it can be read", nested(5, stamp(noon, -1)) + nested(6, stamp(1<<40, 0)) + nested(12, nested(1, "abc")) + nested(14, nested(1, "0123456789abcdefg")) + nested(7, entry("a"))},
			{"empty messages", nested(5) + nested(6) + nested(12) + nested(14, nested(1))},
			{"negative numbers", number(8, math.MaxUint64) + number(15, 1<<63)},
			{"bool of many bits", number(9, 1<<40) + number(10, 0)},
			{"address in two parts", nested(12, nested(1, "abc")) + nested(12, nested(1, ipv4))},
		},
		record.KindEdge: {
			{"example", edge()},
			{"empty", ""},
			{"time that is none", nested(1, stamp(noon, 1e9)) + nested(31, "grpc")},
		},
		record.KindNothing: {
			{"example", instance("ping.instance.istio-system")},
			{"empty", ""},
			{"unknown fields", number(1, 1) + instance("a") + nested(2, "x")},
		},
		record.KindDecision: {
			{"example", decision()},
			{"empty", ""},
			{"failure", string((&record.Decision{ID: "1", Handler: "h", Outcome: "failed_open", Code: "OK", Reason: "timeout", Class: "timeout", Latency: 2 * time.Second}).Append(nil))},
			{"input on many lines", nested(10, "{\n\t\"a b\" : [ 1 , \"x \\\" y\", true ],\r\n\"c\":{}}")},
			{"input with odd texts", nested(10, "\"\u2028\u0085\x7f\xff\\u0000\\\\\"")},
			{"input cut", nested(10, `{"a":`)},
			{"input of nothing", nested(10, " ")},
			{"input of two values", nested(10, `1 2`)},
			{"input deep", nested(10, deep)},
			{"input too deep", nested(10, "["+deep[:900]+deep+deep[900:]+"]")},
			{"checks", nested(12, `[{"check":"header/key","result":"passed","reason":"header_match"},{"check":"rego","result":"failed","reason":"timeout","class":"timeout"}]`)},
			{"checks and shadow cut", nested(12, `[`) + nested(13, `{`)},
			{"shadow", nested(13, `{"divergence":"would_deny","outcome":"deny","code":"PERMISSION_DENIED","latency_seconds":0.00004}`)},
			{"negative latency", string((&record.Decision{Latency: -1}).Append(nil))},
			{"unknown fields", number(99, 1) + nested(98, "x")},
		},
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(nested(1, entry(string(rune('a'+i*7%26))+string(rune('a'+i%26)), integer(int64(i)))))
	}
	return b.String()
}

// malformedSamples are records that must be refused.
func malformedSamples() map[record.Kind][]sample {
	broken := map[record.Kind][]sample{
		record.KindLogEntry: {
			{"variables a number", number(1, 1)},
			{"entry cut", nested(1, "\x0a\x05k")},
			{"key a number", nested(1, number(1, 1))},
			{"value malformed", nested(1, nested(1, "k"), nested(2, "\x0a"))},
			{"value of a wrong type", nested(1, nested(1, "k"), nested(2, number(1, 1)))},
			{"first of two malformed", nested(1, nested(2, "\x0a")) + nested(1, entry("", integer(1)))},
			{"timestamp malformed", nested(2, "\x0a")},
			{"timestamp a number", number(2, 1)},
			{"timestamp in two halves", nested(2, "\x0a") + nested(2, "\x02\x08\x01")},
			{"timestamp in a whole and a half", nested(2, stamp(noon, 0)) + nested(2, "\x0a")},
			{"severity a number", number(3, 1)},
			{"resource's type a number", number(4, 1)},
			{"resource malformed", nested(5, "\x0a")},
		},
		record.KindMetric: {
			{"value malformed", nested(1, "\x0a")},
			{"value a number", number(1, 1)},
			{"value in two halves", nested(1, "\x0a") + nested(1, "\x01a")},
			{"dimension malformed", nested(2, "\x0a")},
			{"resource's type a number", number(3, 1)},
			{"resource malformed", nested(4, nested(2, "\x0a"))},
		},
		record.KindTraceSpan: {
			{"time malformed", nested(5, "\x0a")},
			{"end malformed", nested(6, nested(1, "\x08"))},
			{"tag malformed", nested(7, "\x0a")},
			{"status a text", nested(8, "200")},
			{"bool a text", nested(9, "true")},
			{"address a text", nested(12, "\x0a\x0510.0.0.1")},
			{"destination malformed", nested(14, number(1, 1))},
			{"size a text", nested(18, "1")},
		},
		record.KindEdge:     {{"time malformed", nested(1, "\x0a")}, {"owner a number", number(22, 1)}},
		record.KindDecision: {{"latency a text", nested(9, "1")}, {"input a number", number(10, 1)}},
	}
	for _, kind := range record.Kinds() {
		broken[kind] = append(broken[kind],
			sample{"cut", instance("a")[:3]},
			sample{"name a number", number(72295727, 1)},
			sample{"length too large", "\xfa\x06\x7fabc"},
			sample{"length negative", "\xfa\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
			sample{"field 0", "\x02\x00"},
			sample{"wire type 7", "\x27"},
			sample{"end of a group", "\x0c"},
			sample{"group without an end", "\xe3\x06\x08\x01"},
		)
	}
	return broken
}

// newRecord makes a record around an instance.
func newRecord(tb testing.TB, kind record.Kind, raw string) record.Record {
	tb.Helper()
	var spool record.SpoolID
	_, err := hex.Decode(spool[:], []byte("9f86d081884c7d659a2feaa0c55ad015"))
	require.NoError(tb, err)
	return record.Record{
		Spool: spool, Sequence: 1042, Index: 7, Kind: kind, Handler: "bookinfo",
		Caller:  "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account",
		Arrived: time.Date(2026, 11, 21, 13, 0, 1, 5_000_000, time.FixedZone("CET", 3600)),
		Raw:     raw,
	}
}
