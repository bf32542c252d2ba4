package spool

import "time"

// clockSource is the machine's clocks.
type clockSource interface {
	// wall is the time of day. Somebody may set it.
	wall() time.Time
	// elapsed is the time since some fixed moment. Nobody can set it.
	elapsed() time.Duration
}

type systemClock struct{ start time.Time }

func (systemClock) wall() time.Time          { return time.Now() }
func (c systemClock) elapsed() time.Duration { return time.Since(c.start) }

// clock measures ages. It reads the time of day once, when the queue is opened, and runs by the monotonic clock from there, so
// that a step of the time of day neither expires nor preserves anything. Between two processes only the time of day goes on:
// set back it is held at the latest moment found in the directory; set forward it cannot be told from a long pause.
type clock struct {
	source clockSource
	base   int64 // Unix nanoseconds
	from   time.Duration
}

func newClock(source clockSource, atLeast int64) clock {
	return clock{source: source, base: max(source.wall().UnixNano(), atLeast), from: source.elapsed()}
}

// now is in Unix nanoseconds of this clock.
func (c *clock) now() int64 { return c.base + int64(c.source.elapsed()-c.from) }
