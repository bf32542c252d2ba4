package spool

import "time"

// Reason says why an accepted frame was dropped. Its text is a metric label.
type Reason uint8

const (
	// Oldest frames made room for newer ones.
	Oldest Reason = iota
	// Newest frames found no room.
	Newest
	// Expired frames waited longer than the age bound.
	Expired
	// Damaged frames could not be read back as they were written.
	Damaged
	// Discarded frames were in a memory queue when it was closed.
	Discarded
)

const reasons = int(Discarded) + 1

var reasonNames = [reasons]string{"oldest", "newest", "expired", "corrupt", "closed"}

// String returns the reason as a metric label.
func (r Reason) String() string { return reasonNames[r] }

// Tally counts frames, the records in them and the bytes of their payloads.
type Tally struct {
	// Frames is how many frames.
	Frames uint64
	// Records is how many records were in them.
	Records uint64
	// Bytes is how many bytes their payloads had.
	Bytes uint64
}

func (t *Tally) add(o Tally) {
	t.Frames += o.Frames
	t.Records += o.Records
	t.Bytes += o.Bytes
}

func (t *Tally) sub(o Tally) {
	t.Frames -= o.Frames
	t.Records -= o.Records
	t.Bytes -= o.Bytes
}

// Stats are a queue's accounts as of one moment. In every snapshot
//
//	Accepted + Recovered = Done + the sum of Dropped + Pending
//
// in frames, records and bytes alike. Each side is counted by itself; nothing is computed from the equation.
type Stats struct {
	// Accepted frames were acknowledged to their appender, those dropped as newest included.
	Accepted Tally
	// Recovered frames were found intact, and not known to be done, when the directory was opened.
	Recovered Tally
	// Done frames need no more work.
	Done Tally
	// Filtered and DeadLettered are those of Done.Records that were not delivered.
	Filtered, DeadLettered uint64
	// Dropped frames were accepted or recovered and will not be handed out; by Reason.
	Dropped [reasons]Tally
	// Pending frames wait or are in flight.
	Pending Tally
	// InFlight frames of the pending ones were handed out and are not done.
	InFlight Tally

	// Refused frames were answered with an error and are not in the sum; by Class.
	Refused [classes]Tally
	// Damage is what could not be read; frames of it that had been accepted or recovered are in Dropped too.
	Damage Damage

	// Room is how many bytes of MaxBytes are taken, reservations included.
	Room int64
	// Oldest is the age of the oldest pending frame.
	Oldest time.Duration
	// Fault is why the directory cannot be written at present; nil while all is well.
	Fault error
}

// Damage is what recovery and reading found that nobody wrote.
type Damage struct {
	// Regions is how many runs of bytes, each between two intact records or segment ends, were skipped.
	Regions uint64
	// Bytes is how many bytes they had.
	Bytes uint64
	// Torn is how many bytes were cut from the end of the last segment: what a crash leaves of frames that were never
	// acknowledged.
	Torn uint64
}

func (d *Damage) add(o Damage) {
	d.Regions += o.Regions
	d.Bytes += o.Bytes
	d.Torn += o.Torn
}

// DroppedTotal is the sum over all reasons.
func (s *Stats) DroppedTotal() Tally {
	var sum Tally
	for _, t := range s.Dropped {
		sum.add(t)
	}
	return sum
}

// Balanced reports whether the accounts agree. They always do; a false is a bug.
func (s *Stats) Balanced() bool {
	in, out := s.Accepted, s.Done
	in.add(s.Recovered)
	out.add(s.DroppedTotal())
	out.add(s.Pending)
	return in == out
}
