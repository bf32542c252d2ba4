package spool

import (
	"encoding/binary"
	"errors"
	"io"
)

// state is what a directory knows beside its segments. It is kept in two slots of one small file that are written in turn, in
// place, so that one of them is always whole and a write needs neither space nor a change of the directory.
type state struct {
	generation uint64
	id         ID
	cursor     cursor // of the oldest frame that is not done
	next       uint64 // number of the next segment
	sequence   uint64 // greater than those of all frames so far
	now        int64  // the queue's clock
	clean      bool   // the queue was closed; holds while there is no segment from next on
}

// cursor is a place in the queue.
type cursor struct {
	segment uint64
	offset  int64
}

const (
	stateMagic = "TGSTATE\n"
	stateBytes = 8 + 4 + 4 + 8 + 16 + 6*8
	// slotBytes apart the slots share no page and no sector.
	slotBytes = 4096
	slots     = 2
)

func (s *state) append(b []byte) []byte {
	start := len(b)
	b = append(b, stateMagic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, s.generation)
	b = append(b, s.id[:]...)
	clean := uint64(0)
	if s.clean {
		clean = 1
	}
	for _, v := range [...]uint64{s.cursor.segment, uint64(s.cursor.offset), s.next, s.sequence, uint64(s.now), clean} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	binary.LittleEndian.PutUint32(b[start+12:], headerChecksum(b[start:]))
	return b
}

func parseState(b []byte) (state, error) {
	if len(b) < stateBytes {
		return state{}, errNoState
	}
	b = b[:stateBytes]
	if string(b[:8]) != stateMagic || binary.LittleEndian.Uint32(b[12:]) != headerChecksum(b) {
		return state{}, errNoState
	}
	if binary.LittleEndian.Uint32(b[8:]) != formatVersion {
		return state{}, errNewVersion
	}
	field := func(i int) uint64 { return binary.LittleEndian.Uint64(b[40+8*i:]) }
	return state{
		generation: binary.LittleEndian.Uint64(b[16:]),
		id:         ID(b[24:40]),
		cursor:     cursor{segment: field(0), offset: int64(field(1))},
		next:       field(2),
		sequence:   field(3),
		now:        int64(field(4)),
		clean:      field(5) == 1,
	}, nil
}

var errNoState = errors.New("no slot of the state file is whole")

// readState returns the newest whole slot.
func readState(f io.ReaderAt) (state, error) {
	var newest state
	found := errNoState
	for slot := range int64(slots) {
		b := make([]byte, stateBytes)
		if _, err := f.ReadAt(b, slot*slotBytes); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return state{}, err
		}
		s, err := parseState(b)
		switch {
		case errors.Is(err, errNewVersion):
			return state{}, err
		case err == nil && (found != nil || s.generation > newest.generation):
			newest, found = s, nil
		}
	}
	return newest, found
}

// writeState writes the slot that s is due for. Until that returns nil the other slot is the one that counts.
func writeState(f file, s *state) error {
	b := s.append(make([]byte, 0, stateBytes))
	if n, err := f.WriteAt(b, int64(s.generation%slots)*slotBytes); err != nil {
		return err
	} else if n < len(b) {
		return io.ErrShortWrite
	}
	return f.Sync()
}
