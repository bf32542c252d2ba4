package reports

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/edge"
	"github.com/tollgate-mesh/tollgate/template/logentry"
	"github.com/tollgate-mesh/tollgate/template/metric"
	"github.com/tollgate-mesh/tollgate/template/reportnothing"
	"github.com/tollgate-mesh/tollgate/template/tracespan"
)

// methods are those of the report templates, by the kind of record that each makes.
var methods = map[string]string{
	"logentry":      mixertest.LogEntryMethod,
	"metric":        "/metric.HandleMetricService/HandleMetric",
	"tracespan":     "/tracespan.HandleTraceSpanService/HandleTraceSpan",
	"edge":          "/edge.HandleEdgeService/HandleEdge",
	"reportnothing": "/reportnothing.HandleReportNothingService/HandleReportNothing",
}

// target is a server that writes to a file, for calls made by hand.
type target struct {
	*server

	connection *grpc.ClientConn
	path       string
}

func newTarget(t *testing.T) *target {
	t.Helper()
	directory := t.TempDir()
	path := filepath.Join(directory, "records.jsonl")
	s := startServer(t, fmt.Sprintf(`
reports:
  directory: %q
  sinks:
    records:
      file: {path: %q}
      batch: {wait: 1ms}
`, filepath.Join(directory, "spool"), path))
	return &target{server: s, connection: s.connect(t), path: path}
}

// send makes a report call to a handler of that name, of instances in wire form: those of all templates are in the same place.
func (s *target) send(kind, handler string, instances ...[]byte) error {
	var call []byte
	for _, instance := range instances {
		call = protowire.AppendBytes(protowire.AppendTag(call, 1, protowire.BytesType), instance)
	}
	configuration := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), config.TypeURL)
	configuration = protowire.AppendBytes(protowire.AppendTag(configuration, 2, protowire.BytesType), mixertest.Params(&configpb.Params{Name: handler}))
	call = protowire.AppendBytes(protowire.AppendTag(call, 2, protowire.BytesType), configuration)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return mixertest.SendReport(ctx, s.connection, methods[kind], call)
}

// lines waits for so many records of a handler and returns the lines, without what is different each time.
func (s *target) lines(t *testing.T, handler string, count int) (lines []map[string]any) {
	t.Helper()
	s.await(t, fmt.Sprintf("%d records of %s", count, handler), func() bool {
		lines = nil
		content, err := os.ReadFile(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		require.NoError(t, err)
		for text := range bytes.Lines(content[:bytes.LastIndexByte(content, '\n')+1]) {
			line := map[string]any{}
			require.NoError(t, json.Unmarshal(text, &line), "%.200q", text)
			if line["handler"] == handler {
				assert.NotEmpty(t, line["id"])
				assert.NotEmpty(t, line["arrived"])
				delete(line, "id")
				delete(line, "arrived")
				lines = append(lines, line)
			}
		}
		return len(lines) >= count
	})
	require.Len(t, lines, count)
	return lines
}

// Values that cannot be read are null, and named; all else of their records arrives.
func TestUnreadableValues(t *testing.T) {
	target := newTarget(t)
	ip := func(raw ...byte) *policyv1beta1.IPAddress { return &policyv1beta1.IPAddress{Value: raw} }
	at := func(seconds int64, nanos int32) *policyv1beta1.TimeStamp {
		return &policyv1beta1.TimeStamp{Value: &types.Timestamp{Seconds: seconds, Nanos: nanos}}
	}
	const (
		noon     = 1605960000   // 2020-11-21T12:00:00Z
		year0    = -62135596801 // the last second of it
		year9999 = 253402300799 // the last second of it
	)
	type values = map[string]*policyv1beta1.Value
	for name, c := range map[string]struct {
		kind     string
		instance interface{ Marshal() ([]byte, error) }
		want     string
	}{
		"metric-without-value": {
			"metric",
			&metric.InstanceMsg{Name: "size", Dimensions: values{"code": {Value: &policyv1beta1.Value_Int64Value{Int64Value: 200}}}},
			`{"value": null, "dimensions": {"code": 200}, "undecoded": ["value"]}`,
		},
		"metric-of-no-type": {
			"metric",
			&metric.InstanceMsg{Name: "size", Value: &policyv1beta1.Value{}},
			`{"value": null, "undecoded": ["value"]}`,
		},
		"span-ends-before-it-starts": {
			"tracespan",
			&tracespan.InstanceMsg{Name: "size", TraceId: "1", StartTime: at(noon, 0), EndTime: at(noon-1, 500_000_000)},
			`{"trace_id": "1", "start_time": "2020-11-21T12:00:00Z", "end_time": "2020-11-21T11:59:59.5Z",
			  "http_status_code": 0, "client_span": false, "rewrite_client_span_id": false,
			  "request_size": 0, "request_total_size": 0, "response_size": 0, "response_total_size": 0}`,
		},
		"span-with-addresses-of-3-bytes": {
			"tracespan",
			&tracespan.InstanceMsg{
				Name: "size", SourceIp: ip(10, 0, 0), DestinationIp: ip(10, 0, 0, 1), StartTime: at(year0, 0), EndTime: at(noon, -1),
				SpanTags: values{"peer": {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: ip(1, 2, 3)}}},
			},
			`{"source_ip": null, "destination_ip": "10.0.0.1", "start_time": null, "end_time": null, "span_tags": {"peer": null},
			  "http_status_code": 0, "client_span": false, "rewrite_client_span_id": false,
			  "request_size": 0, "request_total_size": 0, "response_size": 0, "response_total_size": 0,
			  "undecoded": ["start_time", "end_time", "source_ip", "span_tags.peer"]}`,
		},
		"log-entry": {
			"logentry",
			&logentry.InstanceMsg{Name: "size", Timestamp: at(year9999+1, 0), Variables: values{
				"ip3":     {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: ip(10, 0, 0)}},
				"ip4":     {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: ip(10, 0, 0, 1)}},
				"ip17":    {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: ip(make([]byte, 17)...)}},
				"late":    {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: at(year9999+1, 0)}},
				"last":    {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: at(year9999, 999_999_999)}},
				"early":   {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: at(year0, 0)}},
				"nanos":   {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: at(noon, 1_000_000_000)}},
				"long":    {Value: &policyv1beta1.Value_DurationValue{DurationValue: &policyv1beta1.Duration{Value: &types.Duration{Seconds: 1 << 62}}}},
				"bad":     {Value: &policyv1beta1.Value_StringValue{StringValue: "a\xffb\n\u2028"}},
				"nothing": {},
			}},
			`{"timestamp": null, "variables": {"ip3": null, "ip4": "10.0.0.1", "ip17": null, "late": null,
			  "last": "9999-12-31T23:59:59.999999999Z", "early": null, "nanos": null, "long": null, "bad": "a\ufffdb\n\u2028", "nothing": null},
			  "undecoded": ["timestamp", "variables.early", "variables.ip17", "variables.ip3", "variables.late", "variables.long", "variables.nanos", "variables.nothing"]}`,
		},
		"edge": {
			"edge",
			&edge.InstanceMsg{Name: "size", Timestamp: at(year0, 0), ApiProtocol: "http"},
			`{"timestamp": null, "api_protocol": "http", "undecoded": ["timestamp"]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			instance, err := c.instance.Marshal()
			require.NoError(t, err)
			require.NoError(t, target.send(c.kind, name, instance))
			want := map[string]any{"kind": c.kind, "handler": name, "instance": "size"}
			require.NoError(t, json.Unmarshal([]byte(c.want), &want))
			assert.Equal(t, want, target.lines(t, name, 1)[0])
		})
	}
}

// An instance that cannot be read at all is left out and counted, and those beside it arrive.
func TestMalformedInstances(t *testing.T) {
	target := newTarget(t)
	seed := number(t, seedEnv, rand.Uint64())
	t.Logf("%s=%d", seedEnv, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	malformed := func() []byte {
		for {
			noise := make([]byte, 1+random.IntN(1000))
			for i := range noise {
				noise[i] = byte(random.UintN(256))
			}
			// Every template's decoder accepts fields it does not know, those with numbers that protobuf does not allow included; what
			// the template without fields of its own refuses, all refuse.
			if new(reportnothing.InstanceMsg).Unmarshal(noise) != nil {
				return noise
			}
		}
	}
	const pairs = 50
	for kind := range methods {
		t.Run(kind, func(t *testing.T) {
			var instances [][]byte
			for i := range pairs {
				const name = 72295727 // the field of every instance's
				instances = append(instances, malformed(), protowire.AppendString(protowire.AppendTag(nil, name, protowire.BytesType), strconv.Itoa(i)))
			}
			handler := "noise-" + kind
			require.NoError(t, target.send(kind, handler, instances...))
			for i, line := range target.lines(t, handler, pairs) {
				assert.Equal(t, strconv.Itoa(i), line["instance"])
				assert.Equal(t, kind, line["kind"])
			}
			metrics := target.mustScrape(t)
			for result, want := range map[string]float64{"malformed": pairs, "accepted": pairs, "refused": 0} {
				assert.InDelta(t, want, metrics.sum("tollgate_reports_total", "handler="+handler, "kind="+kind, "result="+result), 0, result)
			}
			account := metrics.accounts("records")
			assert.Zero(t, account.deadLettered+account.dropped, "what is left out is not accepted first: %s", account)

			require.NoError(t, target.send(kind, handler, malformed()), "a call of nothing else")
		})
	}
}

// What is as large as a call may be arrives whole, what is larger is an error and no more.
func TestLargeCalls(t *testing.T) {
	target := newTarget(t)
	entry := func(text string) []byte {
		instance, err := mixertest.LogEntry(map[string]string{"text": text}).Marshal()
		require.NoError(t, err)
		return instance
	}
	const mebibyte = 1 << 20
	whole := strings.Repeat("0123456789abcdef", 6*mebibyte/16)
	require.NoError(t, target.send("logentry", "one-entry", entry(whole)))
	assert.Equal(t, whole, target.lines(t, "one-entry", 1)[0]["variables"].(map[string]any)["text"])

	const parts = 60
	var entries [][]byte
	for i := range parts {
		entries = append(entries, entry(fmt.Sprintf("%d %s", i, whole[:len(whole)/parts])))
	}
	require.NoError(t, target.send("logentry", "many-entries", entries...))
	for i, line := range target.lines(t, "many-entries", parts) {
		assert.Equal(t, fmt.Sprintf("%d %s", i, whole[:len(whole)/parts]), line["variables"].(map[string]any)["text"])
	}

	counts := func() (all []float64) {
		metrics := target.mustScrape(t)
		for _, name := range []string{"report_accepted_total", "report_delivered_total", "report_refused_total", "report_dropped_total", "report_dead_lettered_total", "reports_total", "report_calls_total"} {
			all = append(all, metrics.sum("tollgate_"+name))
		}
		return all
	}
	target.awaitDelivered(t, "records")
	before, pid := counts(), target.pid()
	err := target.send("logentry", "too-large", entry(strings.Repeat("x", 17*mebibyte)))
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	require.ErrorContains(t, err, "received message larger than max")
	assert.Equal(t, before, counts())
	require.NoError(t, target.send("logentry", "afterwards", entry("small")))
	target.lines(t, "afterwards", 1)
	assert.True(t, target.alive())
	assert.Equal(t, pid, target.pid())
	content, err := os.ReadFile(target.path)
	require.NoError(t, err)
	assert.NotContains(t, string(content), "too-large")
}

// Instances of no bytes take two on the wire and far more in memory.
func TestAMillionEmptyInstances(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells how much memory another process had")
	}
	const (
		million = 1_000_000
		callers = 2
		calls   = 20        // each
		growth  = 256 << 20 // the messages themselves and the garbage collector have their share
	)
	target := newTarget(t)
	empty := make([][]byte, million)
	require.NoError(t, target.send("reportnothing", "warm", nil, nil))
	target.lines(t, "warm", 2)
	before := target.peakMemory(t)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range calls {
				err := target.send("reportnothing", "empty", empty...)
				assert.Equal(t, codes.InvalidArgument, status.Code(err), err)
				assert.ErrorContains(t, err, "has more than 131072 instances")
			}
		})
	}
	all.Wait()
	after := target.peakMemory(t)
	t.Logf("resident at the most: %d MiB before, %d MiB after %d calls of %d empty instances", before>>20, after>>20, callers*calls, million)
	assert.Less(t, after-before, growth)
	metrics := target.mustScrape(t)
	assert.InDelta(t, callers*calls, metrics.sum("tollgate_report_calls_total", "kind=reportnothing", "result=malformed"), 0)
	assert.InDelta(t, 2, metrics.accounts("records").accepted, 0)
}
