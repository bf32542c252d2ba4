package mixer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
)

// ReportLimits bounds the report calls that are under way at once, so that a flood of them takes neither memory nor processor time
// from checks.
type ReportLimits struct {
	// Calls is how many are under way at once, at least one. One that waits for room in a queue or for a slow disk is not among them for
	// long, so that a sink which is full keeps no other's reports away.
	Calls int
	// Bytes is what all may have together from when they were received until they are answered: while they have more, no other is received.
	Bytes int
	// Wait is how long a call waits for its turn before it is refused.
	Wait time.Duration
}

// besideChecks is the share of Calls that is let in at once while checks are being served: one in so many, but always one. Others
// wait first.
const besideChecks = 4

// admission lets report calls in, in the order in which they came.
type admission struct {
	limits ReportLimits
	// checks knows whether checks are being served.
	checks *pace.Checks

	mu      sync.Mutex // guards everything below
	calls   int
	bytes   int
	waiting []chan struct{} // each has room for one
}

// admitted is a call that was let in.
type admitted struct {
	admission *admission
	bytes     int
	resting   bool
}

// enter returns a call's place, or nil where it got none before the wait or ctx ended.
func (a *admission) enter(ctx context.Context) *admitted {
	a.mu.Lock()
	if len(a.waiting) == 0 && a.room() {
		a.calls++
		a.mu.Unlock()
		return &admitted{admission: a}
	}
	turn := make(chan struct{}, 1)
	a.waiting = append(a.waiting, turn)
	a.mu.Unlock()
	timer := time.NewTimer(a.limits.Wait)
	defer timer.Stop()
	select {
	case <-turn:
		return &admitted{admission: a}
	case <-timer.C:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.waiting, turn)
	if i < 0 {
		return &admitted{admission: a} // its turn came at the same moment
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	// It has made way for checks long enough: for their sake reports come later, and none is lost.
	if ctx.Err() == nil && a.below(a.limits.Calls) {
		a.calls++
		return &admitted{admission: a}
	}
	return nil
}

// room reports whether one more call may come in at once.
func (a *admission) room() bool {
	if a.checks.Serving() {
		return a.below(a.limits.Calls / besideChecks)
	}
	return a.below(a.limits.Calls)
}

// below reports whether there are fewer calls than that, but always room for one, and fewer bytes than may be.
func (a *admission) below(calls int) bool {
	return a.calls < max(calls, 1) && a.bytes < max(a.limits.Bytes, 1)
}

// received says how large the call is.
func (p *admitted) received(bytes int) {
	a := p.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	p.bytes, a.bytes = bytes, a.bytes+bytes
}

// rest says that there is nothing left but to wait. That makes room for another call, if not for its bytes.
func (p *admitted) rest() { p.makeRoom(0) }

// leave makes room for those who wait.
func (p *admitted) leave() { p.makeRoom(p.bytes) }

func (p *admitted) makeRoom(bytes int) {
	a := p.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if !p.resting {
		p.resting, a.calls = true, a.calls-1
	}
	a.bytes -= bytes
	for len(a.waiting) > 0 && a.room() {
		a.calls++
		a.waiting[0] <- struct{}{}
		a.waiting = slices.Delete(a.waiting, 0, 1)
	}
}

// maxReceiving is how long a call keeps its place while it is being received. A place is for work, and none is done while a caller takes
// its time: such a call waits for another place when it is there.
const maxReceiving = time.Second

// maxWaiting is how long it keeps its place while it waits for room and for disks. Not less, or disks would let all those go on at once that
// they had kept, and checks would wait behind them.
const maxWaiting = 10 * time.Millisecond

// BoundReports bounds the report calls that are under way at once; without it they are not. It is to be called before Register. Fewer
// are let in while checks are being served.
func (d *Door) BoundReports(limits ReportLimits) {
	d.admission = &admission{limits: limits, checks: d.checks}
}

// admitReport receives and answers a report call when its turn comes, or refuses it.
func (d *Door) admitReport(ctx context.Context, t reportTemplate, receive func() (text string, err error)) (any, error) {
	if d.admission == nil {
		text, err := receive()
		if err != nil {
			return nil, err
		}
		return d.report(ctx, t, text)
	}
	start := time.Now()
	place := d.admission.enter(ctx)
	if place == nil {
		return nil, d.refuseReport(ctx, start, t)
	}
	slow := time.AfterFunc(maxReceiving, place.leave)
	text, err := receive()
	inTime := slow.Stop()
	switch {
	case err != nil && inTime:
		place.leave()
		return nil, err
	case err != nil:
		return nil, err
	case !inTime:
		if place = d.admission.enter(ctx); place == nil {
			return nil, d.refuseReport(ctx, start, t)
		}
	}
	defer place.leave()
	place.received(len(text))
	var waits *time.Timer
	result, err := d.keep(ctx, t, text, func() { waits = time.AfterFunc(maxWaiting, place.rest) })
	if waits != nil {
		waits.Stop()
	}
	return result, err
}

// refuseReport is the answer to a call whose turn did not come. Nobody looked into it, so it is not known of which handler it is, nor how
// many instances it has.
func (d *Door) refuseReport(ctx context.Context, start time.Time, t reportTemplate) error {
	refusal := report.Refuse("overload", fmt.Errorf("its turn did not come within %s; raise limits.reports or add replicas", d.admission.limits.Wait))
	if ctx.Err() != nil {
		refusal = report.Refuse("", ctx.Err())
	}
	outcome := report.Reported{Handler: "unknown", Kind: t.kind, Refused: refusal}
	d.observer.Reported(outcome)
	if d.tracer != nil {
		d.tracer.Reported(ctx, start, t.service, t.method, outcome)
	}
	return status.Error(codes.ResourceExhausted, "the report could not be accepted: "+refusal.Class)
}
