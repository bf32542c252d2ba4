package tracing_test

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc/metadata"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exporter is a fake collector.
type exporter struct {
	// answer says what becomes of a batch; nil takes it.
	answer func(ctx context.Context, attempt int) (rejected int, err error)

	mu       sync.Mutex
	attempts int
	spans    []*tracepb.Span
	closed   bool
}

func (e *exporter) Send(ctx context.Context, spans []*tracepb.Span) (int, error) {
	e.mu.Lock()
	e.attempts++
	attempt := e.attempts
	e.mu.Unlock()
	if e.answer != nil {
		if rejected, err := e.answer(ctx, attempt); rejected > 0 || err != nil {
			return rejected, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spans = append(e.spans, spans...)
	return 0, nil
}

func (e *exporter) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

const (
	traceID = "463ac35c9f6413ad48485a3953bb6124"
	spanID  = "a2fb4a1d1a96d312"
)

var (
	shop  = &config.Handler{Name: "shop", Fingerprint: "0123456789ab"}
	allow = policy.Decision{Check: "header/key", Reason: "header_match", Revision: "0123456789ab", ID: "decision-1"}
)

// spansOf returns what a tracer sends of what is done with it.
func spansOf(t *testing.T, o tracing.Options, do func(*tracing.Tracer)) []*tracepb.Span {
	t.Helper()
	e := &exporter{}
	o.Exporter = e
	tracer := tracing.New(o)
	do(tracer)
	end(t, tracer)
	require.True(t, e.closed)
	return e.spans
}

// end runs a tracer as a process does that ends at once.
func end(t *testing.T, tracer *tracing.Tracer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, tracer.Run(ctx, 10*time.Second))
}

func check(ctx context.Context, tracer *tracing.Tracer, handler *config.Handler, request *policy.Request, d policy.Decision) {
	tracer.Checked(ctx, time.Now().Add(-time.Millisecond), "authorization.HandleAuthorizationService", "HandleAuthorization", handler, request, d)
}

func attributes(s *tracepb.Span) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes {
		if all[a.Key] = a.Value.GetStringValue(); a.Value.GetStringValue() == "" {
			all[a.Key] = a.Value.GetIntValue()
		}
	}
	return all
}

func withProperties(pairs ...string) *policy.Request {
	r := &policy.Request{Instance: "i", Subject: &policy.Subject{User: "planted"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		r.Subject.Properties = append(r.Subject.Properties, attribute.Entry{Name: pairs[i], Value: attribute.OfText(attribute.String, pairs[i+1])})
	}
	return r
}

func TestCheckSpan(t *testing.T) {
	t.Parallel()
	failed := policy.Fail(config.Timeout, "planted").Resolve(config.Modes{})
	spans := spansOf(t, tracing.Options{}, func(tracer *tracing.Tracer) {
		request := withProperties("custom_token_header", "planted")
		request.Instance = "auth.instance.ns"
		check(t.Context(), tracer, shop, request, allow)
		check(t.Context(), tracer, nil, &policy.Request{}, failed)
		check(t.Context(), tracer, shop, request, policy.Decision{Code: config.PermissionDenied, Message: "planted", Reason: strings.Repeat("é\xff", 300)})
	})
	require.Len(t, spans, 3)
	s := spans[0]
	assert.Equal(t, "authorization.HandleAuthorizationService/HandleAuthorization", s.Name)
	assert.Equal(t, tracepb.Span_SPAN_KIND_SERVER, s.Kind)
	assert.Len(t, s.TraceId, 16)
	assert.Len(t, s.SpanId, 8)
	assert.Empty(t, s.ParentSpanId)
	assert.GreaterOrEqual(t, s.EndTimeUnixNano-s.StartTimeUnixNano, uint64(time.Millisecond))
	assert.InDelta(t, time.Now().UnixNano(), s.EndTimeUnixNano, float64(time.Minute))
	assert.Nil(t, s.Status)
	assert.Equal(t, uint32(0x101), s.Flags, "sampled, and no other process has a part in it")
	assert.Equal(t, map[string]any{
		"rpc.system": "grpc", "rpc.service": "authorization.HandleAuthorizationService", "rpc.method": "HandleAuthorization", "tollgate.handler": "shop",
		"tollgate.instance": "auth.instance.ns", "tollgate.outcome": "allow", "tollgate.code": "OK", "tollgate.check": "header/key",
		"tollgate.reason": "header_match", "tollgate.revision": "0123456789ab", "tollgate.decision.id": "decision-1",
	}, attributes(s))

	assert.Equal(t, tracepb.Status_STATUS_CODE_ERROR, spans[1].Status.Code)
	assert.Equal(t, "timeout", spans[1].Status.Message)
	assert.Equal(t, "unknown", attributes(spans[1])["tollgate.handler"])
	assert.Equal(t, "timeout", attributes(spans[1])["tollgate.class"])
	assert.Equal(t, "failed_closed", attributes(spans[1])["tollgate.outcome"])

	assert.Nil(t, spans[2].Status, "a denial is no failure of ours")
	assert.Equal(t, "deny", attributes(spans[2])["tollgate.outcome"])
	assert.LessOrEqual(t, len(attributes(spans[2])["tollgate.reason"].(string)), 256)
	assert.NotEqual(t, spans[0].TraceId, spans[1].TraceId)
	assert.NotEqual(t, spans[0].SpanId, spans[1].SpanId)
	for _, s := range spans {
		assert.NotContains(t, s.String(), "planted", "nothing of the request, and nothing that its user is told")
	}
}

func TestReportSpan(t *testing.T) {
	t.Parallel()
	spans := spansOf(t, tracing.Options{}, func(tracer *tracing.Tracer) {
		reported := report.Reported{Handler: "shop", Kind: record.KindLogEntry, Instances: 9, Accepted: 5}
		tracer.Reported(t.Context(), time.Now(), "logentry.HandleLogEntryService", "HandleLogEntry", reported)
		reported.Refused = report.Refuse("malformed", errors.New("planted"))
		tracer.Reported(t.Context(), time.Now(), "logentry.HandleLogEntryService", "HandleLogEntry", reported)
	})
	require.Len(t, spans, 2)
	assert.Equal(t, map[string]any{
		"rpc.system": "grpc", "rpc.service": "logentry.HandleLogEntryService", "rpc.method": "HandleLogEntry", "tollgate.handler": "shop", "tollgate.kind": "logentry",
		"tollgate.instances": int64(9), "tollgate.accepted": int64(5),
	}, attributes(spans[0]))
	assert.Equal(t, "malformed", attributes(spans[1])["tollgate.class"])
	assert.Equal(t, tracepb.Status_STATUS_CODE_ERROR, spans[1].Status.Code)
	assert.NotContains(t, spans[1].String(), "planted")
}

// A span belongs where the request's headers say, or else those of the call.
func TestParents(t *testing.T) {
	t.Parallel()
	const other = "0af7651916cd43dd8448eb211c80319c"
	w3c, unsampled := "00-"+traceID+"-"+spanID+"-01", "00-"+traceID+"-"+spanID+"-00"
	type want struct {
		trace, parent string
		none          bool
	}
	joined, root := want{trace: traceID, parent: spanID}, want{}
	for name, c := range map[string]struct {
		headers, properties []string
		want                want
	}{
		"nothing":                       {nil, nil, root},
		"W3C in the call":               {[]string{"traceparent", w3c}, nil, joined},
		"W3C in the call, not sampled":  {[]string{"traceparent", unsampled}, nil, want{none: true}},
		"W3C in the request":            {nil, []string{"traceparent", w3c}, joined},
		"in upper case":                 {nil, []string{"Traceparent", w3c}, joined},
		"B3 in one header":              {[]string{"b3", traceID + "-" + spanID + "-1"}, nil, joined},
		"B3 in one header, debug":       {[]string{"b3", traceID + "-" + spanID + "-d"}, nil, joined},
		"B3 in one header, not sampled": {[]string{"b3", traceID + "-" + spanID + "-0"}, nil, want{none: true}},
		"B3 in one header, undecided":   {[]string{"b3", traceID + "-" + spanID}, nil, joined},
		"B3":                            {nil, []string{"x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", "1"}, joined},
		"B3 with a parent":              {nil, []string{"x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-parentspanid", spanID, "x-b3-sampled", "1"}, joined},
		"B3, debug":                     {nil, []string{"x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-flags", "1"}, joined},
		"B3, not sampled":               {nil, []string{"x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", "0"}, want{none: true}},
		"B3, undecided":                 {nil, []string{"x-b3-traceid", traceID, "x-b3-spanid", spanID, "x-b3-sampled", ""}, joined},
		"B3, a short trace id":          {nil, []string{"x-b3-traceid", traceID[16:], "x-b3-spanid", spanID, "x-b3-sampled", "1"}, want{trace: strings.Repeat("0", 16) + traceID[16:], parent: spanID}},
		"the request before the call":   {[]string{"traceparent", "00-" + other + "-00f067aa0ba902b7-01"}, []string{"traceparent", w3c}, joined},
		"an empty property":             {[]string{"traceparent", w3c}, []string{"traceparent", ""}, joined},
		"nonsense in the request":       {[]string{"traceparent", w3c}, []string{"traceparent", "planted", "x-b3-traceid", "planted", "b3", "planted-planted-planted"}, joined},
		"nonsense in the call":          {[]string{"traceparent", "00-" + traceID, "b3", "0", "x-b3-traceid", traceID}, nil, root},
		"all zero":                      {[]string{"traceparent", "00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"}, nil, root},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(c.headers...))
			spans := spansOf(t, tracing.Options{}, func(tracer *tracing.Tracer) { check(ctx, tracer, shop, withProperties(c.properties...), allow) })
			if c.want.none {
				assert.Empty(t, spans)
				return
			}
			require.Len(t, spans, 1)
			assert.NotContains(t, spans[0].String(), "planted")
			assert.Equal(t, c.want.parent, hex.EncodeToString(spans[0].ParentSpanId))
			if c.want.trace != "" {
				assert.Equal(t, c.want.trace, hex.EncodeToString(spans[0].TraceId))
				assert.Equal(t, uint32(0x301), spans[0].Flags)
			}
		})
	}
	t.Run("in the action", func(t *testing.T) {
		t.Parallel()
		request := withProperties("traceparent", w3c)
		request.Action, request.Subject = &policy.Action{Properties: request.Subject.Properties}, nil
		spans := spansOf(t, tracing.Options{}, func(tracer *tracing.Tracer) { check(t.Context(), tracer, shop, request, allow) })
		require.Len(t, spans, 1)
		assert.Equal(t, traceID, hex.EncodeToString(spans[0].TraceId))
	})
}

func TestSampling(t *testing.T) {
	t.Parallel()
	const calls = 20_000
	sampled := 0
	spansOf(t, tracing.Options{SampleOneIn: 10, Waiting: calls}, func(tracer *tracing.Tracer) {
		for range calls {
			check(t.Context(), tracer, shop, withProperties(), allow)
		}
		sampled = tracer.Stats().Waiting
	})
	assert.InDelta(t, calls/10, sampled, calls/50)
	// Whoever has decided is followed, and who leaves it to us is not.
	for header, want := range map[string]int{"-1": 100, "-0": 0, "": 0} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("b3", traceID+"-"+spanID+header))
		spans := spansOf(t, tracing.Options{SampleOneIn: 1 << 40}, func(tracer *tracing.Tracer) {
			for range 100 {
				check(ctx, tracer, shop, withProperties(), allow)
			}
		})
		assert.Len(t, spans, want, "b3 ends with %q", header)
	}
}

// A collector that is away costs spans, which are counted, and nothing else.
func TestNobodyWaitsForTheCollector(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var complaints atomic.Int64
		e := &exporter{answer: func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}
		tracer := tracing.New(tracing.Options{Exporter: e, Waiting: 10, Batch: 5, Complain: func(error) { complaints.Add(1) }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tracer.Run(ctx, 2*time.Second) }()
		synctest.Wait()
		began := time.Now()
		const calls = 1000
		for range calls {
			check(t.Context(), tracer, shop, withProperties(), allow)
		}
		assert.Zero(t, time.Since(began), "in the test's own time, which passes where somebody waits")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		s := tracer.Stats()
		assert.Zero(t, s.Exported)
		assert.Positive(t, s.Crowded)
		assert.Equal(t, uint64(calls), s.Crowded+s.Failed+uint64(s.Waiting), "%+v", s)
		assert.Positive(t, complaints.Load())

		for range 8 {
			check(t.Context(), tracer, shop, withProperties(), allow)
		}
		ending := time.Now()
		cancel()
		require.NoError(t, <-done)
		assert.LessOrEqual(t, time.Since(ending), 2*time.Second)
		assert.True(t, e.closed)
		s = tracer.Stats()
		assert.Zero(t, s.Waiting)
		assert.Equal(t, uint64(calls+8), s.Crowded+s.Failed)
	})
}

func TestAttempts(t *testing.T) {
	t.Parallel()
	permanent := report.Permanent(errors.New("no"))
	for name, c := range map[string]struct {
		answer   func(ctx context.Context, attempt int) (int, error)
		want     tracing.Stats
		attempts int
	}{
		"taken":            {nil, tracing.Stats{Exported: 3}, 1},
		"some rejected":    {func(context.Context, int) (int, error) { return 1, nil }, tracing.Stats{Exported: 2, Rejected: 1}, 1},
		"refused for good": {func(context.Context, int) (int, error) { return 0, permanent }, tracing.Stats{Failed: 3}, 1},
		"back at the third attempt": {func(_ context.Context, attempt int) (int, error) {
			if attempt < 3 {
				return 0, errors.New("away")
			}
			return 0, nil
		}, tracing.Stats{Exported: 3}, 3},
		"away":   {func(context.Context, int) (int, error) { return 0, errors.New("away") }, tracing.Stats{Failed: 3}, 11},
		"panics": {func(context.Context, int) (int, error) { panic("planted") }, tracing.Stats{Failed: 3}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &exporter{answer: c.answer}
				tracer := tracing.New(tracing.Options{Exporter: e, Complain: func(err error) { assert.NotContains(t, err.Error(), "panic(planted") }})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- tracer.Run(ctx, time.Second) }()
				for range 3 {
					check(t.Context(), tracer, shop, withProperties(), allow)
				}
				time.Sleep(time.Minute)
				assert.Equal(t, c.want, tracer.Stats())
				assert.Equal(t, c.attempts, e.attempts)
				cancel()
				require.NoError(t, <-done)
			})
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	e := &exporter{}
	tracer := tracing.New(tracing.Options{Exporter: e, Waiting: 50, Wait: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tracer.Run(ctx, 10*time.Second) }()
	const goroutines, each = 8, 500
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range each {
				check(t.Context(), tracer, shop, withProperties("traceparent", "00-"+traceID+"-"+spanID+"-01"), allow)
				tracer.Stats()
			}
		})
	}
	all.Wait()
	cancel()
	require.NoError(t, <-done)
	s := tracer.Stats()
	assert.Equal(t, uint64(goroutines*each), s.Exported+s.Crowded)
	assert.Len(t, e.spans, int(s.Exported))
}

func BenchmarkChecked(b *testing.B) {
	ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("user-agent", "grpc-go/1.29.1", "authorization", "Bearer x"))
	request := withProperties("custom_token_header", "abc")
	for name, one := range map[string]int64{"sampled": 1, "one in 100": 100, "one in a billion": 1 << 30} {
		b.Run(name, func(b *testing.B) {
			tracer := tracing.New(tracing.Options{Exporter: &exporter{}, SampleOneIn: one})
			b.ReportAllocs()
			for b.Loop() {
				check(ctx, tracer, shop, request, allow)
			}
		})
	}
}
