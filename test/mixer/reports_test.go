package mixer_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // which the adapter compresses with
	"google.golang.org/grpc/mem"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// reported are the attributes of a request that a proxy reports.
func reported() mesh.Attributes {
	at := time.Date(2026, 11, 21, 12, 0, 0, 250_000_000, time.UTC)
	return mesh.Attributes{
		"context.reporter.kind":          "inbound",
		"context.protocol":               "http",
		"context.time":                   at,
		"api.protocol":                   "rest",
		"connection.mtls":                true,
		"request.path":                   "/productpage?q=1",
		"request.method":                 "GET",
		"request.time":                   at,
		"request.size":                   int64(10),
		"request.total_size":             int64(1400),
		"request.referer":                "https://example.com/from",
		"response.time":                  at.Add(23456 * time.Microsecond),
		"response.duration":              1500 * time.Microsecond,
		"response.code":                  int64(503),
		"response.size":                  int64(4183),
		"response.total_size":            int64(4900),
		"report.double":                  0.25,
		"source.ip":                      net.IPv4(10, 0, 0, 1).To4(),
		"source.user":                    "alice@example.com",
		"source.uid":                     "kubernetes://ingress-1.istio-system",
		"source.owner":                   "kubernetes://deployment/ingress",
		"source.namespace":               "istio-system",
		"source.workload.name":           "ingress",
		"source.workload.namespace":      "istio-system",
		"destination.ip":                 net.ParseIP("2001:db8::1"),
		"destination.uid":                "kubernetes://productpage-1.default",
		"destination.owner":              "kubernetes://deployment/productpage",
		"destination.namespace":          "default",
		"destination.workload.name":      "productpage-v1",
		"destination.workload.namespace": "default",
		"destination.service.host":       "productpage.default.svc.cluster.local",
		"destination.service.name":       "productpage",
		"destination.service.namespace":  "default",
		"request.headers": map[string]string{
			"x-severity": "Chatter", "x-secret": "planted-secret-of-a-report", "x-b3-traceid": "463ac35c9f6413ad48485a3953bb6124",
			"x-b3-spanid": "a2fb4a1d1a96d312", "x-b3-parentspanid": "0020000000000001",
		},
	}
}

// wantReported are the records that come of it, but for id and arrival.
var wantReported = []string{
	`{"kind":"logentry","handler":"access-log","instance":"report-logentry.instance.istio-system","timestamp":"2026-11-21T12:00:00.25Z","severity":"Chatter",
	  "variables":{"bool":true,"dns_name":"productpage.default.svc.cluster.local","double":0.25,"duration":0.0015,"email":"alice@example.com","int64":503,
	    "ip":"10.0.0.1","masked":"***","password":"***","string":"/productpage?q=1","timestamp":"2026-11-21T12:00:00.25Z","uri":"https://example.com/from"},
	  "monitored_resource_type":"container","monitored_resource_dimensions":{"bool":true,"int64":7,"number":7,"string":"a constant"}}`,
	`{"kind":"metric","handler":"metrics","instance":"report-metric.instance.istio-system","value":4900,
	  "dimensions":{"destination":"productpage","mtls":true,"response_code":503,"source":"ingress"},
	  "monitored_resource_type":"workload","monitored_resource_dimensions":{"namespace":"default"}}`,
	`{"kind":"tracespan","handler":"spans","instance":"report-tracespan.instance.istio-system","trace_id":"463ac35c9f6413ad48485a3953bb6124",
	  "span_id":"a2fb4a1d1a96d312","parent_span_id":"0020000000000001","span_name":"/productpage?q=1","start_time":"2026-11-21T12:00:00.25Z",
	  "end_time":"2026-11-21T12:00:00.273456Z","http_status_code":503,"client_span":false,"rewrite_client_span_id":true,"source_name":"ingress",
	  "source_ip":"10.0.0.1","destination_name":"productpage-v1","destination_ip":"2001:db8::1","request_size":10,"request_total_size":1400,
	  "response_size":4183,"response_total_size":4900,"api_protocol":"rest",
	  "span_tags":{"http.method":"GET","http.status_code":503,"response.duration":0.0015,"source.ip":"10.0.0.1"}}`,
	`{"kind":"edge","handler":"edges","instance":"report-edge.instance.istio-system","timestamp":"2026-11-21T12:00:00.25Z",
	  "source_workload_namespace":"istio-system","source_workload_name":"ingress","source_owner":"kubernetes://deployment/ingress",
	  "source_uid":"kubernetes://ingress-1.istio-system","destination_workload_namespace":"default","destination_workload_name":"productpage-v1",
	  "destination_owner":"kubernetes://deployment/productpage","destination_uid":"kubernetes://productpage-1.default",
	  "destination_service_namespace":"default","destination_service_name":"productpage","context_protocol":"http","api_protocol":"rest"}`,
	`{"kind":"reportnothing","handler":"nothing","instance":"report-reportnothing.instance.istio-system"}`,
}

var recordID = regexp.MustCompile(`^[0-9a-f]{32}-[0-9]+-[0-9]+$`)

// testReports sends requests through mixc report and the real Mixer to files, of all five templates, with every field.
func testReports(t *testing.T, s *suite) {
	const requests = 7
	out := t.TempDir()
	records, second, spool := filepath.Join(out, "records.jsonl"), filepath.Join(out, "second.jsonl"), filepath.Join(out, "spool")
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: fmt.Sprintf(
		"reports: {directory: %q, default_sinks: [records], sinks: {records: {file: {path: %q}}, second: {file: {path: %q}}}}", spool, records, second)})
	text := strings.ReplaceAll(readFile(t, "testdata/reports.yaml"), "tollgate:44225", tollgate.Addr)
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("reports")) })
	meshtest.Apply(t, s.mixer, "reports", text)

	attributes := reported()
	args, err := mesh.MixcArgs(attributes)
	require.NoError(t, err)
	printed, err := s.mixer.MixcReport(t.Context(), append(args, "-r", "7", "--report_batch_size", "7")...)
	require.NoError(t, err)
	require.NotContains(t, printed, "failed", printed)

	var got map[string][]map[string]any
	waitFor(t, "the records", func(context.Context) error {
		got = map[string][]map[string]any{}
		n := 0
		for _, line := range recordLines(t, records) {
			kind := line["kind"].(string)
			got[kind] = append(got[kind], line)
			n++
		}
		if n < requests*len(wantReported) {
			return fmt.Errorf("%d records: %s", n, printed)
		}
		return nil
	})
	ids := map[string]bool{}
	for _, text := range wantReported {
		want := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(text), &want))
		kind := want["kind"].(string)
		require.Len(t, got[kind], requests, kind)
		for _, line := range got[kind] {
			id := line["id"].(string)
			assert.Regexp(t, recordID, id)
			assert.False(t, ids[id], "%s comes twice", id)
			ids[id] = true
			arrived, err := time.Parse(time.RFC3339Nano, line["arrived"].(string))
			require.NoError(t, err)
			assert.WithinDuration(t, time.Now(), arrived, time.Minute)
			delete(line, "id")
			delete(line, "arrived")
			assert.Equal(t, want, line)
		}
	}
	waitFor(t, "the second sink's records", func(context.Context) error {
		if n := len(recordLines(t, second)); n != requests {
			return fmt.Errorf("%d records, not the %d log entries", n, requests)
		}
		return nil
	})
	require.NoError(t, tollgate.Stop(t.Context()))
	assert.NotContains(t, tollgate.Log.String(), "default sinks", "the handlers are valid")
	noneHolds(t, out, "planted")
}

// noneHolds fails if any file below the directory holds the text.
func noneHolds(t *testing.T, directory, text string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		assert.NotContains(t, string(content), text, path)
		return err
	}))
}

func recordLines(t *testing.T, path string) (lines []map[string]any) {
	t.Helper()
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	defer file.Close()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		line := map[string]any{}
		if json.Unmarshal(scanner.Bytes(), &line) == nil { // the last may be half written
			lines = append(lines, line)
		}
	}
	return lines
}

// testReportExamples applies the examples that report, each with an adapter that runs with the settings beside it.
func testReportExamples(t *testing.T, s *suite) {
	collector := startFakeCollector(t)
	for name, check := range map[string]func(t *testing.T, tollgate *mesh.Tollgate, directory string) error{
		"access-log": func(t *testing.T, _ *mesh.Tollgate, directory string) error {
			t.Helper()
			lines := recordLines(t, filepath.Join(directory, "log", "access.jsonl"))
			if len(lines) != 3 {
				return fmt.Errorf("%d lines", len(lines))
			}
			assert.Equal(t, map[string]any{
				"bytes_sent": 4900.0, "code": 503.0, "destination": "productpage-v1", "destination_namespace": "default", "latency": 0.0015, "method": "GET",
				"path": "/productpage?q=1", "service": "productpage.default.svc.cluster.local", "source": "ingress", "source_ip": "10.0.0.1",
				"source_namespace": "istio-system", "user": "***",
			}, lines[0]["variables"])
			return nil
		},
		"metrics": func(t *testing.T, tollgate *mesh.Tollgate, _ string) error {
			t.Helper()
			body := get(t, "http://"+tollgate.AdminAddr+"/metrics/metrics")
			labels := `destination="productpage-v1",destination_service="productpage",response_code="503",source="ingress"`
			for _, sample := range []string{
				"istio_requests_total{" + labels + "} 3\n",
				"istio_request_duration_seconds_bucket{" + labels + `,le="0.005"} 3` + "\n",
				"istio_request_duration_seconds_count{" + labels + "} 3\n",
				"istio_response_bytes_bucket{" + labels + `,le="1000"} 0` + "\n",
				"istio_response_bytes_bucket{" + labels + `,le="10000"} 3` + "\n",
			} {
				if !strings.Contains(body, sample) {
					return fmt.Errorf("%q is not in:\n%s", sample, body)
				}
			}
			return nil
		},
		"spans": func(t *testing.T, _ *mesh.Tollgate, _ string) error {
			t.Helper()
			calls := collector.calls("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
			trace, err := hex.DecodeString("463ac35c9f6413ad48485a3953bb6124")
			require.NoError(t, err)
			if n := strings.Count(strings.Join(calls, ""), string(trace)); n != 3 {
				return fmt.Errorf("%d spans", n)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			settings := strings.NewReplacer(
				"/var/lib/tollgate", filepath.Join(directory, "spool"), "/var/log/tollgate", filepath.Join(directory, "log"),
				"otel-collector.observability.svc.cluster.local:4317", collector.addr,
			).Replace(readFile(t, root, "operatorconfig/examples/"+name+".settings.yaml"))
			tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: settings})
			text := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/"+name+".yaml"), exampleAddress, tollgate.Addr)
			t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-"+name)) })
			meshtest.Apply(t, s.mixer, "example-"+name, text)
			args, err := mesh.MixcArgs(reported().With(mesh.Attributes{"source.principal": "planted-principal"}))
			require.NoError(t, err)
			_, err = s.mixer.MixcReport(t.Context(), append(args, "-r", "3", "--report_batch_size", "3")...)
			require.NoError(t, err)
			waitFor(t, "what the example promises", func(context.Context) error { return check(t, tollgate, directory) })
			require.NoError(t, tollgate.Stop(t.Context()))
			noneHolds(t, directory, "planted")
		})
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

// fakeCollector takes every gRPC call and keeps its bytes. The real Collector is in test/collector, where its dependencies are.
type fakeCollector struct {
	addr string

	mu     sync.Mutex
	bodies map[string][]string
}

func startFakeCollector(t *testing.T) *fakeCollector {
	t.Helper()
	c := &fakeCollector{bodies: map[string][]string{}}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var body []byte
		if err := stream.RecvMsg(&body); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(stream)
		c.mu.Lock()
		c.bodies[method] = append(c.bodies[method], string(body))
		c.mu.Unlock()
		return stream.SendMsg([]byte{})
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.addr = listener.Addr().String()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return c
}

func (c *fakeCollector) calls(method string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bodies[method])
}

// raw hands the bytes of messages through.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// testDecisionLog checks that whoever is denied is told the id of a record, through the real Mixer, and that nothing hidden is in it.
func testDecisionLog(t *testing.T, s *suite) {
	out := t.TempDir()
	main, second := filepath.Join(out, "main.jsonl"), filepath.Join(out, "second.jsonl")
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: fmt.Sprintf(
		"evaluation_timeout: 5s\nreports: {directory: %q, default_sinks: [main], sinks: {main: {file: {path: %q}}, second: {file: {path: %q}}}}",
		filepath.Join(out, "spool"), main, second)})
	text := withRules(t, strings.ReplaceAll(readFile(t, "testdata/applied/decisions.yaml"), "tollgate:44225", tollgate.Addr))
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("decisions")) })
	meshtest.Apply(t, s.mixer, "decisions", text)

	attempt := []string{"x-custom-token", "planted-attempt", "x-user", "planted-user", "x-method", "GET"}
	right := []string{"x-custom-token", "planted-key", "x-user", "bob", "x-method", "GET"}
	s.expect(t, allowed, "/decisions", right...)
	s.expect(t, allowed, "/decisions-http", right...)
	told := map[string]string{}
	v := s.expect(t, denied, "/decisions", attempt...)
	id := regexp.MustCompile(`^decisions\.handler\.istio-system:not authorized \(decision ([a-z2-7]{16})\)$`).FindStringSubmatch(v.Message)
	require.NotNil(t, id, v.Message)
	told["decisions"] = id[1]

	v = s.check(t, request("/decisions-http", attempt...))
	require.NotNil(t, v.Direct, v)
	assert.Equal(t, 401, v.Direct.Code)
	for _, header := range v.ResponseHeaders {
		if header.Name == "x-tollgate-decision-id" {
			told["decisions-http"] = header.Value
		}
	}
	require.Len(t, told["decisions-http"], 16, v.ResponseHeaders)
	s.expect(t, allowed, "/decisions-all", "x-custom-token", "planted-key", "x-user", "bob", "x-method", "GET")

	require.NoError(t, tollgate.Stop(t.Context()))
	kept := map[string]map[string]any{}
	for _, path := range []string{main, second} {
		for _, line := range recordLines(t, path) {
			assert.Equal(t, "decision", line["kind"])
			handler := line["handler"].(string)
			assert.Nil(t, kept[handler], "%s has more records than decisions that it keeps", handler)
			assert.Equal(t, path == second, handler == "decisions", "the sink is the handler's, or the default one")
			kept[handler] = line
		}
	}
	for handler, id := range told {
		require.NotNil(t, kept[handler], handler)
		assert.Equal(t, id, kept[handler]["decision_id"])
		assert.Equal(t, "deny", kept[handler]["outcome"])
		assert.Equal(t, "request.instance.istio-system", kept[handler]["instance"])
	}
	assert.Equal(t, map[string]any{
		"subject": map[string]any{"user": "***", "properties": map[string]any{"custom_token_header": "***"}}, "action": map[string]any{"method": "GET"},
	}, kept["decisions"]["input"])
	require.NotNil(t, kept["decisions-all"])
	assert.Equal(t, "allow", kept["decisions-all"]["outcome"])
	noneHolds(t, out, "planted-key")
	noneHolds(t, out, "planted-attempt")
}
