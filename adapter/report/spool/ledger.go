package spool

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// ledger is what both kinds of queue share: who gets room, what is in flight, and the accounts.
type ledger struct {
	path     string // names the queue in errors
	opts     Options
	overhead int64              // room that a frame takes beside its payload
	dead     int64              // room that may be taken by frames that are done; evicting does not count on it
	ahead    int64              // room that evicting keeps free, because what it drops leaves the disk a moment later
	expire   func()             // drops what is too old
	evict    func(target int64) // drops the oldest until no more than target is taken
	reclaim  func() bool        // frees room that nothing pending takes; it may let the mutex go, and says so
	self     appender

	mu       sync.Mutex // guards everything below and the fields of Disk and Memory that say so
	closed   bool
	stats    Stats // without Room, Oldest and Fault, which are filled in when asked for
	clock    clock
	sequence uint64 // the next one

	used     int64     // room that is taken
	reserved int64     // room that is booked
	wanted   int64     // room that waiters wait for
	waiters  list.List // of *waiter, first come first served
	broken   *Error    // why the last commit failed
	until    int64     // until when Reserve refuses because of it

	flight flight
	news   chan struct{} // closed when there is something for Next; nil while nobody waits
}

// waiter is a call that waits for room.
type waiter struct {
	need  int64
	ready chan *Error // gets nil when the room is booked
}

func (l *ledger) name() string { return l.path }

// reserve books room. See Queue.
func (l *ledger) reserve(ctx context.Context, bytes, records int) (*Reservation, error) {
	r := &Reservation{queue: l.self, need: l.overhead + int64(bytes), bytes: bytes, records: records}
	l.mu.Lock()
	if err := l.admit(r); err != nil {
		l.count(err.Class, r)
		l.mu.Unlock()
		return nil, err
	}
	l.expire()
	if l.opts.Full == DropOldest && !l.fits(l.wanted+r.need+l.ahead) {
		l.evict(l.opts.MaxBytes - l.dead - l.ahead - l.reserved - l.wanted - r.need)
		if !l.fits(r.need) && l.reclaim() && l.closed {
			l.count(Closed, r)
			l.mu.Unlock()
			return nil, &Error{Class: Closed, Path: l.path}
		}
	}
	if l.waiters.Len() == 0 && l.fits(r.need) {
		l.reserved += r.need
		l.mu.Unlock()
		return r, nil
	}
	if l.opts.Full == DropNewest {
		l.mu.Unlock()
		r.state = dropping
		return r, nil
	}
	w := &waiter{need: r.need, ready: make(chan *Error, 1)}
	element := l.waiters.PushBack(w)
	l.wanted += w.need
	l.grant()
	l.mu.Unlock()

	timer := time.NewTimer(max(l.opts.FullWait, 0))
	defer timer.Stop()
	var err *Error
	select {
	case err = <-w.ready:
	case <-timer.C:
		err = l.giveUp(element, w, context.Cause(ctx)) // both may have ended, and then select takes either
	case <-ctx.Done():
		err = l.giveUp(element, w, context.Cause(ctx))
	}
	if err != nil {
		l.mu.Lock()
		l.count(err.Class, r)
		l.mu.Unlock()
		return nil, err
	}
	return r, nil
}

// admit refuses what needs no look at the room.
func (l *ledger) admit(r *Reservation) *Error {
	switch {
	case l.closed:
		return &Error{Class: Closed, Path: l.path}
	case r.bytes < 0 || r.bytes > l.opts.MaxFrameBytes:
		return &Error{Class: TooLarge, Path: l.path, Text: fmt.Sprintf("a frame of %d bytes is larger than %d", r.bytes, l.opts.MaxFrameBytes)}
	case l.broken != nil && l.clock.now() < l.until:
		return l.broken
	}
	return nil
}

func (l *ledger) fits(need int64) bool { return l.used+l.reserved+need <= l.opts.MaxBytes }

// grant books room for waiters, in order, while there is some. Called when room was freed.
func (l *ledger) grant() {
	for element := l.waiters.Front(); element != nil; element = l.waiters.Front() {
		w := element.Value.(*waiter) //nolint:errcheck,forcetypeassert // nothing else is in the list
		if !l.fits(w.need) {
			return
		}
		l.reserved += w.need
		l.leave(element, w, nil)
	}
}

// leave ends a waiter's wait.
func (l *ledger) leave(element *list.Element, w *waiter, err *Error) {
	l.waiters.Remove(element)
	l.wanted -= w.need
	w.ready <- err
}

// giveUp ends a wait that took too long, unless the room came meanwhile.
func (l *ledger) giveUp(element *list.Element, w *waiter, cause error) *Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case err := <-w.ready:
		return err
	default:
	}
	text := fmt.Sprintf("%d of %d bytes are taken", l.used+l.reserved, l.opts.MaxBytes)
	l.leave(element, w, nil)
	l.grant() // a smaller one behind it may fit
	return &Error{Class: Full, Path: l.path, Text: text, Err: cause}
}

// count counts a refused frame.
func (l *ledger) count(class Class, r *Reservation) {
	records := r.records
	if r.frame.Payload != nil {
		records = r.frame.Records
	}
	l.stats.Refused[class].add(Tally{Frames: 1, Records: uint64(max(records, 0)), Bytes: uint64(max(r.bytes, 0))})
}

// release gives booked room back.
func (l *ledger) release(r *Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.state = ended
	l.reserved -= r.need
	l.grant()
}

// refuse fails an append for a reason that is not the store's.
func (l *ledger) refuse(r *Reservation, err *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.state == held {
		l.reserved -= r.need
		l.grant()
	}
	r.state, r.err = ended, err
	l.count(err.Class, r)
}

// drop accepts a frame and drops it as the newest.
func (l *ledger) drop(r *Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.state = ended
	if l.closed {
		r.err = &Error{Class: Closed, Path: l.path}
		l.count(Closed, r)
		return
	}
	l.saw(r.frame.Sequence)
	t := tallyOf(&r.frame)
	l.stats.Accepted.add(t)
	l.stats.Dropped[Newest].add(t)
}

// accepted enters a frame that is kept.
func (l *ledger) accepted(r *Reservation) {
	l.saw(r.frame.Sequence)
	l.reserved -= r.need
	t := tallyOf(&r.frame)
	l.stats.Accepted.add(t)
	l.stats.Pending.add(t)
}

// saw keeps the sequence ahead of every frame's; it stays at the last number rather than begin anew.
func (l *ledger) saw(sequence uint64) {
	if sequence >= l.sequence {
		l.sequence = max(sequence+1, sequence)
	}
}

// dropped moves pending frames that are not in flight to the dropped ones.
func (l *ledger) dropped(reason Reason, t Tally) {
	l.stats.Pending.sub(t)
	l.stats.Dropped[reason].add(t)
}

// handOut enters a frame as in flight.
func (l *ledger) handOut(f *Frame, p place) {
	t := tallyOf(f)
	l.stats.InFlight.add(t)
	l.flight.add(f.Sequence, t, p)
}

// done takes a frame out of flight.
func (l *ledger) done(sequence uint64, o Outcome) (Tally, place, bool) {
	t, p, ok := l.flight.take(sequence)
	if !ok {
		return Tally{}, place{}, false
	}
	l.stats.InFlight.sub(t)
	l.stats.Pending.sub(t)
	l.stats.Done.add(t)
	// No outcome makes more of a frame than was in it.
	dead := min(uint64(max(o.DeadLettered, 0)), t.Records)
	filtered := min(uint64(max(o.Filtered, 0)), t.Records-dead)
	l.stats.DeadLettered += dead
	l.stats.Filtered += filtered
	return t, p, true
}

// wake tells all that wait in Next to look again.
func (l *ledger) wake() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

// listen returns what wake closes next.
func (l *ledger) listen() <-chan struct{} {
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return l.news
}

// close ends all waits and reports whether it was the first to do so.
func (l *ledger) close() bool {
	if l.closed {
		return false
	}
	l.closed = true
	l.wake()
	for element := l.waiters.Front(); element != nil; element = l.waiters.Front() {
		l.leave(element, element.Value.(*waiter), &Error{Class: Closed, Path: l.path}) //nolint:errcheck,forcetypeassert // nothing else is in the list
	}
	return true
}

// snapshot returns the accounts; oldest is the stamp of the oldest pending frame.
func (l *ledger) snapshot(oldest int64, pending bool) Stats {
	s := l.stats
	s.Room = l.used + l.reserved
	if pending {
		s.Oldest = time.Duration(max(l.clock.now()-oldest, 0))
	}
	if l.broken != nil {
		s.Fault = l.broken
	}
	return s
}

// cutoff is the stamp below which frames have expired.
func (l *ledger) cutoff() (int64, bool) {
	if l.opts.MaxAge == 0 {
		return 0, false
	}
	return l.clock.now() - int64(l.opts.MaxAge), true
}

func tallyOf(f *Frame) Tally {
	return Tally{Frames: 1, Records: uint64(f.Records), Bytes: uint64(len(f.Payload))} //nolint:gosec // never negative
}
