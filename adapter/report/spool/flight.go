package spool

// flight holds the frames that were handed out, in order and by sequence. What is done leaves it at once, so that one slow
// frame does not make it grow.
type flight struct {
	bySequence  map[uint64]*delivery
	first, last *delivery
	free        *delivery // for reuse
}

// delivery is one frame in flight.
type delivery struct {
	sequence       uint64
	tally          Tally
	place          place
	previous, next *delivery
	same           *delivery // a later one under the same sequence
}

// place is where a frame is kept, and since when. Memory queues know only the latter.
type place struct {
	segment *segment
	offset  int64
	stamp   int64 // when it was accepted, by the queue's clock
}

func (f *flight) add(sequence uint64, t Tally, p place) {
	d := f.free
	if d == nil {
		d = &delivery{}
	} else {
		f.free = d.next
	}
	*d = delivery{sequence: sequence, tally: t, place: p, previous: f.last}
	if f.last != nil {
		f.last.next = d
	} else {
		f.first = d
	}
	f.last = d
	if f.bySequence == nil {
		f.bySequence = map[uint64]*delivery{}
	}
	same := f.bySequence[sequence]
	if same == nil {
		f.bySequence[sequence] = d
		return
	}
	for same.same != nil {
		same = same.same
	}
	same.same = d
}

// take removes the oldest frame under the sequence.
func (f *flight) take(sequence uint64) (Tally, place, bool) {
	d := f.bySequence[sequence]
	if d == nil {
		return Tally{}, place{}, false
	}
	if d.same != nil {
		f.bySequence[sequence] = d.same
	} else {
		delete(f.bySequence, sequence)
	}
	if d.previous != nil {
		d.previous.next = d.next
	} else {
		f.first = d.next
	}
	if d.next != nil {
		d.next.previous = d.previous
	} else {
		f.last = d.previous
	}
	t, p := d.tally, d.place
	*d = delivery{next: f.free}
	f.free = d
	return t, p, true
}
