package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func smallSegments(files fileSystem) Options {
	return Options{MaxBytes: 1 << 20, SegmentBytes: 8 << 10, FullWait: 100 * time.Millisecond, CursorEvery: time.Millisecond, fs: files}
}

func newDisk() *forgetful { return newForgetful(rand.New(rand.NewPCG(1, 2))) }

// appendFrames appends that many frames of 1000 bytes.
func appendFrames(t *testing.T, q Queue, n int) []uint64 {
	t.Helper()
	var sequences []uint64
	for range n {
		f := newFrame(q.NextSequence(), 1000)
		require.NoError(t, put(q, f))
		sequences = append(sequences, f.Sequence)
	}
	return sequences
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, err := Open(dir, smallSegments(nil))
	require.NoError(t, err)
	id := d.ID()
	assert.NotZero(t, id)
	assert.Equal(t, uint64(1), d.NextSequence())
	sequences := appendFrames(t, d, 30)
	for range 10 {
		f, err := d.Next(t.Context())
		require.NoError(t, err)
		if f.Sequence != 3 {
			d.Done(f.Sequence, Outcome{})
		}
	}
	require.NoError(t, d.Close())

	// Those behind the one that is not done come again as far as their segment is there.
	d, err = Open(dir, smallSegments(nil))
	require.NoError(t, err)
	assert.Equal(t, id, d.ID())
	assert.Equal(t, uint64(31), d.NextSequence(), "no gap after a clean end")
	s := d.Stats()
	assert.Equal(t, uint64(28), s.Recovered.Frames, "1 and 2 are before the cursor")
	assert.Equal(t, s.Recovered, s.Pending)
	f, err := d.Next(t.Context())
	require.NoError(t, err)
	assert.True(t, f.Recovered)
	assert.Equal(t, uint64(3), f.Sequence)
	d.Done(3, Outcome{})
	assert.Equal(t, sequences[3:], drain(t, d, true))
	require.NoError(t, d.Close())
	names, err := (osFS{}).List(dir)
	require.NoError(t, err)
	slices.Sort(names)
	assert.Equal(t, []string{"lock", "state"}, names, "what is done leaves the disk")

	d, err = Open(dir, smallSegments(nil))
	require.NoError(t, err)
	assert.Equal(t, uint64(31), d.NextSequence(), "though nothing is there any more")
	assert.Zero(t, d.Stats().Recovered)
	require.NoError(t, d.Close())
}

// A segment whose frames are all done goes, even behind one that waits for a straggler.
func TestSegmentsGoEarly(t *testing.T) {
	d := open(t, t.TempDir(), smallSegments(nil))
	appendFrames(t, d, 100)
	straggler, err := d.Next(t.Context())
	require.NoError(t, err)
	drain(t, d, true)
	segments := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.segments)
	}
	require.Eventually(t, func() bool { return segments() == 2 }, 30*time.Second, time.Millisecond)
	appendFrames(t, d, 3)
	d.Done(straggler.Sequence, Outcome{})
	require.Eventually(t, func() bool { return segments() == 1 }, 30*time.Second, time.Millisecond)
}

// The cursor on disk lags by CursorEvery at most, so that duplicates after a crash are bounded.
func TestCursorIsWritten(t *testing.T) {
	files := newDisk()
	o := smallSegments(files)
	o.CursorEvery = 10 * time.Millisecond
	d, err := Open("spool", o)
	require.NoError(t, err)
	appendFrames(t, d, 5)
	drain(t, d, true)
	awaitCursor(t, d)
	after := files.powerLoss()
	_ = d.Close()
	d, err = Open("spool", smallSegments(after))
	require.NoError(t, err)
	assert.Zero(t, d.Stats().Recovered)
	assert.Greater(t, d.NextSequence(), uint64(sequenceGap))
	require.NoError(t, d.Close())
}

// awaitCursor waits until the state file has the newest cursor.
func awaitCursor(t *testing.T, d *Disk) {
	t.Helper()
	require.Eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !d.moved && d.keeper.state.cursor == d.cursor()
	}, 30*time.Second, time.Millisecond)
}

// spoolOf makes a directory with n frames in closed segments and returns its files.
func spoolOf(t *testing.T, n int) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	d, err := Open(dir, smallSegments(nil))
	require.NoError(t, err)
	for range n {
		require.NoError(t, put(d, newFrame(d.NextSequence(), 90)))
	}
	require.NoError(t, d.Close())
	return readFiles(t, dir)
}

func readFiles(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = b
	}
	return files
}

// disk puts files on a new disk.
func disk(files map[string][]byte) *forgetful {
	f := newDisk()
	for name, b := range files {
		n := &inode{live: slices.Clone(b), durable: slices.Clone(b)}
		f.live[filepath.Join("spool", name)], f.durable[filepath.Join("spool", name)] = n, n
	}
	return f
}

func firstSegment(files map[string][]byte) string {
	var names []string
	for name := range files {
		if strings.HasSuffix(name, segmentSuffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[0]
}

// One flipped bit, wherever it is, costs one frame and hides no other; it never makes a wrong one.
func TestEveryBitFlip(t *testing.T) {
	const n = 8
	files := spoolOf(t, n)
	name := firstSegment(files)
	clean := files[name]
	for at := range clean {
		for _, bit := range []byte{1, 0x80} {
			files[name] = slices.Clone(clean)
			files[name][at] ^= bit
			d, err := Open("spool", smallSegments(disk(files)))
			require.NoError(t, err, "byte %d", at)
			hit := uint64(0) // the frame in which the byte is
			if at >= headerBytes {
				hit = uint64((at-headerBytes)/(recordHeader+90)) + 1
			}
			var want []uint64
			for sequence := range uint64(n) {
				if sequence+1 != hit {
					want = append(want, sequence+1)
				}
			}
			s := d.Stats()
			assert.Equal(t, want, drain(t, d, true), "byte %d", at)
			if hit > 0 {
				assert.Equal(t, Damage{Regions: 1, Bytes: recordHeader + 90}, s.Damage, "byte %d", at)
				assert.Equal(t, uint64(n-1), s.Recovered.Frames)
			}
			assert.Equal(t, uint64(n+1), d.NextSequence(), "the state knows it still")
			require.NoError(t, d.Close())
			if t.Failed() {
				return
			}
		}
	}
}

// The same where the bit flips after recovery counted the frame, and where the disk cuts, zeroes or garbles more.
func TestDamageWhileOpen(t *testing.T) {
	files := spoolOf(t, 20)
	name := firstSegment(files)
	seeds(t, 300, func(t *testing.T, rng *rand.Rand) {
		content := disk(files)
		d, err := Open("spool", smallSegments(content))
		require.NoError(t, err)
		content.mu.Lock()
		b := content.live[filepath.Join("spool", name)]
		from := headerBytes + rng.IntN(len(b.live)-headerBytes)
		to := min(from+1+rng.IntN(400), len(b.live))
		switch rng.IntN(3) {
		case 0:
			clear(b.live[from:to])
		case 1:
			b.live[from] ^= 1 << rng.IntN(8)
		case 2:
			for i := range b.live[from:to] {
				b.live[from+i] = byte(rng.Uint32())
			}
		}
		content.mu.Unlock()
		came := drain(t, d, true)
		s := d.Stats()
		assert.Equal(t, uint64(20), s.Recovered.Frames)
		assert.Equal(t, uint64(20-len(came)), s.Dropped[Damaged].Frames)
		assert.GreaterOrEqual(t, len(came), 15)
		assert.Equal(t, s.Dropped[Damaged].Frames > 0, s.Damage.Regions > 0)
		assert.True(t, s.Balanced())
		assert.Zero(t, s.Pending)
		require.NoError(t, d.Close())
	})
}

// A bit that flips in the state file costs nothing but duplicates; the other slot is whole.
func TestStateBitFlips(t *testing.T) {
	files := spoolOf(t, 5)
	clean := files["state"]
	for at := range clean {
		if at%slotBytes >= stateBytes {
			continue
		}
		files["state"] = slices.Clone(clean)
		files["state"][at] ^= 4
		d, err := Open("spool", smallSegments(disk(files)))
		require.NoError(t, err, "byte %d", at)
		assert.Equal(t, []uint64{1, 2, 3, 4, 5}, drain(t, d, true))
		assert.Greater(t, d.NextSequence(), uint64(5))
		require.NoError(t, d.Close())
	}
}

func TestStateLost(t *testing.T) {
	files := spoolOf(t, 5)
	name := firstSegment(files)
	for _, b := range [][]byte{nil, {}, make([]byte, slots*slotBytes)} {
		files["state"] = b
		if b == nil {
			delete(files, "state")
		}
		content := disk(files)
		d, err := Open("spool", smallSegments(content))
		require.NoError(t, err)
		header, err := parseSegmentHeader(files[name][:headerBytes])
		require.NoError(t, err)
		assert.Equal(t, header.id, d.ID(), "the segments know the id")
		assert.Equal(t, []uint64{1, 2, 3, 4, 5}, drain(t, d, true))
		assert.Greater(t, d.NextSequence(), uint64(5))
		require.NoError(t, d.Close())

		// Without any id nothing can be told from garbage, and nothing is thrown away.
		files[name] = slices.Clone(files[name])
		files[name][20] ^= 1
		content = disk(files)
		_, err = Open("spool", smallSegments(content))
		assert.Equal(t, Corrupt, class(t, err))
		assert.Equal(t, files[name], content.content(filepath.Join("spool", name)))
		files[name][20] ^= 1
	}
}

func TestForeignAndFutureFiles(t *testing.T) {
	files, other := spoolOf(t, 5), spoolOf(t, 5)
	name := firstSegment(files)
	second := segmentName(99)
	future := func(b []byte) []byte {
		b = slices.Clone(b)
		binary.LittleEndian.PutUint32(b[8:], formatVersion+1)
		binary.LittleEndian.PutUint32(b[12:], headerChecksum(b))
		return b
	}
	for text, change := range map[string]func(files map[string][]byte){
		"and the directory of": func(f map[string][]byte) { f[name] = other[name] },
		"under another name":   func(f map[string][]byte) { f[second] = f[name] },
		"newer version":        func(f map[string][]byte) { f[name] = append(future(f[name][:headerBytes]), f[name][headerBytes:]...) },
		"state: corrupt: the format is of a newer version": func(f map[string][]byte) {
			f["state"] = slices.Concat(future(f["state"][:stateBytes]), f["state"][stateBytes:slotBytes], future(f["state"][slotBytes:][:stateBytes]))
		},
	} {
		changed := map[string][]byte{"notes.txt": []byte("not ours"), "x.seg": []byte("nor this")}
		maps.Copy(changed, files)
		content := disk(changed)
		d, err := Open("spool", smallSegments(content))
		require.NoError(t, err, "strange names are left alone")
		require.NoError(t, d.Close())
		change(changed)
		content = disk(changed)
		_, err = Open("spool", smallSegments(content))
		assert.Equal(t, Corrupt, class(t, err))
		require.ErrorContains(t, err, text)
		for k, v := range changed {
			assert.Equal(t, v, content.content(filepath.Join("spool", k)), "nothing is changed or thrown away")
		}
		assert.False(t, content.locked)
	}
}

// A torn end is cut; the same bytes after a clean end are damage.
func TestTornEnd(t *testing.T) {
	for _, clean := range []bool{true, false} {
		for cut := 1; cut < 200; cut++ {
			content := newDisk()
			d, err := Open("spool", smallSegments(content))
			require.NoError(t, err)
			for range 5 {
				require.NoError(t, put(d, newFrame(d.NextSequence(), 90)))
			}
			if !clean {
				content.off()
				require.Error(t, d.Close())
				content = content.killed()
			} else {
				require.NoError(t, d.Close())
			}
			n := content.live[filepath.Join("spool", segmentName(1))]
			n.live = n.live[:len(n.live)-cut]
			left := len(n.live)
			frames := (left - headerBytes) / (recordHeader + 90)
			rest := uint64((left - headerBytes) % (recordHeader + 90))
			d, err = Open("spool", smallSegments(content))
			require.NoError(t, err)
			s := d.Stats()
			assert.Equal(t, uint64(frames), s.Recovered.Frames)
			if clean {
				assert.Equal(t, rest, s.Damage.Bytes)
				assert.Len(t, n.live, left)
			} else {
				assert.Equal(t, Damage{Torn: rest}, s.Damage)
				assert.Len(t, n.live, left-int(rest))
			}
			assert.Len(t, drain(t, d, true), frames)
			require.NoError(t, d.Close())
		}
	}
}

// After a failed write or sync the segment is cut and never written again, what was in it is refused and does not come,
// neither in this life nor in the next.
// Groups of many are TestPowerLossWithFaults'.
func TestFailedGroup(t *testing.T) {
	for _, op := range []string{"write", "sync", "create", "syncdir"} {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS, errShort} {
			if errors.Is(cause, errShort) && op != "write" {
				continue
			}
			content, clock := newDisk(), &manualClock{now: time.Unix(1e9, 0)}
			o := smallSegments(content)
			o.clock = clock
			d, err := Open("spool", o)
			require.NoError(t, err)
			kept := appendFrames(t, d, 3)
			if op == "create" || op == "syncdir" {
				for d.committerFile() {
					kept = append(kept, appendFrames(t, d, 1)...)
				}
			}
			failing := true
			var written []string
			content.mu.Lock()
			content.fault = func(o, name string) error {
				if o == "write" && strings.HasSuffix(name, segmentSuffix) && !failing {
					written = append(written, name)
				}
				if failing && o == op && (op == "syncdir" || strings.HasSuffix(name, segmentSuffix)) {
					failing = false
					return cause
				}
				return nil
			}
			content.mu.Unlock()
			refused := d.NextSequence()
			want := map[error]Class{syscall.ENOSPC: DiskFull, syscall.EIO: IO, syscall.EROFS: ReadOnly, errShort: IO}[cause]
			assert.Equal(t, want, class(t, put(d, newFrame(refused, 1000))), "%s %s", op, cause)
			_, err = d.Reserve(t.Context(), 10, 1)
			assert.Equal(t, want, class(t, err), "for a moment the disk is left alone")
			require.Error(t, d.Stats().Fault)
			clock.pass(afterFailure)
			kept = append(kept, refused+10)
			require.NoError(t, put(d, newFrame(refused+10, 1000)))
			require.NoError(t, d.Stats().Fault)
			content.mu.Lock()
			for _, name := range written {
				assert.NotEqual(t, segmentName(1), name, "a segment is not written again after it failed")
			}
			content.mu.Unlock()
			assert.Equal(t, kept, drain(t, d, false), "%s %s", op, cause)
			after := content.powerLoss()
			require.Error(t, d.Close())
			d, err = Open("spool", smallSegments(after))
			require.NoError(t, err)
			assert.Equal(t, kept, drain(t, d, true), "%s %s", op, cause)
			s := d.Stats()
			assert.Zero(t, s.Damage.Regions)
			require.NoError(t, d.Close())
		}
	}
}

// committerFile reports whether the next small frame goes to the segment that is open.
func (d *Disk) committerFile() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.segments[len(d.segments)-1].end+1000+recordHeader <= d.opts.SegmentBytes
}

// A fault ends when the disk works again, though nobody appends.
func TestFaultEnds(t *testing.T) {
	content := newDisk()
	d, err := Open("spool", smallSegments(content))
	require.NoError(t, err)
	kept := appendFrames(t, d, 1)
	content.mu.Lock()
	content.fault = func(op, _ string) error {
		if op == "write" || op == "truncate" || op == "create" {
			return syscall.EROFS
		}
		return nil
	}
	content.mu.Unlock()
	require.Equal(t, ReadOnly, class(t, put(d, newFrame(d.NextSequence(), 1000))))
	time.Sleep(tryAgain + 200*time.Millisecond)
	require.Error(t, d.Stats().Fault)
	content.mu.Lock()
	content.fault = nil
	content.mu.Unlock()
	require.Eventually(t, func() bool { return d.Stats().Fault == nil }, 30*time.Second, 10*time.Millisecond)
	s := d.Stats()
	assert.Equal(t, uint64(1), s.Refused[ReadOnly].Frames, "trying counts nothing")
	kept = append(kept, appendFrames(t, d, 1)...)
	assert.Equal(t, kept, drain(t, d, true))
	require.NoError(t, d.Close())
}

// Where a failed write cannot even be taken back, nothing more is accepted until it was; then it is as if it had never been.
func TestCutLater(t *testing.T) {
	content, clock := newDisk(), &manualClock{now: time.Unix(1e9, 0)}
	o := smallSegments(content)
	o.clock = clock // by which nobody but this test tries the disk
	d, err := Open("spool", o)
	require.NoError(t, err)
	kept := appendFrames(t, d, 3)
	broken := true
	content.mu.Lock()
	content.fault = func(op, name string) error {
		if broken && (op == "sync" || op == "truncate") && strings.HasSuffix(name, segmentSuffix) {
			return syscall.EIO
		}
		return nil
	}
	content.mu.Unlock()
	for range 3 {
		assert.Equal(t, IO, class(t, put(d, newFrame(d.NextSequence(), 1000))))
		clock.pass(afterFailure)
	}
	assert.Len(t, content.content(filepath.Join("spool", segmentName(1))), headerBytes+4*(recordHeader+1000), "one refused frame is there")
	assert.Equal(t, kept, drain(t, d, false), "and is not delivered")
	content.mu.Lock()
	broken = false
	content.mu.Unlock()
	kept = append(kept, appendFrames(t, d, 1)...)
	after := content.powerLoss()
	require.Error(t, d.Close())
	d, err = Open("spool", smallSegments(after))
	require.NoError(t, err)
	assert.Equal(t, kept, drain(t, d, true))
	require.NoError(t, d.Close())
}

// Nothing is accepted elsewhere while refused frames could come back, until nothing in their segment is pending and it goes.
func TestCutNever(t *testing.T) {
	content := newDisk()
	d, err := Open("spool", smallSegments(content))
	require.NoError(t, err)
	kept := appendFrames(t, d, 3)
	failing := true
	content.mu.Lock()
	content.fault = func(op, name string) error {
		if op == "truncate" && name == segmentName(1) || op == "sync" && failing {
			return syscall.EIO
		}
		return nil
	}
	content.mu.Unlock()
	require.Equal(t, IO, class(t, put(d, newFrame(d.NextSequence(), 1000))))
	content.mu.Lock()
	failing = false
	content.mu.Unlock()
	time.Sleep(afterFailure + 10*time.Millisecond)
	err = put(d, newFrame(d.NextSequence(), 1000))
	require.Equal(t, IO, class(t, err))
	require.ErrorContains(t, err, segmentName(1)+": io: cut back after a failed write")
	assert.Equal(t, kept, drain(t, d, true))
	require.Eventually(t, func() bool { return d.Stats().Fault == nil }, 30*time.Second, 10*time.Millisecond)
	kept = appendFrames(t, d, 1)
	assert.Equal(t, kept, drain(t, d, true))
	require.NoError(t, d.Close())
}

// A block that cannot be read is tried for a while, and then its frames are given up and the rest comes.
func TestUnreadable(t *testing.T) {
	clock := &manualClock{now: time.Unix(1e9, 0)}
	content := newDisk()
	o := smallSegments(content)
	o.clock = clock
	d, err := Open("spool", o)
	require.NoError(t, err)
	sequences := appendFrames(t, d, 30)
	content.mu.Lock()
	content.fault = func(op, name string) error {
		if op == "read" && name == segmentName(1) {
			return syscall.EIO
		}
		return nil
	}
	content.mu.Unlock()
	for range 5 {
		_, err = d.Next(t.Context())
		require.Equal(t, IO, class(t, err))
		require.ErrorContains(t, err, segmentName(1))
		clock.pass(10 * time.Second)
	}
	assert.Equal(t, uint64(30), d.Stats().Pending.Frames, "nothing is lost by trying")
	clock.pass(20 * time.Second)
	came := drain(t, d, true)
	assert.Equal(t, sequences[7:], came)
	s := d.Stats()
	assert.Equal(t, uint64(7), s.Dropped[Damaged].Frames)
	assert.Equal(t, uint64(1), s.Damage.Regions)
	require.NoError(t, d.Close())
}

// What says nothing about a file costs no frame, however long it lasts: it can still be read afterwards.
func TestUnreachable(t *testing.T) {
	clock := &manualClock{now: time.Unix(1e9, 0)}
	wait := func(t *testing.T, d *Disk, of Class) {
		t.Helper()
		for range 5 {
			_, err := d.Next(t.Context())
			require.Equal(t, of, class(t, err), err)
			clock.pass(time.Minute)
		}
		assert.Equal(t, uint64(30), d.Stats().Pending.Frames)
	}
	for name, c := range map[string]struct {
		err error
		is  Class
	}{"no more files": {syscall.EMFILE, IO}, "not allowed": {fs.ErrPermission, ReadOnly}} {
		t.Run(name, func(t *testing.T) {
			content := newDisk()
			o := smallSegments(content)
			o.clock = clock
			d := open(t, "spool", o)
			sequences := appendFrames(t, d, 30)
			fail := func(fault func(op, name string) error) {
				content.mu.Lock()
				defer content.mu.Unlock()
				content.fault = fault
			}
			fail(func(op, name string) error {
				if op == "open" && name == segmentName(1) {
					return c.err
				}
				return nil
			})
			wait(t, d, c.is)
			fail(nil)
			assert.Equal(t, sequences, drain(t, d, true))
		})
	}
	t.Run("directory moved", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		d := open(t, dir, Options{MaxBytes: minQueueBytes, SegmentBytes: minSegmentBytes, clock: clock})
		sequences := appendFrames(t, d, 30)
		require.NoError(t, os.Rename(dir, dir+".away"))
		wait(t, d, IO)
		require.NoError(t, os.Mkdir(dir, 0o700)) // as under a volume
		wait(t, d, IO)
		require.NoError(t, os.Remove(dir))
		require.NoError(t, os.Rename(dir+".away", dir))
		assert.Equal(t, sequences, drain(t, d, true))
	})
	t.Run("segment gone", func(t *testing.T) { // which says all
		dir := t.TempDir()
		d := open(t, dir, Options{MaxBytes: minQueueBytes, SegmentBytes: minSegmentBytes, clock: clock})
		sequences := appendFrames(t, d, 30)
		require.NoError(t, os.Remove(filepath.Join(dir, segmentName(1))))
		_, err := d.Next(t.Context())
		require.Equal(t, IO, class(t, err))
		clock.pass(time.Minute)
		came := drain(t, d, true)
		s := d.Stats()
		assert.Equal(t, sequences[30-len(came):], came)
		assert.EqualValues(t, 30-len(came), s.Dropped[Damaged].Frames)
		assert.Positive(t, s.Dropped[Damaged].Frames)
	})
}

// A state file that cannot be written shows as a fault, costs duplicates and keeps segments that have to stay; then all heals.
func TestStateCannotBeWritten(t *testing.T) {
	content := newDisk()
	d, err := Open("spool", smallSegments(content))
	require.NoError(t, err)
	broken := true
	content.mu.Lock()
	content.fault = func(_, name string) error {
		if broken && name == "state" {
			return syscall.EIO
		}
		return nil
	}
	content.mu.Unlock()
	appendFrames(t, d, 20)
	drain(t, d, true)
	require.Eventually(t, func() bool { return d.Stats().Fault != nil }, 30*time.Second, time.Millisecond)
	require.ErrorContains(t, d.Stats().Fault, "state")
	content.mu.Lock()
	broken = false
	content.mu.Unlock()
	require.Eventually(t, func() bool { return d.Stats().Fault == nil }, 30*time.Second, time.Millisecond)
	require.NoError(t, d.Close())
	assert.Len(t, content.live, 1, "the state")
}

// A fault that is not tried again yet is still there, whatever else the keeper is woken for.
func TestStateFaultStays(t *testing.T) {
	content, clock := newDisk(), &manualClock{now: time.Unix(1e9, 0)}
	o := smallSegments(content)
	o.clock = clock
	d, err := prepare("spool", o) // the keeper looks when the test says so
	require.NoError(t, err)
	go d.committer.run()
	appendFrames(t, d, 20)
	drain(t, d, true)
	fail := func(err error) {
		content.mu.Lock()
		defer content.mu.Unlock()
		content.fault = func(_, name string) error {
			if name == "state" {
				return err
			}
			return nil
		}
	}
	fail(syscall.EIO)
	for range 3 {
		d.keeper.tend(false)
		require.ErrorContains(t, d.Stats().Fault, "state")
	}
	fail(nil)
	d.keeper.tend(false)
	require.Error(t, d.Stats().Fault, "nobody has tried")
	clock.pass(o.CursorEvery)
	d.keeper.tend(false)
	require.NoError(t, d.Stats().Fault)
	go d.keeper.run()
	require.NoError(t, d.Close())
}

// slowState is a file system on which syncing the state takes as long as somebody has the mutex.
type slowState struct {
	*forgetful

	slow *sync.Mutex
}

type slowFile struct {
	file

	slow *sync.Mutex
}

func (s slowState) Open(name string, writable bool) (file, error) {
	f, err := s.forgetful.Open(name, writable)
	return slowFile{f, s.slow}, err
}

func (f slowFile) Sync() error {
	f.slow.Lock()
	defer f.slow.Unlock()
	return f.file.Sync()
}

// What makes room for newer frames does not wait until the keeper has written the state.
func TestDropOldestDoesNotWait(t *testing.T) {
	content := newDisk()
	d, err := Open("spool", smallSegments(content)) // makes the state file
	require.NoError(t, err)
	require.NoError(t, d.Close())
	var slow sync.Mutex
	o := smallSegments(slowState{content, &slow})
	o.Full, o.FullWait, o.MaxBytes = DropOldest, time.Minute, 64<<10
	d, err = Open("spool", o)
	require.NoError(t, err)
	slow.Lock()
	appendFrames(t, d, 500)
	slow.Unlock()
	s := d.Stats()
	assert.Zero(t, s.Refused)
	assert.LessOrEqual(t, s.Room, o.MaxBytes)
	require.NoError(t, d.Close())
}

// The newest segment stays until the state knows its number, so that it is not given again.
func TestNewestSegmentStays(t *testing.T) {
	content := newDisk()
	d, err := Open("spool", smallSegments(content))
	require.NoError(t, err)
	content.mu.Lock()
	content.fault = func(_, name string) error {
		if name == "state" {
			return syscall.EIO
		}
		return nil
	}
	content.mu.Unlock()
	appendFrames(t, d, 20)
	drain(t, d, true)
	require.Error(t, d.Close())
	assert.Contains(t, content.live, filepath.Join("spool", segmentName(d.next-1)))
	assert.Len(t, content.live, 2, "the others need not stay")
	content.fault = nil
	next := d.NextSequence()
	d, err = Open("spool", smallSegments(content))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, d.NextSequence(), next)
	drain(t, d, true)
	require.NoError(t, d.Close())
}

// small mounts a small tmpfs, which takes root; without it the tests with injected faults are all there is.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if runtime.GOOS == "linux" && os.Getuid() == 0 {
		out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput()
		if err == nil {
			t.Cleanup(func() { assert.NoError(t, exec.Command("umount", dir).Run()) })
			return dir
		}
		t.Logf("mount: %s", out)
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("cannot mount a tmpfs")
	}
	t.Skip("cannot mount a tmpfs; TestFailedGroup has the same with an injected fault")
	return ""
}

// A real full disk: a clear error, nothing that was acknowledged is lost, and it heals when space returns.
func TestFullDisk(t *testing.T) {
	dir := small(t, "1m")
	stuffing := filepath.Join(dir, "stuffing")
	require.NoError(t, os.WriteFile(stuffing, make([]byte, 500<<10), 0o600))
	spool := filepath.Join(dir, "spool")
	clock := &manualClock{now: time.Unix(1e9, 0)}
	o := Options{MaxBytes: 16 << 20, SegmentBytes: 64 << 10, clock: clock} // by which a fault lasts until this test says so
	d, err := Open(spool, o)
	require.NoError(t, err)
	var mu sync.Mutex
	var kept []uint64
	var full int
	load := func() {
		var appenders sync.WaitGroup
		first := d.NextSequence()
		for a := range uint64(8) {
			appenders.Go(func() {
				for i := range uint64(40) {
					f := newFrame(first+a*40+i, 5000)
					err := put(d, f)
					mu.Lock()
					if err == nil {
						kept = append(kept, f.Sequence)
					} else {
						assert.Equal(t, DiskFull, class(t, err))
						assert.Contains(t, err.Error(), "no space left on device; free space on the volume")
						full++
					}
					mu.Unlock()
				}
			})
		}
		appenders.Wait()
	}
	load()
	assert.Positive(t, full)
	assert.Greater(t, len(kept), 50)
	require.Error(t, d.Stats().Fault)
	assert.Equal(t, uint64(full), d.Stats().Refused[DiskFull].Frames)

	// Also by a restart on the full disk, though that alone makes no room.
	require.NoError(t, d.Close())
	d, err = Open(spool, o)
	require.NoError(t, err)
	assert.Equal(t, uint64(len(kept)), d.Stats().Recovered.Frames)
	before := len(kept)
	load()

	require.NoError(t, os.Remove(stuffing))
	clock.pass(afterFailure)
	load()
	assert.Greater(t, len(kept), before+50, "it heals by itself")
	// And delivery makes room, too.
	came := drain(t, d, true)
	require.Eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.used <= 2*o.SegmentBytes
	}, 30*time.Second, time.Millisecond)
	clock.pass(afterFailure)
	before = len(kept)
	load()
	assert.Greater(t, len(kept), before+50)
	came = append(came, drain(t, d, true)...)
	slices.Sort(came)
	slices.Sort(kept)
	assert.Equal(t, kept, came)
	assert.True(t, balanced(d))
	require.NoError(t, d.Close())
}

// A disk that becomes read-only.
func TestReadOnlyDisk(t *testing.T) {
	dir := small(t, "4m")
	remount := func(how string) {
		out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	spool := filepath.Join(dir, "spool")
	d, err := Open(spool, Options{MaxBytes: 1 << 20})
	require.NoError(t, err)
	kept := appendFrames(t, d, 10)
	require.NoError(t, d.Close())
	remount("ro")
	_, err = Open(spool, Options{MaxBytes: 1 << 20})
	assert.Equal(t, ReadOnly, class(t, err))
	require.ErrorContains(t, err, "make the directory writable")
	_, err = Open(filepath.Join(dir, "other"), Options{})
	assert.Equal(t, ReadOnly, class(t, err))
	found, err := Inspect(spool, func(f Frame, _ bool) error { return whole(f) })
	require.NoError(t, err)
	assert.Equal(t, uint64(10), found.Pending.Frames)
	remount("rw")
	d, err = Open(spool, Options{MaxBytes: 1 << 20})
	require.NoError(t, err)
	assert.Equal(t, kept, drain(t, d, true))
	require.NoError(t, d.Close())
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	_, err := Inspect(filepath.Join(dir, "none"), nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	d, err := Open(dir, smallSegments(nil))
	require.NoError(t, err)
	sequences := appendFrames(t, d, 30)
	for range 3 {
		f, err := d.Next(t.Context())
		require.NoError(t, err)
		d.Done(f.Sequence, Outcome{})
	}
	awaitCursor(t, d)
	var all []uint64
	var payloads [][]byte
	found, err := Inspect(dir, func(f Frame, done bool) error { // of a queue in use
		all = append(all, f.Sequence)
		payloads = append(payloads, f.Payload)
		assert.Equal(t, f.Sequence <= 3, done)
		return whole(f)
	})
	require.NoError(t, err)
	assert.Equal(t, sequences, all)
	for i, p := range payloads {
		assert.True(t, bytes.Equal(payload(sequences[i], 1000), p), "a payload belongs to who got it")
	}
	assert.Equal(t, d.ID(), found.ID)
	assert.Equal(t, uint64(3), found.Done.Frames)
	assert.Equal(t, uint64(27), found.Pending.Frames)
	assert.Zero(t, found.Damage)
	assert.WithinDuration(t, time.Now(), found.Written, time.Minute)
	require.NoError(t, d.Close())

	stop := errors.New("enough")
	_, err = Inspect(dir, func(Frame, bool) error { return stop })
	require.ErrorIs(t, err, stop)
	name := filepath.Join(dir, segmentName(2))
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	b[500] ^= 1
	require.NoError(t, os.WriteFile(name, b, 0o600))
	before := readFiles(t, dir)
	found, err = Inspect(dir, func(Frame, bool) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, Damage{Regions: 1, Bytes: recordHeader + 1000}, found.Damage)
	assert.Equal(t, before, readFiles(t, dir), "nothing is changed")
}

// A failing open leaves nothing behind that stands in the way of the next.
func TestOpenFails(t *testing.T) {
	files := spoolOf(t, 100)
	for i := 1; ; i++ {
		content := disk(files)
		calls := 0
		content.fault = func(string, string) error {
			if calls++; calls == i {
				return syscall.EIO
			}
			return nil
		}
		d, err := Open("spool", smallSegments(content))
		content.mu.Lock()
		content.fault = nil
		content.mu.Unlock()
		if err == nil {
			require.NoError(t, d.Close())
			assert.Greater(t, i, 10)
			return
		}
		assert.Equal(t, IO, class(t, err))
		d, err = Open("spool", smallSegments(content))
		require.NoError(t, err, "after call %d failed", i)
		assert.Len(t, drain(t, d, true), 100)
		require.NoError(t, d.Close())
	}
}

// The memory of a long queue does not grow with its frames.
func TestLongQueueInLittleMemory(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{Sync: SyncOS})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const frames = 200_000
	r := make([]*Reservation, 100)
	for i := range uint64(frames / 100) {
		for j := range r {
			var err error
			r[j], err = d.Reserve(t.Context(), 100, 1)
			require.NoError(t, err)
			r[j].Start(Frame{Sequence: i*100 + uint64(j), Records: 1, Payload: make([]byte, 100)})
		}
		for j := range r {
			require.NoError(t, r[j].Wait())
		}
	}
	clear(r)
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	assert.Less(t, grown, int64(2<<20), "%d frames", frames)
	t.Logf("%d frames, %d bytes on the disk, %d bytes of memory", frames, d.Stats().Room, grown)
}
