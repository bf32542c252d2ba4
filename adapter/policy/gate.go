package policy

import (
	"context"
	"time"
)

// Gate bounds how many dear checks run at once, with a short wait. Past that the overload class decides.
type Gate struct {
	places chan struct{}
	wait   time.Duration
}

// NewGate makes a gate with the given number of places, at least one, at which a check waits no longer than wait.
func NewGate(places int, wait time.Duration) *Gate {
	return &Gate{places: make(chan struct{}, max(places, 1)), wait: wait}
}

// Limit returns how many checks may run at once.
func (g *Gate) Limit() int { return cap(g.places) }

// Running returns how many checks hold a place now.
func (g *Gate) Running() int { return len(g.places) }

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
