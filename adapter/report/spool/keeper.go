package spool

import (
	"time"
)

// keeper writes the state, removes segments in which nothing is pending, and drops what expired.
type keeper struct {
	disk  *Disk
	kick  chan struct{}
	quit  chan struct{}
	ended chan struct{}

	// Its goroutine's own.
	file    file   // of the state
	state   state  // as it is on the disk
	at      int64  // when it was written, or that was tried
	failing *Error // why that failed
	closing bool   // nothing comes after this state
}

const (
	// tryAgain is the pause after something could not be written or removed.
	tryAgain = time.Second
	// forever is the pause where there is nothing to do.
	forever = time.Hour
)

// wake makes the keeper look at once.
func (k *keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *keeper) run() {
	defer close(k.ended)
	timer := time.NewTimer(forever)
	defer timer.Stop()
	for {
		timer.Reset(k.tend(false))
		select {
		case <-k.kick:
		case <-timer.C:
		case <-k.quit:
			return
		}
	}
}

// tend does what is due, or all there is at the end, and returns for how long nothing will be.
func (k *keeper) tend(last bool) time.Duration {
	d := k.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire()
	now := d.clock.now()
	// Segments go first, because somebody may wait for the room, and they need no state to go. But the newest keeps its number
	// from being used again; before it goes the state has to do that.
	failing := d.remove(false)
	if last || d.moved && (d.removed || now-k.at >= int64(d.opts.CursorEvery)) {
		k.failing = k.write()
	}
	if k.failing != nil { // also while it is not tried again: a fault ends when it is over, and not when nobody looks
		failing = k.failing
	}
	if k.state.next == d.next {
		if err := d.remove(true); err != nil {
			failing = err
		}
	}
	if d.removed {
		d.removed = false
		d.mu.Unlock()
		err := d.opts.fs.SyncDir(d.dir) // or they may be back after a power loss, and some of their frames come again
		d.mu.Lock()
		if err != nil && failing == nil {
			failing = fault(d.dir, "sync the directory", err)
		}
	}
	d.failing = failing
	if d.broken != nil && now >= d.until-int64(afterFailure)+int64(tryAgain) {
		// Nobody may be there to try: who watches the fault may have sent the callers away.
		d.probe = true
		d.work.Signal()
	}
	pause := forever
	if d.moved {
		pause = max(time.Duration(k.at+int64(d.opts.CursorEvery)-now), time.Millisecond)
	}
	if failing != nil || d.broken != nil {
		pause = min(pause, tryAgain)
	}
	if d.opts.MaxAge > 0 && d.stats.Pending.Frames > 0 {
		pause = min(pause, max(d.opts.MaxAge/16, 10*time.Millisecond))
	}
	return pause
}

// write writes the state. It lets the mutex go meanwhile.
func (k *keeper) write() *Error {
	d := k.disk
	s := state{
		generation: k.state.generation + 1,
		id:         d.id,
		cursor:     d.cursor(),
		next:       d.next,
		sequence:   d.sequence,
		now:        d.clock.now(),
		clean:      k.closing,
	}
	k.at = s.now
	d.moved = false
	d.mu.Unlock()
	err := writeState(k.file, &s)
	d.mu.Lock()
	if err != nil {
		d.moved = true
		return fault(stateName(d.dir), "write", err)
	}
	k.state = s
	return nil
}
