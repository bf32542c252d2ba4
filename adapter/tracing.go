package adapter

import (
	"context"
	"maps"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/otlp"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
)

// flushSpans is how long the process waits at its end for spans to be sent.
const flushSpans = 2 * time.Second

// openTracer returns the tracer of the settings, twice: as it is, and for the door, which wants no interface around nil. Both are nil
// where there is to be none.
func openTracer(s settings.Traces, version string, observer *observe.Observer) (*tracing.Tracer, mixer.Tracer, error) {
	if s.OTLP == nil {
		return nil, nil, nil
	}
	options := otlpOptions(s.OTLP)
	options.Resource = map[string]string{"service.version": version}
	maps.Copy(options.Resource, s.OTLP.Resource)
	exporter, err := otlp.NewSpanClient(options)
	if err != nil {
		return nil, nil, withPath("traces.otlp.", err)
	}
	tracer := tracing.New(tracing.Options{Exporter: exporter, SampleOneIn: s.SampleOneIn, Complain: observer.SpansNotSent})
	observer.CountTraces(tracer)
	return tracer, tracer, nil
}

func otlpOptions(o *settings.OTLPSink) otlp.Options {
	return otlp.Options{
		Endpoint: o.Endpoint, Protocol: o.Protocol, Headers: o.Headers, Credential: client.Credential(o.Credential),
		CredentialHeader: o.CredentialHeader, TLS: client.TLS(o.TLS), Compression: o.Compression, Resource: o.Resource,
	}
}

func (a *Adapter) runTracer(ctx context.Context) error {
	if a.tracer == nil {
		return nil
	}
	return a.tracer.Run(ctx, a.flushSpans)
}
