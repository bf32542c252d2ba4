package spool

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Queue is one sink's queue. All methods may be called at once from many goroutines.
type Queue interface {
	// ID names the queue for as long as its directory lives.
	ID() ID
	// NextSequence returns a sequence that no frame of the queue has had. Who numbers frames for several queues begins at the
	// greatest of theirs.
	NextSequence() uint64
	// Reserve books room for one frame with a payload of that many bytes. Without room the Full policy decides: refuse with an
	// error of class Full after at most FullWait or the end of ctx, make room by dropping the oldest, or return a reservation
	// that drops its frame. Every reservation must be ended, by Append, Start or Release.
	Reserve(ctx context.Context, bytes, records int) (*Reservation, error)
	// Next waits for the next frame in order and hands it out; it is then in flight until Done. An error of class Closed ends
	// the queue. After any other error of this package nothing is lost and the caller tries again after a pause.
	Next(ctx context.Context) (Frame, error)
	// Done says that an in-flight frame needs no more work, and what became of its records. It reports whether the frame was
	// in flight. Frames may be done in any order.
	Done(sequence uint64, outcome Outcome) bool
	// Stats returns the accounts as of one moment.
	Stats() Stats
	// Close ends the queue: frames being appended are finished, later calls fail with class Closed. A disk queue's frames
	// that are not done come again after the next Open; a memory queue's are counted as dropped.
	Close() error
}

// ID is a queue's identity: random, and the same for as long as its directory lives.
type ID [16]byte

// String returns the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

func newID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// Frame is one accepted report call.
type Frame struct {
	// Sequence identifies the frame. The caller gives it, once; after a crash a frame may come again under the same one.
	Sequence uint64
	// Arrival is when the call came, by the caller's clock; kept to the nanosecond between the years 1678 and 2262.
	Arrival time.Time
	// Records is how many records the payload holds.
	Records int
	// Payload is opaque. That of a frame from Next belongs to whoever got it; small ones that follow each other share memory
	// of up to 64 KiB, so one that is kept keeps that much.
	Payload []byte
	// Recovered marks frames that an earlier process accepted: only these may be duplicates.
	Recovered bool
}

// Outcome says what became of a frame's records. Those that it does not name were delivered.
type Outcome struct {
	// Filtered records were not for this sink.
	Filtered int
	// DeadLettered records were refused for good and are in the dead-letter file.
	DeadLettered int
}

// FullPolicy says what happens to a frame for which there is no room.
type FullPolicy uint8

const (
	// Refuse waits up to FullWait for room and then refuses the frame.
	Refuse FullPolicy = iota
	// DropOldest drops the oldest frames that are not in flight. A disk queue begins three segments before it is full, because
	// room comes when whole segments are gone; where the disk is too slow for that, it refuses after FullWait too.
	DropOldest
	// DropNewest drops the frame.
	DropNewest
)

// SyncPolicy says when an appended frame counts as kept.
type SyncPolicy uint8

const (
	// SyncAlways acknowledges a frame when it is on the disk: it survives a power loss.
	SyncAlways SyncPolicy = iota
	// SyncOS acknowledges a frame when the operating system has it: it survives the process, and not a power loss.
	SyncOS
)

// The bounds of options.
const (
	// MaxPayload bounds Options.MaxFrameBytes.
	MaxPayload = 64 << 20

	minQueueBytes   = 64 << 10
	minSegmentBytes = 4 << 10
	maxSegmentBytes = 1 << 30
)

// Options say how a queue behaves. The zero value is usable; zero fields take the defaults that their comments name.
type Options struct {
	// MaxBytes bounds the room: of a disk queue the size of its files, whatever is in them; of a memory queue the payloads
	// and a little for each. 1 GiB.
	MaxBytes int64
	// MaxAge bounds how long a frame may wait to be handed out; older ones are dropped. 0 for no bound.
	MaxAge time.Duration
	// MaxFrameBytes bounds a payload. 16 MiB, or what MaxBytes allows.
	MaxFrameBytes int
	// SegmentBytes is the size at which a segment is followed by the next. A sixteenth of MaxBytes, 16 MiB at most.
	SegmentBytes int64
	// Full says what happens to a frame for which there is no room. Refuse.
	Full FullPolicy
	// FullWait bounds the wait for room. 50 ms; negative for none.
	FullWait time.Duration
	// Sync says when a frame counts as kept. SyncAlways.
	Sync SyncPolicy
	// CursorEvery bounds how far the cursor on disk lags behind. 100 ms.
	CursorEvery time.Duration

	fs    fileSystem
	clock clockSource
}

// DefaultFullWait is how long Reserve waits for room where Options do not say.
const DefaultFullWait = 50 * time.Millisecond

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = max(min(o.MaxBytes/16, 16<<20), minSegmentBytes)
	}
	if o.MaxFrameBytes == 0 {
		o.MaxFrameBytes = int(max(min(16<<20, o.largestPayload()), 0))
	}
	if o.FullWait == 0 {
		o.FullWait = DefaultFullWait
	}
	if o.CursorEvery == 0 {
		o.CursorEvery = 100 * time.Millisecond
	}
	if o.fs == nil {
		o.fs = osFS{}
	}
	if o.clock == nil {
		o.clock = systemClock{start: time.Now()}
	}
	return o
}

// Validate checks the options and returns all that is wrong with them.
func (o Options) Validate() error {
	o = o.withDefaults()
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(o.MaxBytes >= minQueueBytes, "max bytes: %d is less than %d", o.MaxBytes, minQueueBytes)
	check(o.SegmentBytes >= minSegmentBytes && o.SegmentBytes <= maxSegmentBytes,
		"segment bytes: %d is not between %d and %d", o.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	check(o.SegmentBytes <= o.MaxBytes/8, "segment bytes: %d is more than an eighth of max bytes, %d", o.SegmentBytes, o.MaxBytes)
	check(o.MaxFrameBytes > 0 && o.MaxFrameBytes <= MaxPayload, "max frame bytes: %d is not between 1 and %d", o.MaxFrameBytes, MaxPayload)
	check(int64(o.MaxFrameBytes) <= o.largestPayload(), "max frame bytes: %d is more than max bytes leave room for, %d", o.MaxFrameBytes, o.largestPayload())
	check(o.MaxAge >= 0, "max age: %s is negative", o.MaxAge)
	check(o.CursorEvery > 0, "cursor every: %s is negative", o.CursorEvery)
	check(o.Full <= DropNewest, "full: %d is not a policy", o.Full)
	check(o.Sync <= SyncOS, "sync: %d is not a policy", o.Sync)
	return errors.Join(problems...)
}

// largestPayload is what still fits beside two segments' worth of frames that are done and not yet removed.
func (o Options) largestPayload() int64 {
	return o.MaxBytes - 2*o.SegmentBytes - 2*headerBytes - recordHeader
}

// Reservation is booked room for one frame. It is for one goroutine.
type Reservation struct {
	queue   appender
	need    int64
	bytes   int
	records int
	state   reservationState

	frame   Frame
	err     error
	pending sync.WaitGroup // until err is there
}

type reservationState uint8

const (
	held     reservationState = iota // room is booked
	dropping                         // no room: the frame will be dropped
	started                          // the frame is on its way
	ended                            // nothing is booked
)

// appender is a queue as a reservation sees it.
type appender interface {
	start(r *Reservation)
	release(r *Reservation)
	drop(r *Reservation)
	refuse(r *Reservation, err *Error)
	name() string
}

// WillDrop reports that there was no room and that the policy is to drop the frame that is appended.
func (r *Reservation) WillDrop() bool { return r.state == dropping }

// Append keeps the frame and returns when it is kept, or why it is not. A reservation is for one Append.
func (r *Reservation) Append(frame Frame) error {
	r.Start(frame)
	return r.Wait()
}

// Start begins to append the frame and returns at once, so that a call that goes to several queues waits for all disks
// together. Wait must follow; until it returned the payload must not change.
func (r *Reservation) Start(frame Frame) {
	r.frame = frame
	switch {
	case r.state != held && r.state != dropping:
		r.err = &Error{Class: Closed, Path: r.queue.name(), Text: "a reservation was used twice"}
	case len(frame.Payload) > r.bytes || frame.Records < 0 || int64(frame.Records) > maxRecords:
		r.queue.refuse(r, &Error{
			Class: TooLarge, Path: r.queue.name(),
			Text: fmt.Sprintf("a frame of %d bytes and %d records was appended where %d bytes were reserved", len(frame.Payload), frame.Records, r.bytes),
		})
	case r.state == dropping:
		r.queue.drop(r)
	default:
		r.queue.start(r)
	}
}

// Wait returns when the frame that was started is kept, or why it is not.
func (r *Reservation) Wait() error {
	r.pending.Wait()
	r.state = ended
	r.frame = Frame{}
	return r.err
}

// Release gives the room back. After Append or Start it does nothing, so it may be deferred.
func (r *Reservation) Release() {
	if r.state == held {
		r.queue.release(r)
	}
	if r.state == dropping {
		r.state = ended
	}
}
