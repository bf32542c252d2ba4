package sink_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/otlp"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
	"github.com/tollgate-mesh/tollgate/config"
)

// TestTraces has a real Collector take the spans of checks and report calls, in the traces that they join: those of the request, of the
// call, and their own. In between the Collector is away, which costs nothing but time.
func TestTraces(t *testing.T) {
	const (
		requestTrace, requestSpan = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"
		callTrace, callSpan       = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	)
	for _, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			c := newCollector(t, false)
			o := otlp.Options{Protocol: protocol, Endpoint: c.grpc, Resource: map[string]string{"service.version": "v1"}}
			if protocol == "http" {
				o.Endpoint = "http://" + c.http
			}
			client, err := otlp.NewSpanClient(o)
			require.NoError(t, err)
			tracer := tracing.New(tracing.Options{Exporter: client, Wait: 10 * time.Millisecond, Patience: patience})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- tracer.Run(ctx, patience) }()

			byCall := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-"+callTrace+"-"+callSpan+"-01"))
			request := &policy.Request{Instance: "auth.instance.ns", Subject: &policy.Subject{Properties: attribute.Map{
				{Name: "x-b3-traceid", Value: attribute.OfText(attribute.String, requestTrace)},
				{Name: "x-b3-spanid", Value: attribute.OfText(attribute.String, requestSpan)},
				{Name: "x-b3-sampled", Value: attribute.OfText(attribute.String, "1")},
				{Name: "authorization", Value: attribute.OfText(attribute.String, "planted")},
			}}}
			handler := &config.Handler{Name: "shop"}
			check := func(ctx context.Context, request *policy.Request, d policy.Decision) {
				tracer.Checked(ctx, time.Now(), "authorization.HandleAuthorizationService", "HandleAuthorization", handler, request, d)
			}
			// The Collector is not there yet.
			check(byCall, request, policy.Decision{Code: config.PermissionDenied, Check: "header/key", Reason: "header_mismatch"})
			c.start(t)
			check(byCall, &policy.Request{}, policy.Fail(config.Timeout, "planted").Resolve(config.Modes{}))
			check(t.Context(), &policy.Request{}, policy.Decision{Reason: "header_match"})
			tracer.Reported(byCall, time.Now(), "logentry.HandleLogEntryService", "HandleLogEntry", report.Reported{Handler: "shop", Kind: record.KindLogEntry, Instances: 2, Accepted: 2})
			require.Eventually(t, func() bool { return tracer.Stats().Exported == 4 }, patience, 5*time.Millisecond, "%+v", tracer.Stats())
			c.kill(t)
			check(t.Context(), &policy.Request{}, policy.Decision{Reason: "after the outage"})
			c.start(t)
			cancel()
			require.NoError(t, <-ended)
			c.stop(t)
			assert.Equal(t, tracing.Stats{Exported: 5}, tracer.Stats())

			type place struct{ trace, parent string }
			found := map[string]place{}
			c.read(t, func(w *written) {
				for _, r := range w.ResourceSpans {
					assert.Contains(t, r.Resource["attributes"], map[string]any{"key": "service.name", "value": map[string]any{"stringValue": "tollgate"}})
					assert.Contains(t, r.Resource["attributes"], map[string]any{"key": "service.version", "value": map[string]any{"stringValue": "v1"}})
					for _, s := range r.ScopeSpans {
						for _, span := range s.Spans {
							values := map[string]string{}
							for _, a := range span["attributes"].([]any) {
								a := a.(map[string]any)
								values[a["key"].(string)], _ = a["value"].(map[string]any)["stringValue"].(string)
								assert.NotContains(t, a["value"], "planted")
							}
							parent, _ := span["parentSpanId"].(string)
							found[values["tollgate.reason"]+values["tollgate.kind"]] = place{span["traceId"].(string), parent}
						}
					}
				}
			})
			assert.Len(t, found, 5)
			assert.Equal(t, place{requestTrace, requestSpan}, found["header_mismatch"])
			assert.Equal(t, place{callTrace, callSpan}, found["timeout"])
			assert.Equal(t, place{callTrace, callSpan}, found["logentry"])
			for _, root := range []string{"header_match", "after the outage"} {
				assert.Empty(t, found[root].parent)
				assert.Len(t, found[root].trace, 32)
				assert.NotContains(t, []string{requestTrace, callTrace}, found[root].trace)
			}
		})
	}
}
