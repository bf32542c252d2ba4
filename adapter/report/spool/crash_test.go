package spool

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// world is what is true across the lives of one directory.
type world struct {
	mu      sync.Mutex
	size    map[uint64]int // of every frame that was tried
	kept    map[uint64]bool
	refused map[uint64]bool // told so by a queue that went on living
	done    map[uint64]bool
	seen    map[uint64]int // life in which it was delivered last
}

// chaos is what may go wrong in a life.
type chaos struct {
	faults float64 // share of writes, syncs and creations that fail
	cuts   bool    // truncations fail too
	sync   SyncPolicy
	kill   bool // the process dies and not the power
}

// A power loss at any moment, also in the midst of recovery from one, loses nothing that was acknowledged and delivers nothing
// that is not what was appended.
func TestPowerLoss(t *testing.T) {
	seeds(t, number(t, "TOLLGATE_SPOOL_CRASHES", 1000), func(t *testing.T, rng *rand.Rand) {
		crash(t, rng, chaos{})
	})
}

// The same on a disk that fails now and then: what was refused is not delivered.
func TestPowerLossWithFaults(t *testing.T) {
	seeds(t, number(t, "TOLLGATE_SPOOL_CRASHES", 1000), func(t *testing.T, rng *rand.Rand) {
		crash(t, rng, chaos{faults: 0.05})
	})
}

// The same where the disk does not even let a failed write be taken back at once.
func TestPowerLossWithoutCuts(t *testing.T) {
	seeds(t, number(t, "TOLLGATE_SPOOL_CRASHES", 400), func(t *testing.T, rng *rand.Rand) {
		crash(t, rng, chaos{faults: 0.1, cuts: true})
	})
}

// Without syncs a killed process still loses nothing.
func TestDeathWithoutSyncs(t *testing.T) {
	seeds(t, number(t, "TOLLGATE_SPOOL_CRASHES", 400), func(t *testing.T, rng *rand.Rand) {
		crash(t, rng, chaos{sync: SyncOS, kill: true})
	})
}

// Without syncs a power loss loses frames, and still delivers no wrong ones and gives no sequence twice.
func TestPowerLossWithoutSyncs(t *testing.T) {
	seeds(t, number(t, "TOLLGATE_SPOOL_CRASHES", 400), func(t *testing.T, rng *rand.Rand) {
		crash(t, rng, chaos{sync: SyncOS})
	})
}

// crash lives a few lives in one directory and looks at what they leave.
func crash(t *testing.T, rng *rand.Rand, c chaos) {
	t.Helper()
	w := &world{size: map[uint64]int{}, kept: map[uint64]bool{}, refused: map[uint64]bool{}, done: map[uint64]bool{}, seen: map[uint64]int{}}
	files := newForgetful(rand.New(rand.NewPCG(rng.Uint64(), 0)))
	lives := 2 + rng.IntN(3)
	for life := 1; life <= lives; life++ {
		files.dieAt = 1 + rng.IntN(200)
		if c.faults > 0 {
			files.fault = faults(files.rng, c)
		}
		w.live(t, rng, files, life, c.sync)
		if c.kill {
			files = files.killed()
		} else {
			files = files.powerLoss()
		}
	}
	d, err := Open("spool", Options{MaxBytes: 256 << 10, SegmentBytes: 4 << 10, fs: files})
	require.NoError(t, err)
	w.checkSequence(t, d)
	found := map[uint64]bool{}
	for _, sequence := range drain(t, d, true) {
		assert.False(t, found[sequence], "frame %d came twice in one life", sequence)
		found[sequence] = true
		w.delivered(t, sequence, lives+1)
	}
	for sequence := range w.kept {
		if c.sync == SyncAlways || c.kill {
			assert.True(t, found[sequence] || w.done[sequence], "frame %d was acknowledged and is lost", sequence)
		}
	}
	for sequence := range w.refused {
		assert.False(t, found[sequence] && !c.cuts, "frame %d was refused and came", sequence)
	}
	require.NoError(t, d.Close())
}

// faults makes operations fail by chance. The generator is the file system's own, used under its mutex.
func faults(rng *rand.Rand, c chaos) func(op, name string) error {
	return func(op, name string) error {
		if rng.Float64() >= c.faults {
			return nil
		}
		switch op {
		case "write":
			return []error{syscall.ENOSPC, syscall.EIO, errShort}[rng.IntN(3)]
		case "create":
			return syscall.ENOSPC
		case "syncdir", "remove":
			return syscall.EIO
		case "sync", "truncate":
			if c.cuts || op == "sync" && !strings.HasSuffix(name, segmentSuffix) {
				return syscall.EIO
			}
		}
		return nil
	}
}

// live opens the directory and appends and delivers until the power goes or all is done.
func (w *world) live(t *testing.T, rng *rand.Rand, files *forgetful, life int, policy SyncPolicy) {
	t.Helper()
	d, err := Open("spool", Options{
		MaxBytes: 256 << 10, SegmentBytes: 4 << 10, CursorEvery: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
		FullWait: time.Millisecond, Sync: policy, fs: files,
	})
	if err != nil {
		return // the power went, or a fault; nothing was accepted
	}
	w.checkSequence(t, d)
	var appenders, consumer sync.WaitGroup
	next := d.NextSequence()
	for range 1 + rng.IntN(4) {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		first, count := next, uint64(1+rng.IntN(30))
		next += count
		appenders.Go(func() {
			for sequence := first; sequence < first+count; sequence++ {
				w.append(files, d, newFrame(sequence, []int{own.IntN(20), own.IntN(1500), copyBelow + own.IntN(9)}[own.IntN(32)/15]))
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	own := rand.New(rand.NewPCG(rng.Uint64(), 0))
	consumer.Go(func() { w.consume(ctx, t, own, d, life) })
	sampler := make(chan struct{})
	consumer.Go(func() {
		for {
			select {
			case <-sampler:
				return
			default:
				s := d.Stats()
				assert.True(t, s.Balanced(), "%+v", s)
				time.Sleep(50 * time.Microsecond)
			}
		}
	})
	appenders.Wait()
	if rng.IntN(2) == 0 {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Microsecond) // lets the consumer catch up
	}
	cancel()
	close(sampler)
	consumer.Wait()
	if files.powerOn() && rng.IntN(2) == 0 {
		files.off()
	}
	_ = d.Close() // fails where the power is gone
}

func (f *forgetful) powerOn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.dead
}

func (f *forgetful) off() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

// append appends a frame and enters what came of it.
func (w *world) append(files *forgetful, d *Disk, f Frame) {
	w.mu.Lock()
	w.size[f.Sequence] = len(f.Payload)
	delete(w.refused, f.Sequence) // after a clean end a sequence that was only refused may be given anew
	w.mu.Unlock()
	err := put(d, f)
	on := files.powerOn() // what a process is told after the power went is nothing
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.kept[f.Sequence] = true
	case on && !errors.Is(err, errDead):
		w.refused[f.Sequence] = true
	}
}

// consume takes frames and finishes most of them, some much later.
func (w *world) consume(ctx context.Context, t *testing.T, rng *rand.Rand, d *Disk, life int) {
	var held []uint64
	finish := func(sequence uint64) {
		w.mu.Lock()
		w.done[sequence] = true
		w.mu.Unlock()
		d.Done(sequence, Outcome{})
	}
	for {
		f, err := d.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			time.Sleep(100 * time.Microsecond)
			continue
		}
		if err := whole(f); err != nil {
			t.Error(err)
			return
		}
		w.delivered(t, f.Sequence, life)
		switch rng.IntN(10) {
		case 0: // never done
		case 1:
			held = append(held, f.Sequence)
		default:
			finish(f.Sequence)
		}
		if len(held) > 5 {
			for _, sequence := range held {
				finish(sequence)
			}
			held = nil
		}
	}
}

// delivered enters a delivery and checks what can be checked at once.
func (w *world) delivered(t *testing.T, sequence uint64, life int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.Contains(t, w.size, sequence, "nobody appended frame %d", sequence)
	assert.NotEqual(t, life, w.seen[sequence], "frame %d came twice in one life", sequence)
	w.seen[sequence] = life
}

// checkSequence checks that no sequence will be given twice that anybody has seen.
func (w *world) checkSequence(t *testing.T, d *Disk) {
	t.Helper()
	next := d.NextSequence()
	for sequence := range w.seen {
		assert.Less(t, sequence, next, "delivered before")
	}
	for sequence := range w.kept {
		assert.Less(t, sequence, next, "acknowledged before")
	}
}
