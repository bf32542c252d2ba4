// Package pace lets work on reports step aside for checks. Reports may wait, checks may not, and both want the same processors: the
// scheduler would give each goroutine up to ten milliseconds, and look after the network only between them.
package pace

import (
	"context"
	"iter"
	"sync/atomic"
	"time"
)

const (
	// recent is how long after a check others are expected.
	recent = 100 * time.Millisecond
	// grain is how exactly the time of the last check is known, so that processors that serve checks do not fight over it.
	grain = recent / 10
	// stretch is how long work goes on without a rest.
	stretch = time.Millisecond
	// longest bounds a rest: work that took longer waited for a processor itself.
	longest = 10 * time.Millisecond
	// turns is how many turns of a loop pass between looks at the time.
	turns = 16
)

// Checks knows whether checks are being served. A nil one knows of none.
type Checks struct {
	began time.Time
	last  atomic.Int64 // nanoseconds since began
}

// New returns one that has seen no check.
func New() *Checks {
	c := &Checks{began: time.Now()}
	c.last.Store(int64(-recent))
	return c
}

// Served tells of a check that came at that time, which is about now.
func (c *Checks) Served(at time.Time) {
	if c == nil {
		return
	}
	if now := int64(at.Sub(c.began)); now-c.last.Load() > int64(grain) {
		c.last.Store(now)
	}
}

// Serving reports whether there was a check within the last tenth of a second.
func (c *Checks) Serving() bool {
	return c != nil && int64(time.Since(c.began))-c.last.Load() < int64(recent)
}

type key struct{}

// NewContext returns a context whose loops step aside for checks.
func NewContext(ctx context.Context, checks *Checks) context.Context {
	return context.WithValue(ctx, key{}, checks)
}

// Over ranges over the indices of a list whose elements take some microseconds of work each. While checks are being served it rests every
// millisecond for as long as it worked.
func Over[T any](ctx context.Context, list []T) iter.Seq[int] {
	checks, _ := ctx.Value(key{}).(*Checks)
	return func(yield func(int) bool) {
		began := time.Now()
		for i := range list {
			if !yield(i) {
				return
			}
			if i%turns != turns-1 {
				continue
			}
			worked := time.Since(began)
			if worked < stretch {
				continue
			}
			if checks.Serving() {
				time.Sleep(min(worked, longest))
			}
			began = time.Now()
		}
	}
}
