// Package decisionlog makes records of decisions and hands them to the report pipeline, beside the checks and never in their way.
package decisionlog

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/config"
)

// Acceptor keeps records.
type Acceptor interface {
	// Accept returns when the call is kept. An error means that it is refused as a whole.
	Accept(ctx context.Context, call *report.Call) error
}

// Options say how a log works. Zero fields take the defaults that their comments name.
type Options struct {
	// Sinks are the names of all sinks, Default those of the sinks for handlers that name none, or one that does not exist.
	Sinks, Default []string
	// Waiting and WaitingBytes are how many records may wait to be handed over, 10 000, and how large they may be together, 64 MiB.
	// Those that come then are dropped.
	Waiting      int
	WaitingBytes int64
	// Batch is how many records are handed over together at the most; 100. Wait is how long the first of them waits for more; 100 ms.
	Batch int
	Wait  time.Duration
	// Complain is told why records were dropped, as often as it happens.
	Complain func(err error)
}

// Log takes decisions and makes records of those that their handlers want to have recorded.
type Log struct {
	options  Options
	acceptor Acceptor
	waiting  chan entry
	bytes    atomic.Int64 // of the records that wait

	recorded, crowded, refused atomic.Uint64
}

// entry is a record that waits. It is made at once: a request is a part of the whole call, which may be far larger and would wait with it.
type entry struct {
	caller  string
	handler *config.Handler
	raw     string
}

// New returns a log, which works while Run does.
func New(acceptor Acceptor, options Options) *Log {
	if options.Waiting == 0 {
		options.Waiting = 10_000
	}
	if options.WaitingBytes == 0 {
		options.WaitingBytes = 64 << 20
	}
	if options.Batch == 0 {
		options.Batch = 100
	}
	if options.Wait == 0 {
		options.Wait = 100 * time.Millisecond
	}
	return &Log{options: options, acceptor: acceptor, waiting: make(chan entry, options.Waiting)}
}

// Stats counts decisions that were to be recorded.
type Stats struct {
	// Recorded became records.
	Recorded uint64
	// Crowded found too many waiting; Refused were not accepted by the pipeline. Both are gone.
	Crowded, Refused uint64
	// Waiting are on their way.
	Waiting int
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	return Stats{Recorded: l.recorded.Load(), Crowded: l.crowded.Load(), Refused: l.refused.Load(), Waiting: len(l.waiting)}
}

// Record takes a decision if its handler wants it recorded, and returns the id of the record; empty where there is none. It never
// waits. An id whose record then finds no room is counted in Stats.
func (l *Log) Record(caller string, handler *config.Handler, request *policy.Request, decision policy.Decision, elapsed time.Duration) (id string) {
	if handler == nil || !wanted(handler.DecisionLog, decision) {
		return ""
	}
	id = newID()
	l.keep(caller, handler, func() *record.Decision { return newRecord(id, handler, request, &decision, elapsed) })
	return id
}

// keep makes a record and has it wait, if there is room.
func (l *Log) keep(caller string, handler *config.Handler, build func() *record.Decision) {
	defer func() {
		if r := recover(); r != nil { // the decision stands whatever becomes of its record
			l.refused.Add(1)
			l.complain(fmt.Errorf("making the record of a decision panicked: %T\n%s", r, debug.Stack()))
		}
	}()
	e := entry{caller: caller, handler: handler, raw: string(build().Append(nil))}
	size := int64(len(e.raw))
	if l.bytes.Add(size) <= l.options.WaitingBytes {
		select {
		case l.waiting <- e:
			return
		default:
		}
	}
	l.bytes.Add(-size)
	l.crowded.Add(1)
}

func wanted(log config.DecisionLog, d policy.Decision) bool {
	denial := !d.Allowed() || d.Failure != nil
	switch log.Record {
	case config.RecordAll:
		return true
	case config.RecordSampled:
		return denial || mathrand.Int64N(max(log.SampleOneIn, 1)) == 0 //nolint:gosec // it picks records, not secrets
	case config.RecordDenials:
		return denial
	case config.RecordNone:
	}
	return false
}

// newID returns 16 characters, 80 bits, that people can read to each other.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

// Run makes records until ctx is done, and then of what waits.
func (l *Log) Run(ctx context.Context) {
	end := context.WithoutCancel(ctx)
	for {
		select {
		case first := <-l.waiting:
			l.hand(end, l.gather(ctx, first))
		case <-ctx.Done():
			for {
				select {
				case first := <-l.waiting:
					l.hand(end, l.gather(ctx, first))
				default:
					return
				}
			}
		}
	}
}

// gather collects what comes soon after the first entry.
func (l *Log) gather(ctx context.Context, first entry) []entry {
	entries := append(make([]entry, 0, l.options.Batch), first)
	enough := time.NewTimer(l.options.Wait)
	defer enough.Stop()
	for len(entries) < l.options.Batch {
		select {
		case e := <-l.waiting:
			entries = append(entries, e)
			continue
		default:
		}
		select {
		case e := <-l.waiting:
			entries = append(entries, e)
		case <-enough.C:
			return entries
		case <-ctx.Done():
			return entries
		}
	}
	return entries
}

// hand gives entries to the pipeline, those of one handler and caller in one call.
func (l *Log) hand(ctx context.Context, entries []entry) {
	order := func(a, b entry) int {
		return cmp.Or(strings.Compare(a.handler.Fingerprint, b.handler.Fingerprint), strings.Compare(a.caller, b.caller))
	}
	slices.SortStableFunc(entries, order)
	for i := range entries {
		l.bytes.Add(-int64(len(entries[i].raw)))
	}
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && order(entries[n], entries[0]) == 0 {
			n++
		}
		l.handParts(ctx, entries[:n])
		entries = entries[n:]
	}
}

// handParts gives entries of one handler and caller to the pipeline, in parts where they are too large together, and counts what
// became of each part.
func (l *Log) handParts(ctx context.Context, entries []entry) {
	err := l.accept(ctx, entries)
	if class, ok := spool.ClassOf(err); ok && class == spool.TooLarge && len(entries) > 1 {
		half := len(entries) / 2
		l.handParts(ctx, entries[:half])
		l.handParts(ctx, entries[half:])
		return
	}
	if err != nil {
		l.refused.Add(uint64(len(entries)))
		l.complain(err)
		return
	}
	l.recorded.Add(uint64(len(entries)))
}

func (l *Log) complain(err error) {
	if l.options.Complain != nil {
		l.options.Complain(err)
	}
}

func (l *Log) accept(ctx context.Context, entries []entry) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("accepting records of decisions panicked: %T\n%s", r, debug.Stack())
		}
	}()
	handler := entries[0].handler
	call := &report.Call{Kind: record.KindDecision, Handler: handler.Name, Caller: entries[0].caller, Sinks: l.sinks(handler.DecisionLog.Sinks)}
	for i := range entries {
		call.Instances = append(call.Instances, entries[i].raw)
	}
	return l.acceptor.Accept(ctx, call)
}

// sinks returns where the records go: a name that no sink has sends them to the default ones, all of them.
func (l *Log) sinks(names []string) []string {
	for _, name := range names {
		if !slices.Contains(l.options.Sinks, name) {
			return l.options.Default
		}
	}
	if len(names) == 0 {
		return l.options.Default
	}
	return names
}

// newRecord makes the record of a decision.
func newRecord(id string, handler *config.Handler, request *policy.Request, d *policy.Decision, elapsed time.Duration) *record.Decision {
	return &record.Decision{
		ID: id, Handler: handler.Name, Instance: request.Instance, Outcome: d.Outcome(), Code: d.Code.String(), Class: class(d.Failure),
		Check: d.Check, Reason: d.Reason, Revision: d.Revision, Cached: d.Cached, Latency: elapsed, Input: Input(handler, request, d),
		Checks: checks(d.Findings),
	}
}

// class returns the failure's; empty for none.
func class(failure *policy.Failure) string {
	if failure == nil {
		return ""
	}
	return failure.Class.String()
}
