package tracing

import (
	"context"
	"strings"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

// parent is the span that a call belongs to.
type parent struct {
	// trace is not valid where there is none.
	trace trace.TraceID
	span  trace.SpanID
	// decided is whether somebody has said if the trace is sampled, and sampled what.
	decided, sampled bool
}

// parentOf finds the span that a call belongs to: by the headers of the request that is checked, which Mixer hands on as properties of an
// authorization instance where the instance names them; else by the headers of the call itself, which Mixer sends none of, but a proxy
// between Mixer and us does. Request is nil for a report.
func parentOf(ctx context.Context, request *policy.Request) parent {
	if request != nil {
		if p := extract(ctx, properties{request}); p.trace.IsValid() {
			return p
		}
	}
	return extract(ctx, headers{ctx})
}

// extract reads the W3C's header, or else those of B3, as Envoy and Zipkin send them.
func extract(ctx context.Context, carrier propagation.TextMapCarrier) parent {
	if carrier.Get("traceparent") == "" && carrier.Get("b3") == "" && carrier.Get("x-b3-traceid") == "" {
		return parent{} // as is most often so, and quick to see
	}
	with := propagation.TraceContext{}.Extract(ctx, carrier)
	decided := true
	if !trace.SpanContextFromContext(with).IsValid() {
		// Those who send B3 may leave it open whether the trace is sampled. Only what goes out again tells.
		b := b3.New(b3.WithInjectEncoding(b3.B3MultipleHeader))
		with = b.Extract(ctx, carrier)
		again := propagation.MapCarrier{}
		b.Inject(with, again)
		decided = again["x-b3-sampled"] != "" || again["x-b3-flags"] != ""
	}
	found := trace.SpanContextFromContext(with)
	if !found.IsValid() {
		return parent{}
	}
	return parent{trace: found.TraceID(), span: found.SpanID(), decided: decided, sampled: found.IsSampled()}
}

// headers are those of a call.
type headers struct{ context.Context }

// Get returns the header's first value.
func (h headers) Get(name string) string {
	if values := metadata.ValueFromIncomingContext(h.Context, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// properties are those of an authorization instance. A header's name may be in upper or lower case there.
type properties struct{ request *policy.Request }

// Get returns the property's value if it is a text.
func (p properties) Get(name string) string {
	if p.request.Action != nil {
		if value := find(p.request.Action.Properties, name); value != "" {
			return value
		}
	}
	if p.request.Subject != nil {
		return find(p.request.Subject.Properties, name)
	}
	return ""
}

func find(properties attribute.Map, name string) string {
	for i := range properties {
		if strings.EqualFold(properties[i].Name, name) {
			text, _ := properties[i].Value.Text()
			return text
		}
	}
	return ""
}

// Set and Keys are for those who send.
func (headers) Set(string, string)    {}
func (headers) Keys() []string        { return nil }
func (properties) Set(string, string) {}
func (properties) Keys() []string     { return nil }
