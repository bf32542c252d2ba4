package mixer_test

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	traceservice "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/test/mixer/constant"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// The trace that a request belongs to, and the span in it that the proxy made.
const (
	traceID = "463ac35c9f6413ad48485a3953bb6124"
	spanID  = "a2fb4a1d1a96d312"
)

// TestMixerSendsNoTraceContext shows what docs/observability.md says of Mixer: it takes up the trace of a proxy's call and makes a span of
// every call to an adapter, and tells the adapter nothing of either.
func TestMixerSendsNoTraceContext(t *testing.T) {
	for _, version := range mesh.Versions {
		for name, args := range map[string][]string{
			"off":    nil,
			"log":    {"--trace_log_spans=true"},
			"zipkin": {"--trace_zipkin_url=http://127.0.0.1:9/api/v1/spans", "--trace_log_spans=true"},
			"jaeger": {"--trace_jaeger_url=http://127.0.0.1:9/api/traces?format=jaeger.thrift", "--trace_log_spans=true"},
		} {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				adapter, err := constant.Start()
				require.NoError(t, err)
				t.Cleanup(adapter.Stop)
				if args != nil {
					args = append(args, "--trace_sampling_rate=1")
				}
				mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Args: args, Resources: map[string]string{
					"tollgate": bundle(t),
					"constant": strings.ReplaceAll(constantAdapter, "ADDRESS", adapter.Addr),
				}})
				ctx := grpcmetadata.AppendToOutgoingContext(t.Context(),
					"x-request-id", "1", "x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", "1",
					"b3", traceID+"-"+spanID+"-1", "uber-trace-id", traceID+":"+spanID+":0:1", "traceparent", "00-"+traceID+"-"+spanID+"-01")
				_, err = mixer.Check(ctx, request("/", "x-constant", constant.Answer{}.String()))
				require.NoError(t, err)
				var names []string
				for name := range adapter.Headers() {
					names = append(names, name)
				}
				assert.ElementsMatch(t, []string{":authority", "content-type", "user-agent"}, names)
				if name == "log" {
					// Mixer may log a span when it has answered.
					for _, text := range []string{"authorization.template.istio-system:constant.handler.istio-system", traceID} {
						waitFor(t, "Mixer's span of the call, in the proxy's trace", func(context.Context) error {
							if !mixer.Log.Contains(text) {
								return errors.New("the log has no " + text)
							}
							return nil
						})
					}
				}
			})
		}
	}
}

const constantAdapter = `apiVersion: config.istio.io/v1alpha2
kind: adapter
metadata: {name: constant, namespace: istio-system}
spec: {description: A test adapter., session_based: false, templates: [authorization]}
---
apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: constant, namespace: istio-system}
spec: {adapter: constant, connection: {address: "ADDRESS"}, params: {}}
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: constant, namespace: istio-system}
spec:
  template: authorization
  params: {subject: {user: 'request.headers["x-constant"] | ""'}}
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: constant, namespace: istio-system}
spec: {actions: [{handler: constant, instances: [constant]}]}
`

// traced is a handler whose instance hands on the headers of the request's trace, as docs/observability.md has it.
const traced = `apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: traced, namespace: istio-system}
spec:
  adapter: tollgate
  connection: {address: "ADDRESS", timeout: 5s}
  params: {name: traced, auth_key: planted-key}
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: traced, namespace: istio-system}
spec:
  template: authorization
  params:
    subject:
      properties:
        custom_token_header: request.headers["x-custom-token"] | ""
        x-b3-traceid: request.headers["x-b3-traceid"] | ""
        x-b3-spanid: request.headers["x-b3-spanid"] | ""
        x-b3-sampled: request.headers["x-b3-sampled"] | ""
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: traced, namespace: istio-system}
spec: {actions: [{handler: traced, instances: [traced]}]}
`

// TestChecksJoinTheRequestsTrace has real Mixers hand on the request's trace, and looks for the spans of its checks there.
func TestChecksJoinTheRequestsTrace(t *testing.T) {
	for _, version := range mesh.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			collector := newSpanCollector(t)
			tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: unhurried +
				fmt.Sprintf("traces: {sample_one_in: 1, otlp: {protocol: http, endpoint: %q}}", collector.URL)})
			mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{
				"tollgate": bundle(t), "traced": strings.ReplaceAll(traced, "ADDRESS", tollgate.Addr),
			}})
			for sampled, key := range map[string]string{"1": "planted-wrong", "0": "planted-key"} {
				v, err := mixer.Check(t.Context(), request("/", "x-custom-token", key, "x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", sampled))
				require.NoError(t, err)
				assert.Equal(t, sampled == "0", v.OK())
			}
			_, err := mixer.Check(t.Context(), request("/", "x-custom-token", "planted-key"))
			require.NoError(t, err)
			var spans []*tracepb.Span
			waitFor(t, "spans", func(context.Context) error {
				if spans = collector.spans(); len(spans) < 2 {
					return errors.New("there are not enough")
				}
				return nil
			})
			require.Len(t, spans, 2, "what is not sampled makes no span")
			for _, s := range spans {
				assert.NotContains(t, s.String(), "planted")
				assert.Contains(t, s.String(), "traced.instance.istio-system")
				if joined := hex.EncodeToString(s.TraceId) == traceID; !joined {
					assert.Empty(t, s.ParentSpanId, "a trace of its own")
					assert.Contains(t, s.String(), `"allow"`)
					continue
				}
				assert.Equal(t, spanID, hex.EncodeToString(s.ParentSpanId))
				assert.Contains(t, s.String(), `"deny"`)
				assert.Contains(t, s.String(), `"header_mismatch"`)
			}
		})
	}
}

// spanCollector takes OTLP over HTTP. It is no real collector; test/collector has one.
type spanCollector struct {
	*httptest.Server
	mu  sync.Mutex
	all []*tracepb.Span
}

func newSpanCollector(t *testing.T) *spanCollector {
	t.Helper()
	c := &spanCollector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request traceservice.ExportTraceServiceRequest
		body, err := gzip.NewReader(r.Body)
		if !assert.NoError(t, err) {
			return
		}
		content, err := io.ReadAll(body)
		if !assert.NoError(t, err) || !assert.NoError(t, proto.Unmarshal(content, &request)) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				c.all = append(c.all, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *spanCollector) spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// TestAdminPageShowsWhy asks the real Mixer and looks at the page. With TOLLGATE_SCREENSHOT=FILE.png and Chromium it also keeps a picture.
func TestAdminPageShowsWhy(t *testing.T) {
	directory := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(directory, "offices.txt"), []byte("192.0.2.0/24\n198.51.100.0/24\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(directory, "token"), []byte("planted-secret\n"), 0o600))
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Dir: directory, Settings: unhurried + "secrets: {files: {token: token, lost: lost}}\n" +
		"lists: {blocked: {file: blocked.txt}, offices: {type: ip_addresses, file: offices.txt}}\nreadiness: {source_wait: 0s}\n"})
	mixer := meshtest.Mixer(t, mesh.Versions[0], mesh.MixerOptions{Resources: map[string]string{
		"tollgate": bundle(t), "page": strings.ReplaceAll(readFile(t, "testdata/page.yaml"), "ADDRESS", tollgate.Addr),
	}})
	for _, path := range []string{"/key", "/logged", "/key", "/rego", "/broken", "/loop"} {
		for _, key := range []string{"planted-key", "planted-wrong<script>alert(1)</script>"} {
			_, err := mixer.Check(t.Context(), request(path, "x-custom-token", key, "x-user", "alice", "x-method", "<img src=x>"))
			require.NoError(t, err)
		}
	}
	require.NoError(t, mixer.Report(t.Context(), request("/key"), request("/rego")))
	page := ""
	waitFor(t, "the page", func(ctx context.Context) error {
		page = adminPage(ctx, t, tollgate, "/")
		for _, text := range []string{"header_mismatch", "<b>key</b>", "logged", "the shop is closed on holidays", "policy[0]"} {
			if !strings.Contains(page, text) {
				return errors.New("there is no " + text)
			}
		}
		return nil
	})
	for _, path := range []string{"/", "/status.json"} {
		assert.NotContains(t, adminPage(t.Context(), t, tollgate, path), "planted")
	}
	assert.NotContains(t, page, "<script")
	assert.NotContains(t, page, "<img")
	if file := os.Getenv("TOLLGATE_SCREENSHOT"); file != "" {
		chromium := exec.CommandContext(t.Context(), "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1400",
			"--user-data-dir="+t.TempDir(), "--screenshot="+file, "http://"+tollgate.AdminAddr+"/")
		output, err := chromium.CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
}

func adminPage(ctx context.Context, t *testing.T, tollgate *mesh.Tollgate, path string) string {
	t.Helper()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+tollgate.AdminAddr+path, http.NoBody)
	require.NoError(t, err)
	reply, err := http.DefaultClient.Do(ask)
	require.NoError(t, err)
	defer reply.Body.Close()
	content, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode)
	return string(content)
}
