package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var fuzzID = ID{1, 2, 3}

// segmentOf builds a segment with number 1 of the queue fuzzID.
func segmentOf(frames ...Frame) []byte {
	h := segmentHeader{id: fuzzID, number: 1, sequence: 1}
	b := h.append(nil)
	seed := segmentSeed(fuzzID, 1)
	for _, f := range frames {
		r := record{
			offset: int64(len(b)), length: uint32(len(f.Payload)), records: uint32(f.Records), sequence: f.Sequence,
			arrival: nanoseconds(f.Arrival), stamp: int64(f.Sequence), payload: f.Payload,
		}
		b = append(r.appendHeader(b, seed), f.Payload...)
	}
	return b
}

// Arbitrary bytes as a segment: nothing panics, memory stays in proportion to the file, no record comes whose checksums do not
// fit, by a reading of the format that shares no code with the package's, and the accounts agree.
func FuzzSegment(f *testing.F) {
	several := segmentOf(newFrame(1, 0), newFrame(2, 10), newFrame(3, 700), newFrame(4, 3))
	f.Add([]byte{})
	f.Add(several)
	f.Add(several[:len(several)-1])
	f.Add(several[:headerBytes+20])
	f.Add(append(bytes.Clone(several), make([]byte, 100)...))
	f.Add(bytes.Repeat([]byte(recordMarker), 500))
	f.Add(append(bytes.Clone(several[:headerBytes]), several...))
	for _, at := range []int{0, 9, 20, 34, headerBytes, headerBytes + 5, headerBytes + 12, headerBytes + recordHeader + 3, len(several) - 1} {
		flipped := bytes.Clone(several)
		flipped[at] ^= 0x10
		f.Add(flipped)
	}
	long := segmentOf(Frame{Sequence: 1, Payload: []byte("x")})
	binary.LittleEndian.PutUint32(long[headerBytes+12:], 1<<31)
	f.Add(long)
	// A record whose payload holds a whole segment.
	f.Add(segmentOf(Frame{Sequence: 9, Records: 2, Payload: several}, newFrame(10, 5)))

	f.Fuzz(func(t *testing.T, content []byte) {
		intact := referenceScan(content)
		files := disk(map[string][]byte{segmentName(1): content, "state": fuzzState()})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d, err := prepare("spool", smallSegments(files)) // without goroutines, whose chances would look like coverage
		if err != nil {
			class(t, err)
			return
		}
		s := d.Stats()
		var got []Frame
		for range s.Pending.Frames {
			frame, err := d.Next(t.Context())
			require.NoError(t, err)
			got = append(got, frame)
		}
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(20*len(content)+2<<20))
		var want uint64
		for _, frame := range got {
			require.Contains(t, intact, key(frame))
			want++
		}
		assert.Len(t, intact, int(want), "no intact record is missed")
		s = d.Stats()
		assert.True(t, s.Balanced())
		assert.Equal(t, uint64(len(content)), uint64(min(len(content), headerBytes))+s.Recovered.Bytes+s.Recovered.Frames*recordHeader+s.Damage.Bytes+s.Damage.Torn,
			"every byte is accounted for")
	})
}

func fuzzState() []byte {
	s := state{generation: 1, id: fuzzID, next: 1, sequence: 1}
	b := make([]byte, slots*slotBytes)
	copy(b[slotBytes:], s.append(nil))
	return b
}

type frameKey struct {
	sequence uint64
	arrival  int64
	records  int
	payload  string
}

func key(f Frame) frameKey {
	return frameKey{f.Sequence, f.Arrival.UnixNano(), f.Records, string(f.Payload)}
}

// referenceScan finds the records in a segment by trying every offset, in the way the format is documented.
func referenceScan(b []byte) map[frameKey]bool {
	found := map[frameKey]bool{}
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := headerBytes; at+48 <= len(b); {
		where := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(bytes.Clone(fuzzID[:]), 1), uint64(at))
		h := b[at : at+48]
		length := int(binary.LittleEndian.Uint32(h[12:]))
		if string(h[:4]) != "\xfeTG\xfd" || crc32.Checksum(append(bytes.Clone(where), h[8:]...), table) != binary.LittleEndian.Uint32(h[4:]) ||
			length > len(b)-at-48 {
			at++
			continue
		}
		payload := b[at+48 : at+48+length]
		if crc32.Checksum(append(where, payload...), table) == binary.LittleEndian.Uint32(h[8:]) {
			found[frameKey{
				binary.LittleEndian.Uint64(h[24:]), int64(binary.LittleEndian.Uint64(h[32:])), int(binary.LittleEndian.Uint32(h[16:])), string(payload),
			}] = true
		}
		at += 48 + length
	}
	return found
}

// A record is valid in one place only.
func TestRecordsAreBoundToTheirPlace(t *testing.T) {
	b := segmentOf(newFrame(1, 100), newFrame(2, 100))
	count := func(id ID, number uint64, b []byte) int {
		n := 0
		_, _, err := scan(&window{source: bytes.NewReader(b), end: int64(len(b))}, segmentSeed(id, number), headerBytes, func(*record) error {
			n++
			return nil
		})
		require.NoError(t, err)
		return n
	}
	assert.Equal(t, 2, count(fuzzID, 1, b))
	assert.Zero(t, count(fuzzID, 2, b), "not in another segment")
	assert.Zero(t, count(ID{}, 1, b), "not in another queue")
	assert.Zero(t, count(fuzzID, 1, append(make([]byte, 10), b...)), "not at another offset")
	assert.Equal(t, 1, count(fuzzID, 1, append(bytes.Clone(b[:headerBytes+recordHeader+100]), b[headerBytes:headerBytes+recordHeader+100]...)), "not twice")
}

// Markers and records lie across the ends of what is read at once.
func TestScanWindows(t *testing.T) {
	for _, garbage := range []int{scanBytes - 60, scanBytes - 50, scanBytes - 49, scanBytes - 48, scanBytes - 47, scanBytes - 3, scanBytes - 1, scanBytes, 3 * scanBytes} {
		b := segmentOf(newFrame(1, 10), Frame{Sequence: 2, Payload: make([]byte, garbage)}, newFrame(3, 2*scanBytes), newFrame(4, 10))
		b[headerBytes+recordHeader+10] ^= 1
		var got []uint64
		last, damage, err := scan(&window{source: bytes.NewReader(b), end: int64(len(b))}, segmentSeed(fuzzID, 1), headerBytes, func(r *record) error {
			got = append(got, r.sequence)
			return whole(r.frame())
		})
		require.NoError(t, err)
		assert.Equal(t, []uint64{1, 3, 4}, got)
		assert.Equal(t, int64(len(b)), last)
		assert.Equal(t, Damage{Regions: 1, Bytes: uint64(recordHeader + garbage)}, damage)
	}
}

// The format is what it was: segments that an earlier version wrote are read.
func TestFormat(t *testing.T) {
	b := segmentOf(newFrame(1, 0), newFrame(2, 33), newFrame(3, 200))
	golden := filepath.Join("testdata", "version1.seg")
	if os.Getenv("TOLLGATE_SPOOL_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, b, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, want, b, "the format has changed: give it another version and read the old one")
	name, ok := segmentNumber(segmentName(0xabc))
	assert.True(t, ok)
	assert.Equal(t, uint64(0xabc), name)
	for _, name := range []string{"abc.seg", "0000000000000ABC.seg", "0000000000000abc", "000000000000+abc.seg", "state"} {
		_, ok := segmentNumber(name)
		assert.False(t, ok, name)
	}
}
