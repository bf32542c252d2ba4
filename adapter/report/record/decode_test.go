package record_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func TestDecodeLogEntry(t *testing.T) {
	e, err := record.DecodeLogEntry(nested(1, entry("b", integer(1))) + nested(1, entry("a", text("x"))) + nested(1, entry("b", integer(2))) +
		nested(2, stamp(noon, 5)) + nested(3, "info") + nested(4, "global") + nested(5, entry("zone", text("eu"))) + instance("i"))
	require.NoError(t, err)
	assert.Equal(t, record.LogEntry{
		Name: "i",
		Variables: attribute.Map{
			{Name: "b", Value: attribute.OfInt64(1)}, {Name: "a", Value: attribute.OfText(attribute.String, "x")}, {Name: "b", Value: attribute.OfInt64(2)},
		},
		Timestamp: time.Unix(noon, 5).UTC(), Severity: "info", MonitoredResourceType: "global",
		MonitoredResourceDimensions: attribute.Map{{Name: "zone", Value: attribute.OfText(attribute.String, "eu")}},
	}, e)
}

func TestDecodeMetric(t *testing.T) {
	m, err := record.DecodeMetric(metric())
	require.NoError(t, err)
	assert.Equal(t, record.Metric{
		Name: "responsesize.instance.istio-system", Value: attribute.OfInt64(4183),
		Dimensions: attribute.Map{
			{Name: "response_code", Value: attribute.OfInt64(200)}, {Name: "destination", Value: attribute.OfText(attribute.String, "productpage.default")},
		},
		MonitoredResourceType: "UNSPECIFIED",
	}, m)
}

func TestDecodeTraceSpan(t *testing.T) {
	s, err := record.DecodeTraceSpan(span())
	require.NoError(t, err)
	assert.Equal(t, record.TraceSpan{
		Name: "span.instance.istio-system", TraceID: "463ac35c9f6413ad48485a3953bb6124", SpanID: "a2fb4a1d1a96d312", ParentSpanID: "0020000000000001",
		SpanName: "productpage.default", StartTime: time.Unix(noon, 0).UTC(), EndTime: time.Unix(noon, 23_456_000).UTC(),
		SpanTags:       attribute.Map{{Name: "http.method", Value: attribute.OfText(attribute.String, "GET")}, {Name: "http.status", Value: attribute.OfInt64(200)}},
		HTTPStatusCode: 200, ClientSpan: true, RewriteClientSpanID: true,
		SourceName: "ingressgateway", SourceIP: netip.MustParseAddr("10.0.0.1"), DestinationName: "productpage-v1", DestinationIP: netip.MustParseAddr("2001:db8::1"),
		RequestSize: 10, RequestTotalSize: 1400, ResponseSize: 4183, ResponseTotalSize: 4900, APIProtocol: "http",
	}, s)
}

func TestDecodeEdge(t *testing.T) {
	e, err := record.DecodeEdge(edge())
	require.NoError(t, err)
	assert.Equal(t, record.Edge{
		Name: "edge.instance.istio-system", Timestamp: time.Unix(noon, 0).UTC(),
		SourceWorkloadNamespace: "istio-system", SourceWorkloadName: "ingressgateway", SourceOwner: "kubernetes://deployment/ingressgateway",
		SourceUID: "kubernetes://ingressgateway-1.istio-system", DestinationWorkloadNamespace: "default", DestinationWorkloadName: "productpage-v1",
		DestinationOwner: "kubernetes://deployment/productpage-v1", DestinationUID: "kubernetes://productpage-v1-1.default",
		DestinationServiceNamespace: "default", DestinationServiceName: "productpage", ContextProtocol: "http", APIProtocol: "http",
	}, e)
}

func TestDecodeNothing(t *testing.T) {
	n, err := record.DecodeNothing(instance("a"))
	require.NoError(t, err)
	assert.Equal(t, record.Nothing{Name: "a"}, n)
}

func TestDecisionsComeBack(t *testing.T) {
	for _, d := range []record.Decision{
		{},
		{Latency: -1},
		{Latency: math.MaxInt64, Input: strings.Repeat("x", 300)},
		{ID: "1", Handler: "2", Instance: "3", Outcome: "4", Code: "5", Check: "6", Reason: "7", Class: "8", Revision: "9", Latency: 10, Input: "11", Cached: true, Checks: "12", Shadow: "13"},
	} {
		raw := d.Append([]byte("before"))
		require.True(t, strings.HasPrefix(string(raw), "before"))
		got, err := record.DecodeDecision(string(raw[len("before"):]))
		require.NoError(t, err)
		assert.Equal(t, d, got)
	}
}

// FuzzDecode makes records of every kind, encodes them by hand in one of the forms that protobuf allows, and demands that they come
// back as they were.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		e := &encoder{Rand: rand.New(rand.NewPCG(seed, 1))}
		switch want := e.record().(type) {
		case record.LogEntry:
			got, err := record.DecodeLogEntry(e.message())
			require.NoError(t, err)
			require.Equal(t, want, got)
		case record.Metric:
			got, err := record.DecodeMetric(e.message())
			require.NoError(t, err)
			require.Equal(t, want, got)
		case record.TraceSpan:
			got, err := record.DecodeTraceSpan(e.message())
			require.NoError(t, err)
			require.Equal(t, want, got)
		case record.Edge:
			got, err := record.DecodeEdge(e.message())
			require.NoError(t, err)
			require.Equal(t, want, got)
		case record.Decision:
			got, err := record.DecodeDecision(e.message())
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// encoder makes up a record and keeps its fields, encoded; those with the same number in their order.
type encoder struct {
	*rand.Rand
	fields map[protowire.Number][]string
}

func (e *encoder) message() string {
	// Fields of different numbers in any order, with unknown ones between them.
	var queues [][]string
	for _, field := range slices.Sorted(maps.Keys(e.fields)) {
		queues = append(queues, e.fields[field])
	}
	var b strings.Builder
	for len(queues) > 0 {
		if e.IntN(4) == 0 {
			b.WriteString([]string{number(99, 1), nested(98, "\xff"), "\xe3\x06\x08\x01\xe4\x06", "\xe5\x06abcd", "\xe1\x06abcdefgh"}[e.IntN(5)])
		}
		at := e.IntN(len(queues))
		b.WriteString(queues[at][0])
		if queues[at] = queues[at][1:]; len(queues[at]) == 0 {
			queues[at] = queues[len(queues)-1]
			queues = queues[:len(queues)-1]
		}
	}
	return b.String()
}

func (e *encoder) add(number protowire.Number, field string) {
	e.fields[number] = append(e.fields[number], field)
}

// varint is v in as few bytes as it needs, or in more.
func (e *encoder) varint(v uint64) string {
	encoded := protowire.AppendVarint(nil, v)
	for e.IntN(3) == 0 && len(encoded) < 9 {
		encoded[len(encoded)-1] |= 0x80
		encoded = append(encoded, 0)
	}
	return string(encoded)
}

func (e *encoder) nested(number protowire.Number, content string) string {
	return e.varint(protowire.EncodeTag(number, protowire.BytesType)) + e.varint(uint64(len(content))) + content
}

func (e *encoder) number(number protowire.Number, v uint64) string {
	return e.varint(protowire.EncodeTag(number, protowire.VarintType)) + e.varint(v)
}

// text adds a text, sometimes after another that does not count.
func (e *encoder) text(number protowire.Number) string {
	text := []string{"", "a", "info", "\x00", "\xff", strings.Repeat("long ", 60)}[e.IntN(6)]
	if e.IntN(4) == 0 {
		e.add(number, e.nested(number, "before"))
		e.add(number, e.nested(number, text))
	} else if text != "" || e.IntN(2) == 0 {
		e.add(number, e.nested(number, text))
	}
	return text
}

func (e *encoder) int64(number protowire.Number) int64 {
	v := []int64{0, 1, -1, 127, 128, math.MaxInt64, math.MinInt64, e.Int64()}[e.IntN(8)]
	if v != 0 || e.IntN(2) == 0 {
		e.add(number, e.number(number, uint64(v)))
	}
	return v
}

func (e *encoder) bool(number protowire.Number) bool {
	v := e.IntN(2) == 0
	e.add(number, e.number(number, protowire.EncodeBool(v)))
	return v
}

// split is a field with a message in it, in one part or several.
func (e *encoder) split(number protowire.Number, parts ...string) {
	whole := ""
	for _, part := range parts {
		whole += part
		if e.IntN(4) == 0 {
			e.add(number, e.nested(number, whole))
			whole = ""
		}
	}
	e.add(number, e.nested(number, whole))
}

func (e *encoder) seconds() (int64, int32) {
	return []int64{0, 1, noon, -62135596799, 253402300799}[e.IntN(5)], []int32{0, 1, 999_999_999}[e.IntN(3)]
}

func (e *encoder) stamp(seconds int64, nanos int32) []string {
	if e.IntN(2) == 0 {
		return []string{e.nested(1, e.number(2, uint64(nanos))+e.number(1, uint64(seconds)))}
	}
	return []string{e.nested(1, e.number(1, uint64(seconds))), e.nested(1, e.number(2, uint64(nanos)))}
}

func (e *encoder) time(number protowire.Number) time.Time {
	if e.IntN(4) == 0 {
		return time.Time{}
	}
	seconds, nanos := e.seconds()
	e.split(number, e.stamp(seconds, nanos)...)
	return time.Unix(seconds, int64(nanos)).UTC()
}

func (e *encoder) addr(number protowire.Number) netip.Addr {
	if e.IntN(4) == 0 {
		return netip.Addr{}
	}
	raw := []string{ipv4, ipv6, mapped}[e.IntN(3)]
	e.split(number, e.nested(1, "before"), e.nested(1, raw))
	addr, _ := netip.AddrFromSlice([]byte(raw))
	return addr.Unmap()
}

// value makes up a value and the content of its message.
func (e *encoder) value() (value attribute.Value, content string) {
	wrapped := func(member protowire.Number, text string) string { return e.nested(member, e.nested(1, text)) }
	seconds, nanos := e.seconds()
	switch e.IntN(12) {
	case 0:
		value, content = attribute.OfText(attribute.String, "a"), e.nested(1, "a")
	case 1:
		value, content = attribute.OfInt64(-7), e.number(2, 1<<64-7)
	case 2:
		value, content = attribute.OfDouble(1.5), double(1.5)
	case 3:
		value, content = attribute.OfBool(true), e.number(4, 1)
	case 4:
		value, content = attribute.OfIP(mapped), wrapped(5, mapped)
	case 5:
		value, content = attribute.OfTimestamp(seconds, nanos), e.nested(6, strings.Join(e.stamp(seconds, nanos), ""))
	case 6:
		value, content = attribute.OfDuration(3, 500), e.nested(7, strings.Join(e.stamp(3, 500), ""))
	case 7:
		value, content = attribute.OfText(attribute.Email, "b"), wrapped(8, "b")
	case 8:
		value, content = attribute.OfText(attribute.DNSName, "c"), wrapped(9, "c")
	case 9:
		value, content = attribute.OfText(attribute.URI, "d"), wrapped(10, "d")
	case 10:
		content = e.nested(11, "x")
	}
	if e.IntN(4) == 0 && content != "" {
		content = e.number(2, 1) + content
	}
	return value, content
}

func (e *encoder) values(field protowire.Number) (m attribute.Map) {
	for range e.IntN(40) {
		name := []string{"", "a", "b", "\xff", "a name of some length"}[e.IntN(5)]
		value, content := e.value()
		parts := []string{e.nested(1, name), e.nested(2, content), number(7, 1)}
		e.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		e.add(field, e.nested(field, strings.Join(parts, "")))
		m = append(m, attribute.Entry{Name: name, Value: value})
	}
	return m
}

func (e *encoder) record() any {
	e.fields = map[protowire.Number][]string{}
	const name = 72295727
	switch e.IntN(5) {
	case 0:
		return record.LogEntry{
			Name: e.text(name), Variables: e.values(1), Timestamp: e.time(2), Severity: e.text(3), MonitoredResourceType: e.text(4),
			MonitoredResourceDimensions: e.values(5),
		}
	case 1:
		m := record.Metric{Name: e.text(name), Dimensions: e.values(2), MonitoredResourceType: e.text(3), MonitoredResourceDimensions: e.values(4)}
		var content string
		if m.Value, content = e.value(); content != "" {
			e.split(1, content)
		}
		return m
	case 2:
		return record.TraceSpan{
			Name: e.text(name), TraceID: e.text(1), SpanID: e.text(2), ParentSpanID: e.text(3), SpanName: e.text(4), StartTime: e.time(5), EndTime: e.time(6),
			SpanTags: e.values(7), HTTPStatusCode: e.int64(8), ClientSpan: e.bool(9), RewriteClientSpanID: e.bool(10), SourceName: e.text(11), SourceIP: e.addr(12),
			DestinationName: e.text(13), DestinationIP: e.addr(14), RequestSize: e.int64(15), RequestTotalSize: e.int64(16), ResponseSize: e.int64(17),
			ResponseTotalSize: e.int64(18), APIProtocol: e.text(19),
		}
	case 3:
		return record.Edge{
			Name: e.text(name), Timestamp: e.time(1), SourceWorkloadNamespace: e.text(10), SourceWorkloadName: e.text(11), SourceOwner: e.text(12),
			SourceUID: e.text(13), DestinationWorkloadNamespace: e.text(20), DestinationWorkloadName: e.text(21), DestinationOwner: e.text(22),
			DestinationUID: e.text(23), DestinationServiceNamespace: e.text(24), DestinationServiceName: e.text(25), ContextProtocol: e.text(30),
			APIProtocol: e.text(31),
		}
	default:
		return record.Decision{
			ID: e.text(1), Handler: e.text(2), Outcome: e.text(3), Code: e.text(4), Check: e.text(5), Reason: e.text(6), Class: e.text(7), Revision: e.text(8),
			Latency: time.Duration(e.int64(9)), Input: e.text(10), Cached: e.bool(11), Checks: e.text(12), Shadow: e.text(13), Instance: e.text(name),
		}
	}
}
