package otlp

import (
	"context"
	"fmt"

	traceservice "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
)

// SpanClient sends spans that are no records, as the sink would send them: with the same connection, credential and resource.
type SpanClient struct {
	encoding encoding
	exporter exporter
}

// NewSpanClient returns a client, which connects with the first spans.
func NewSpanClient(o Options) (*SpanClient, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	e, err := newExporter(&o)
	if err != nil {
		return nil, err
	}
	return &SpanClient{encoding: newEncoding(o.Resource), exporter: e}, nil
}

// Send sends spans in one request and waits for the answer. It returns how many of them the other side rejected. An error is a
// *report.Undelivered that is Permanent where the same spans will never be taken; after any other they can be sent again.
func (c *SpanClient) Send(ctx context.Context, spans []*tracepb.Span) (rejected int, err error) {
	answer := &traceservice.ExportTraceServiceResponse{}
	r := &request{
		signal: traces,
		items:  len(spans),
		message: &traceservice.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
			Resource: c.encoding.resource, ScopeSpans: []*tracepb.ScopeSpans{{Scope: c.encoding.scope, Spans: spans}},
		}}},
		answer: answer,
	}
	if err := c.exporter.export(ctx, r); err != nil {
		return 0, fmt.Errorf("otlp: %w", err)
	}
	return int(min(max(answer.GetPartialSuccess().GetRejectedSpans(), 0), int64(len(spans)))), nil
}

// Close closes the connections.
func (c *SpanClient) Close() error { return c.exporter.close() }
