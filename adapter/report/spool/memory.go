package spool

import (
	"bytes"
	"context"
)

// Memory is a queue that ends with the process. Its rules and accounts are those of Disk.
type Memory struct {
	ledger
	id ID

	// Guarded by ledger.mu.
	frames []waiting
	head   int // frames before it are gone
}

// waiting is a frame in memory that was not handed out.
type waiting struct {
	Frame

	place place
}

// memoryOverhead is roughly what a frame takes beside its payload.
const memoryOverhead = 128

// NewMemory makes a queue in memory. The options that are about files mean nothing to it.
func NewMemory(o Options) (*Memory, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m := &Memory{id: newID()}
	m.ledger = ledger{path: "memory", opts: o.withDefaults(), overhead: memoryOverhead, expire: m.expire, evict: m.evict, reclaim: func() bool { return false }, self: m, sequence: 1}
	m.clock = newClock(m.opts.clock, 0)
	return m, nil
}

// ID returns an id that was made with the queue.
func (m *Memory) ID() ID { return m.id }

// NextSequence returns a sequence that no frame has had.
func (m *Memory) NextSequence() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sequence
}

// Reserve books room for one frame. See Queue.
func (m *Memory) Reserve(ctx context.Context, bytes, records int) (*Reservation, error) {
	return m.reserve(ctx, bytes, records)
}

// start keeps the frame at once.
func (m *Memory) start(r *Reservation) {
	frame := r.frame
	frame.Payload = bytes.Clone(frame.Payload)
	m.mu.Lock()
	defer m.mu.Unlock()
	r.state = ended
	if m.closed {
		r.err = &Error{Class: Closed, Path: m.path}
		m.reserved -= r.need
		m.count(Closed, r)
		return
	}
	m.accepted(r)
	m.used += m.overhead + int64(len(frame.Payload))
	if len(frame.Payload) < r.bytes {
		m.grant()
	}
	m.frames = append(m.frames, waiting{Frame: frame, place: place{stamp: m.clock.now()}})
	m.wake()
}

// Next hands out the next frame. See Queue.
func (m *Memory) Next(ctx context.Context) (Frame, error) {
	for {
		m.mu.Lock()
		m.expire()
		if m.closed {
			m.mu.Unlock()
			return Frame{}, &Error{Class: Closed, Path: m.path}
		}
		if m.head < len(m.frames) {
			w := m.pop()
			m.handOut(&w.Frame, w.place)
			m.mu.Unlock()
			return w.Frame, nil
		}
		news := m.listen()
		m.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Frame{}, ctx.Err()
		}
	}
}

// Done ends a frame's flight. See Queue.
func (m *Memory) Done(sequence uint64, outcome Outcome) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, _, ok := m.done(sequence, outcome)
	if ok {
		m.free(t)
	}
	return ok
}

// Stats returns the accounts. See Queue.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	switch {
	case m.flight.first != nil:
		return m.snapshot(m.flight.first.place.stamp, true)
	case m.head < len(m.frames):
		return m.snapshot(m.frames[m.head].place.stamp, true)
	default:
		return m.snapshot(0, false)
	}
}

// Close ends the queue and drops what is in it. See Queue.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.close() {
		return nil
	}
	for d := m.flight.first; d != nil; d = m.flight.first {
		t, _, _ := m.flight.take(d.sequence)
		m.stats.InFlight.sub(t)
		m.dropped(Discarded, t)
		m.free(t)
	}
	m.dropWhile(Discarded, func(*waiting) bool { return true })
	return nil
}

// pop takes the oldest frame off the list.
func (m *Memory) pop() waiting {
	w := m.frames[m.head]
	m.frames[m.head] = waiting{}
	m.head++
	if m.head*2 >= len(m.frames) {
		// At least half of the list is gone; moving the rest costs each frame one move on average.
		n := copy(m.frames, m.frames[m.head:])
		clear(m.frames[n:])
		m.frames, m.head = m.frames[:n], 0
	}
	return w
}

func (m *Memory) free(t Tally) {
	m.used -= m.overhead + int64(t.Bytes)
	m.grant()
}

// dropWhile drops the oldest waiting frames while more says so.
func (m *Memory) dropWhile(reason Reason, more func(*waiting) bool) {
	for m.head < len(m.frames) && more(&m.frames[m.head]) {
		w := m.pop()
		t := tallyOf(&w.Frame)
		m.dropped(reason, t)
		m.free(t)
	}
}

// evict drops the oldest frames until no more than target bytes are taken.
func (m *Memory) evict(target int64) {
	m.dropWhile(Oldest, func(*waiting) bool { return m.used > target })
}

// expire drops frames that waited too long.
func (m *Memory) expire() {
	if cutoff, ok := m.cutoff(); ok {
		m.dropWhile(Expired, func(w *waiting) bool { return w.place.stamp < cutoff })
	}
}
