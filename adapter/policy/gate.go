package policy

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// Gate bounds how many dear checks run at once, with a short wait. Past that the overload class decides.
type Gate struct {
	places  chan struct{}
	wait    time.Duration
	waiting atomic.Int64
}

// NewGate makes a gate with the given number of places, at least one, at which a check waits no longer than wait.
func NewGate(places int, wait time.Duration) *Gate {
	return &Gate{places: make(chan struct{}, max(places, 1)), wait: wait}
}

// Limit returns how many checks may run at once.
func (g *Gate) Limit() int { return cap(g.places) }

// Running returns how many checks hold a place now.
func (g *Gate) Running() int { return len(g.places) }

// Crowded reports whether checks wait for a place, or for a processor: there are more of them than processors.
func (g *Gate) Crowded() bool { return g.waiting.Load() > 0 || g.Running() > runtime.GOMAXPROCS(0) }

// enter takes a place and reports whether it got one before the wait or ctx ended.
func (g *Gate) enter(ctx context.Context) bool {
	select {
	case g.places <- struct{}{}:
		return true
	default:
	}
	if g.wait <= 0 {
		return false
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case g.places <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

func (g *Gate) leave() { <-g.places }
