// Package tracing makes an OpenTelemetry span of each check and of each report call, and sends them beside the calls.
//
// Spans are made when a call has been answered, so they take no part in it. They carry what the decision line of the log has, and nothing
// of the request. There is no OpenTelemetry SDK behind this: its batches are lost without anybody who counts them. What a span joins is
// found by OpenTelemetry's own propagators.
package tracing

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/config"
)

// Exporter sends spans.
type Exporter interface {
	// Send returns how many of the spans the other side rejected. An error that report.Undelivered calls permanent is final; after any
	// other the same spans may be sent again.
	Send(ctx context.Context, spans []*tracepb.Span) (rejected int, err error)
	// Close lets go of connections.
	Close() error
}

// Options say how a tracer works. Zero fields take the defaults that their comments name.
type Options struct {
	// Exporter sends the spans. The tracer closes it.
	Exporter Exporter
	// SampleOneIn is of how many calls that nobody else has decided about one is sampled; 1, which is all of them.
	SampleOneIn int64
	// Waiting is how many spans may wait to be sent; 4096. Those that come then are dropped.
	Waiting int
	// Batch is how many spans are sent together at the most, 512, and Wait how long the first of them waits for more; 1 s.
	Batch int
	Wait  time.Duration
	// Timeout bounds an attempt to send, 10 s, and Patience how long a batch is tried again; 30 s.
	Timeout, Patience time.Duration
	// Complain is told why spans are not sent, as often as it happens.
	Complain func(err error)
}

// Tracer makes spans. They are sent while Run does.
type Tracer struct {
	options Options
	waiting chan *tracepb.Span

	exported, rejected, crowded, failed atomic.Uint64
}

// New returns a tracer.
func New(o Options) *Tracer {
	o.SampleOneIn = max(o.SampleOneIn, 1)
	setDefault(&o.Waiting, 4096)
	setDefault(&o.Batch, 512)
	setDefault(&o.Wait, time.Second)
	setDefault(&o.Timeout, 10*time.Second)
	setDefault(&o.Patience, 30*time.Second)
	return &Tracer{options: o, waiting: make(chan *tracepb.Span, o.Waiting)}
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// Stats counts sampled spans: each is one of these, or on its way.
type Stats struct {
	// Exported were taken by the other side, Rejected sent and not taken.
	Exported, Rejected uint64
	// Crowded found too many waiting; Failed could not be sent in time. Both are gone.
	Crowded, Failed uint64
	// Waiting are those that wait, apart from the batch that is under way.
	Waiting int
}

// Stats returns the counts.
func (t *Tracer) Stats() Stats {
	return Stats{
		Exported: t.exported.Load(), Rejected: t.rejected.Load(), Crowded: t.crowded.Load(), Failed: t.failed.Load(), Waiting: len(t.waiting),
	}
}

// Checked makes the span of a check that has been answered: handler is nil where the call brought none. It never waits, and a panic of
// it ends here, since the decision stands.
func (t *Tracer) Checked(ctx context.Context, start time.Time, service, method string, handler *config.Handler, request *policy.Request, d policy.Decision) {
	defer t.recover()
	s, ok := t.begin(ctx, request, start, service, method)
	if !ok {
		return
	}
	name := "unknown"
	if handler != nil {
		name = handler.Name
	}
	s.text("tollgate.handler", name)
	s.text("tollgate.instance", request.Instance)
	s.text("tollgate.outcome", d.Outcome())
	s.text("tollgate.code", d.Code.String())
	s.text("tollgate.check", d.Check)
	s.text("tollgate.reason", d.Reason)
	s.text("tollgate.revision", d.Revision)
	s.text("tollgate.decision.id", d.ID)
	if d.Failure != nil {
		s.fail(d.Failure.Class.String())
	}
	t.end(s)
}

// Reported makes the span of a report call that has been answered. It never waits.
func (t *Tracer) Reported(ctx context.Context, start time.Time, service, method string, r report.Reported) {
	defer t.recover()
	s, ok := t.begin(ctx, nil, start, service, method)
	if !ok {
		return
	}
	s.text("tollgate.handler", r.Handler)
	s.text("tollgate.kind", r.Kind.String())
	s.number("tollgate.instances", r.Instances)
	s.number("tollgate.accepted", r.Accepted)
	if r.Refused != nil {
		s.fail(r.Refused.Class)
	}
	t.end(s)
}

func (t *Tracer) recover() {
	if r := recover(); r != nil {
		t.failed.Add(1)
		t.complain(fmt.Errorf("making a span panicked: %T\n%s", r, debug.Stack()))
	}
}

// begin makes the span of a sampled call, and returns false for one that is not.
func (t *Tracer) begin(ctx context.Context, request *policy.Request, start time.Time, service, method string) (*span, bool) {
	parent := parentOf(ctx, request)
	sampled := parent.sampled
	if !parent.decided {
		sampled = t.options.SampleOneIn == 1 || mathrand.Int64N(t.options.SampleOneIn) == 0 //nolint:gosec // it picks spans, not secrets
	}
	if !sampled {
		return nil, false
	}
	s := &span{Span: tracepb.Span{
		Attributes: make([]*commonpb.KeyValue, 0, mostAttributes),
		Name:       service + "/" + method, Kind: tracepb.Span_SPAN_KIND_SERVER, SpanId: newID(8), //nolint:mnd // bytes of a span id
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(start.Add(time.Since(start)).UnixNano()),
	}}
	if parent.trace.IsValid() {
		s.TraceId, s.ParentSpanId = parent.trace[:], parent.span[:]
	} else {
		s.TraceId = newID(16) //nolint:mnd // bytes of a trace id
	}
	// What the W3C says of the flags: sampled, and whether the parent is known to be another process's.
	const sampledFlag, hasIsRemote, isRemote = 0x01, 0x100, 0x200
	s.Flags = sampledFlag | hasIsRemote
	if parent.trace.IsValid() {
		s.Flags |= isRemote
	}
	s.text("rpc.system", "grpc")
	s.text("rpc.service", service)
	s.text("rpc.method", method)
	return s, true
}

// newID returns random bytes, which are never all zero.
func newID(size int) []byte {
	id := make([]byte, size)
	_, _ = rand.Read(id) // it never fails
	if binary.BigEndian.Uint64(id) == 0 {
		id[0] = 1
	}
	return id
}

// end hands a span over to Run.
func (t *Tracer) end(s *span) {
	select {
	case t.waiting <- &s.Span:
	default:
		t.crowded.Add(1)
	}
}

// span is a span that is being made. It shares no memory with the call, and all its attributes are one piece of memory.
type span struct {
	tracepb.Span

	pairs [mostAttributes]pair
	used  int
}

type pair struct {
	commonpb.KeyValue

	value  commonpb.AnyValue
	text   commonpb.AnyValue_StringValue
	number commonpb.AnyValue_IntValue
}

const (
	// mostAttributes is how many attributes a span may have.
	mostAttributes = 12
	// longestText is how many bytes of a text are kept.
	longestText = 256
)

func (s *span) add(key string) *pair {
	p := &s.pairs[s.used]
	s.used++
	p.Key, p.Value = key, &p.value
	s.Attributes = append(s.Attributes, &p.KeyValue)
	return p
}

func (s *span) text(key, text string) {
	if text == "" {
		return
	}
	p := s.add(key)
	p.text.StringValue = strings.Clone(strings.ToValidUTF8(text[:min(len(text), longestText)], "?"))
	p.value.Value = &p.text
}

func (s *span) number(key string, n int) {
	p := s.add(key)
	p.number.IntValue = int64(n)
	p.value.Value = &p.number
}

// fail marks a call that failed in us; one that was denied did not.
func (s *span) fail(class string) {
	s.text("tollgate.class", class)
	s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: class}
}

// Run sends spans until ctx is done; then it sends what waits, for as long as flush allows, and closes the exporter. What is not sent by
// then is counted as failed.
func (t *Tracer) Run(ctx context.Context, flush time.Duration) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(flush, cancel) })()
	for {
		select {
		case first := <-t.waiting:
			t.send(end, ctx.Done(), t.gather(ctx, first))
			continue
		default:
		}
		select {
		case first := <-t.waiting:
			t.send(end, ctx.Done(), t.gather(ctx, first))
		case <-ctx.Done():
			if len(t.waiting) == 0 {
				return t.options.Exporter.Close()
			}
		}
	}
}

// gather collects what comes soon after the first span.
func (t *Tracer) gather(ctx context.Context, first *tracepb.Span) []*tracepb.Span {
	batch := append(make([]*tracepb.Span, 0, t.options.Batch), first)
	enough := time.NewTimer(t.options.Wait)
	defer enough.Stop()
	for len(batch) < t.options.Batch {
		select {
		case s := <-t.waiting:
			batch = append(batch, s)
			continue
		default:
		}
		select {
		case s := <-t.waiting:
			batch = append(batch, s)
		case <-enough.C:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// The pause after a failed attempt doubles with each, and is the shortest at the end.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// send tries a batch until it is taken, refused for good, or nobody has the patience any more.
func (t *Tracer) send(ctx context.Context, ending <-chan struct{}, batch []*tracepb.Span) {
	begun := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		rejected, err := t.attempt(ctx, batch)
		if err == nil {
			t.rejected.Add(uint64(rejected))              //nolint:gosec // it is not negative
			t.exported.Add(uint64(len(batch) - rejected)) //nolint:gosec // it is not more
			return
		}
		t.complain(err)
		undelivered, ok := errors.AsType[*report.Undelivered](err)
		if final := ok && undelivered.Permanent; !final && t.waits(ctx, ending, pause, begun) {
			continue
		}
		t.failed.Add(uint64(len(batch)))
		return
	}
}

// waits reports whether there is to be another attempt, after a pause.
func (t *Tracer) waits(ctx context.Context, ending <-chan struct{}, pause time.Duration, begun time.Time) bool {
	if time.Since(begun)+pause > t.options.Patience {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-ending:
	}
	timer.Reset(firstPause)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *Tracer) attempt(ctx context.Context, batch []*tracepb.Span) (rejected int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = report.Permanent(fmt.Errorf("sending spans panicked: %T\n%s", r, debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, t.options.Timeout)
	defer cancel()
	return t.options.Exporter.Send(ctx, batch)
}

func (t *Tracer) complain(err error) {
	if t.options.Complain != nil {
		t.options.Complain(err)
	}
}
