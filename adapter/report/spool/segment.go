package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// The format of a segment, all numbers little-endian:
//
//	segment  magic 8 | version 4 | checksum 4 | queue id 16 | number 8 | sequence 8
//	record   marker 4 | checksum 4 | payload checksum 4 | length 4 | records 4 | zero 4 | sequence 8 | arrival 8 | stamp 8 | payload
//
// Checksums are CRC-32C. A segment header's covers the rest of the header. Those of a record begin with the queue's id, the
// segment's number and the record's own offset, so that a record is valid in one place only: neither a block that the file
// system brings back nor a payload that contains a record can pass for one, and nobody who does not know the id can make one.
// The header's checksum covers the payload's.
const (
	segmentMagic  = "TGSPOOL\n"
	formatVersion = 1
	headerBytes   = 48
	recordHeader  = 48
	recordMarker  = "\xfeTG\xfd" // no part of any UTF-8 text
	maxRecords    = math.MaxUint32

	segmentSuffix = ".seg"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentHeader is the beginning of a segment.
type segmentHeader struct {
	id     ID
	number uint64
	// sequence is greater than those of all frames before this segment.
	sequence uint64
}

var errNewVersion = errors.New("the format is of a newer version; use the version that wrote it")

func (h *segmentHeader) append(b []byte) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, h.id[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, h.sequence)
	binary.LittleEndian.PutUint32(b[start+12:], headerChecksum(b[start:]))
	return b
}

func headerChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:])
}

// parseSegmentHeader returns nil for a header that is damaged.
func parseSegmentHeader(b []byte) (*segmentHeader, error) {
	if len(b) != headerBytes || string(b[:8]) != segmentMagic || binary.LittleEndian.Uint32(b[12:]) != headerChecksum(b) {
		return nil, nil
	}
	if binary.LittleEndian.Uint32(b[8:]) != formatVersion {
		return nil, errNewVersion
	}
	return &segmentHeader{
		id:       ID(b[16:32]),
		number:   binary.LittleEndian.Uint64(b[32:]),
		sequence: binary.LittleEndian.Uint64(b[40:]),
	}, nil
}

// segmentSeed is what the checksums of a segment's records begin with.
func segmentSeed(id ID, number uint64) uint32 {
	var b [24]byte
	copy(b[:], id[:])
	binary.LittleEndian.PutUint64(b[16:], number)
	return crc32.Checksum(b[:], castagnoli)
}

func recordSeed(seed uint32, offset int64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(offset))
	return crc32.Update(seed, castagnoli, b[:])
}

// record is one frame in a segment.
type record struct {
	offset   int64
	length   uint32 // of the payload
	records  uint32
	sequence uint64
	arrival  int64 // Unix nanoseconds, by the caller's clock
	stamp    int64 // when it was written, by the queue's clock
	payload  []byte
}

func (r *record) size() int64 { return recordHeader + int64(r.length) }

func (r *record) tally() Tally {
	return Tally{Frames: 1, Records: uint64(r.records), Bytes: uint64(r.length)}
}

func (r *record) frame() Frame {
	return Frame{Sequence: r.sequence, Arrival: time.Unix(0, r.arrival), Records: int(r.records), Payload: r.payload}
}

// appendHeader appends the record's header for the payload, which has to follow it.
func (r *record) appendHeader(b []byte, seed uint32) []byte {
	seed = recordSeed(seed, r.offset)
	start := len(b)
	b = append(b, recordMarker...)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(seed, castagnoli, r.payload))
	b = binary.LittleEndian.AppendUint32(b, r.length)
	b = binary.LittleEndian.AppendUint32(b, r.records)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, r.sequence)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.arrival))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.stamp))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Update(seed, castagnoli, b[start+8:]))
	return b
}

// parse reads the header at the record's offset and reports whether it is intact.
func (r *record) parse(b []byte, seed uint32) bool {
	if string(b[:4]) != recordMarker || binary.LittleEndian.Uint32(b[4:]) != crc32.Update(recordSeed(seed, r.offset), castagnoli, b[8:recordHeader]) {
		return false
	}
	r.length = binary.LittleEndian.Uint32(b[12:])
	r.records = binary.LittleEndian.Uint32(b[16:])
	r.sequence = binary.LittleEndian.Uint64(b[24:])
	r.arrival = int64(binary.LittleEndian.Uint64(b[32:]))
	r.stamp = int64(binary.LittleEndian.Uint64(b[40:]))
	return r.length <= MaxPayload
}

// intact compares the payload with the checksum in the header b.
func (r *record) intact(b []byte, seed uint32) bool {
	return binary.LittleEndian.Uint32(b[8:]) == crc32.Update(recordSeed(seed, r.offset), castagnoli, r.payload)
}

// scanBytes is how much of a segment is read at once, at least.
const scanBytes = 256 << 10

// window shows a part of a segment at a time. Over a buffer that holds all of it nothing is read or copied.
type window struct {
	source io.ReaderAt
	base   int64 // where buffer begins
	buffer []byte
	end    int64 // where the segment ends
}

// at returns n bytes from offset on, valid until the next call; fewer at the end.
func (w *window) at(offset, n int64) ([]byte, error) {
	n = min(n, w.end-offset)
	if n <= 0 {
		return nil, nil
	}
	if offset < w.base || offset+n > w.base+int64(len(w.buffer)) {
		want := min(max(n, scanBytes), w.end-offset)
		if int64(cap(w.buffer)) < want {
			w.buffer = make([]byte, want)
		}
		w.base, w.buffer = offset, w.buffer[:want]
		got, err := w.source.ReadAt(w.buffer, offset)
		w.buffer = w.buffer[:got]
		if int64(got) < want {
			if !errors.Is(err, io.EOF) {
				w.buffer = w.buffer[:0]
				return nil, err
			}
			w.end = offset + int64(got)
			n = min(n, int64(got))
		}
	}
	return w.buffer[offset-w.base:][:n], nil
}

// find returns where the next record could begin, at offset or after it; the end for nowhere.
func (w *window) find(offset int64) (int64, error) {
	for offset < w.end {
		if _, err := w.at(offset, int64(len(recordMarker))); err != nil {
			return 0, err
		}
		b := w.buffer[max(offset-w.base, 0):]
		if i := bytes.Index(b, []byte(recordMarker)); i >= 0 {
			return offset + int64(i), nil
		}
		// A marker may lie across the end of the window.
		offset += int64(max(len(b)-len(recordMarker)+1, 1))
	}
	return w.end, nil
}

// scan calls visit for every intact record from offset on, in order, and returns where the last of them ends and what lies
// damaged between them. Bytes after the last one are the caller's to judge.
//
// After a bad header the next record is looked for at every marker. The checksum over the header alone keeps that linear: no
// payload is read for a header that is not one of ours.
func scan(w *window, seed uint32, offset int64, visit func(*record) error) (int64, Damage, error) {
	var (
		damage Damage
		r      record
		last   = offset // end of the last intact record
	)
	for {
		r.offset = offset
		header, err := w.at(offset, recordHeader)
		if err != nil {
			return last, damage, err
		}
		if len(header) < recordHeader {
			return last, damage, nil
		}
		known := r.parse(header, seed) && offset+r.size() <= w.end
		if known {
			whole, err := w.at(offset, r.size())
			if err != nil {
				return last, damage, err
			}
			if int64(len(whole)) < r.size() {
				return last, damage, nil // the file ends before where it said
			}
			r.payload = whole[recordHeader:len(whole):len(whole)]
			offset += r.size()
			if !r.intact(whole, seed) {
				continue
			}
			if gap := r.offset - last; gap > 0 {
				damage.Regions++
				damage.Bytes += uint64(gap)
			}
			last = offset
			if err := visit(&r); err != nil {
				return last, damage, err
			}
			continue
		}
		if offset, err = w.find(offset + 1); err != nil {
			return last, damage, err
		}
	}
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// segmentNumber returns the number in a segment's name; ok is false for other files.
func segmentNumber(name string) (number uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, err == nil && segmentName(number) == name
}
