package collector

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/require"
	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
	policy "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

const (
	perCall = 100 // records
	// contents is how many different calls there are; they are sent in turn.
	contents = 16
)

// entry is a line of an access log: twelve fields of six types.
type entry struct {
	at, receivedAt                                      time.Time
	destination, method, protocol, url, user, userAgent string
	latency                                             time.Duration
	mtls                                                bool
	responseCode, responseSize                          int64
	sourceIP                                            netip.Addr
}

func newEntry(random *rand.Rand) *entry {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	at := time.Date(2026, 11, 21, 12, 0, 0, random.IntN(1e9), time.UTC)
	latency := time.Duration(random.IntN(int(time.Second/time.Microsecond))) * time.Microsecond
	service := pick("productpage", "details", "reviews", "ratings")
	return &entry{
		at: at, receivedAt: at.Add(-latency),
		destination: service + ".default.svc.cluster.local", method: pick("GET", "POST"), protocol: pick("http", "grpc"),
		url:       fmt.Sprintf("/%s?q=%d", service, random.IntN(1_000_000)),
		user:      "cluster.local/ns/default/sa/bookinfo-" + service,
		userAgent: "Mozilla/5.0 (X11; Linux x86_64)",
		latency:   latency, mtls: random.IntN(2) == 0, responseCode: int64(200 + random.IntN(5)), responseSize: random.Int64N(100_000),
		sourceIP: netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(256)), byte(random.IntN(256))}),
	}
}

// instance is the entry as Mixer reports it.
func (e *entry) instance() *logentry.InstanceMsg {
	stamp := func(at time.Time) *policy.TimeStamp {
		return &policy.TimeStamp{Value: &types.Timestamp{Seconds: at.Unix(), Nanos: int32(at.Nanosecond())}}
	}
	integer := func(n int64) *policy.Value { return &policy.Value{Value: &policy.Value_Int64Value{Int64Value: n}} }
	return &logentry.InstanceMsg{
		Name: "accesslog.instance.istio-system", Severity: "info", Timestamp: stamp(e.at),
		Variables: map[string]*policy.Value{
			"destinationService": mixertest.Text(e.destination),
			"latency":            {Value: &policy.Value_DurationValue{DurationValue: &policy.Duration{Value: types.DurationProto(e.latency)}}},
			"method":             mixertest.Text(e.method),
			"mtls":               {Value: &policy.Value_BoolValue{BoolValue: e.mtls}},
			"protocol":           mixertest.Text(e.protocol),
			"receivedAt":         {Value: &policy.Value_TimestampValue{TimestampValue: stamp(e.receivedAt)}},
			"responseCode":       integer(e.responseCode),
			"responseSize":       integer(e.responseSize),
			"sourceIp":           {Value: &policy.Value_IpAddressValue{IpAddressValue: &policy.IPAddress{Value: e.sourceIP.AsSlice()}}},
			"url":                mixertest.Text(e.url),
			"user":               mixertest.Text(e.user),
			"userAgent":          mixertest.Text(e.userAgent),
		},
	}
}

// logRecord is the entry in OTLP, with the types that Tollgate's own otlp sink gives to its fields.
func (e *entry) logRecord() *logspb.LogRecord {
	text := func(v string) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}
	}
	integer := func(n int64) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: n}}
	}
	record := &logspb.LogRecord{TimeUnixNano: uint64(e.at.UnixNano()), SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "info", Body: text("accesslog")}
	for _, attribute := range []struct {
		name  string
		value *commonpb.AnyValue
	}{
		{"destinationService", text(e.destination)},
		{"latency", &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: e.latency.Seconds()}}},
		{"method", text(e.method)},
		{"mtls", &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: e.mtls}}},
		{"protocol", text(e.protocol)},
		{"receivedAt", text(e.receivedAt.Format(time.RFC3339Nano))},
		{"responseCode", integer(e.responseCode)},
		{"responseSize", integer(e.responseSize)},
		{"sourceIp", text(e.sourceIP.String())},
		{"url", text(e.url)},
		{"user", text(e.user)},
		{"userAgent", text(e.userAgent)},
	} {
		record.Attributes = append(record.Attributes, &commonpb.KeyValue{Key: attribute.name, Value: attribute.value})
	}
	return record
}

// encode returns the same calls, as bytes, for Tollgate and for the Collector.
func encode(t *testing.T) (mixer, otlp [][]byte) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2)) // the same in every run
	params := mixertest.Params(&configpb.Params{Name: "bookinfo"})
	for range contents {
		var instances []*logentry.InstanceMsg
		var records []*logspb.LogRecord
		for range perCall {
			e := newEntry(random)
			instances = append(instances, e.instance())
			records = append(records, e.logRecord())
		}
		mixer = append(mixer, mixertest.LogEntries(params, instances...))
		encoded, err := proto.Marshal(&collectorpb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
			Resource:  &resourcepb.Resource{},
			ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: "bookinfo"}, LogRecords: records}},
		}}})
		require.NoError(t, err)
		otlp = append(otlp, encoded)
	}
	return mixer, otlp
}
