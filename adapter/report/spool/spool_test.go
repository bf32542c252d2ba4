package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain checks for leaked goroutines. As a child process it is the victim of TestKill or the rival of TestTwoProcesses.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDirectory); dir != "" {
		victim(dir)
		return
	}
	if dir := os.Getenv(rivalDirectory); dir != "" {
		rival(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// number returns how often a test repeats: what the environment says, or usual.
func number(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, variable)
	return n
}

// seeds calls test with as many seeds; TOLLGATE_SPOOL_SEED repeats one.
func seeds(t *testing.T, n int, test func(t *testing.T, rng *rand.Rand)) {
	t.Helper()
	first := uint64(time.Now().UnixNano())
	if text := os.Getenv("TOLLGATE_SPOOL_SEED"); text != "" {
		var err error
		first, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TOLLGATE_SPOOL_SEED=%d and the %d that follow", first, n)
	for i := range uint64(n) {
		test(t, rand.New(rand.NewPCG(first+i, 0)))
		if t.Failed() {
			t.Fatalf("repeat with TOLLGATE_SPOOL_SEED=%d", first+i)
		}
	}
}

// payload is what a frame of the sequence has to hold. Some payloads contain what looks like records.
func payload(sequence uint64, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(sequence*7 + uint64(i)*uint64(i))
	}
	if size >= 8 {
		binary.LittleEndian.PutUint64(b, sequence)
	}
	for at := 100; at+recordHeader < size && sequence%3 == 0; at += 500 {
		r := record{sequence: sequence, length: 5, payload: b[:5]}
		copy(b[at:], r.appendHeader(nil, uint32(sequence)))
	}
	return b
}

// newFrame is a frame whose content follows from its sequence.
func newFrame(sequence uint64, size int) Frame {
	return Frame{Sequence: sequence, Arrival: time.Unix(1000, int64(sequence)), Records: int(sequence%100) + 1, Payload: payload(sequence, size)}
}

// whole checks that a frame is one that newFrame made.
func whole(f Frame) error {
	want := newFrame(f.Sequence, len(f.Payload))
	switch {
	case !bytes.Equal(want.Payload, f.Payload):
		return fmt.Errorf("frame %d has another payload", f.Sequence)
	case want.Records != f.Records, !want.Arrival.Equal(f.Arrival):
		return fmt.Errorf("frame %d: %d records, arrival %s", f.Sequence, f.Records, f.Arrival)
	}
	return nil
}

// put appends a frame.
func put(q Queue, f Frame) error {
	r, err := q.Reserve(context.Background(), len(f.Payload), f.Records)
	if err != nil {
		return err
	}
	defer r.Release()
	return r.Append(f)
}

// drain hands all out that is pending and returns the sequences in order.
func drain(t *testing.T, q Queue, done bool) []uint64 {
	t.Helper()
	var sequences []uint64
	for idle := 0; ; idle++ {
		s := q.Stats()
		require.True(t, s.Balanced(), "%+v", s)
		require.Less(t, idle, 100, "pending frames do not come: %+v", s)
		if s.Pending == s.InFlight {
			return sequences
		}
		// A damaged block may end the pending ones while Next waits for more.
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		f, err := q.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, whole(f))
		idle = 0
		sequences = append(sequences, f.Sequence)
		if done {
			require.True(t, q.Done(f.Sequence, Outcome{}))
		}
	}
}

// open opens a disk queue and closes it at the end of the test.
func open(t *testing.T, dir string, o Options) *Disk {
	t.Helper()
	d, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return d
}

// manualClock is a clock that tests set.
type manualClock struct {
	mu   sync.Mutex
	now  time.Time
	mono time.Duration
}

func (c *manualClock) wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mono
}

// pass lets time pass on both clocks; step sets the time of day alone.
func (c *manualClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.mono = c.now.Add(d), c.mono+d
}

func (c *manualClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
