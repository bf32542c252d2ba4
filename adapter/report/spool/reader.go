package spool

import (
	"errors"
	"io/fs"
	"syscall"
)

// reader reads blocks of segments back. It has a file of its own, so that reading and writing share none. One Next uses it at a
// time.
type reader struct {
	disk   *Disk
	number uint64
	file   file
}

// errUnopened means that a segment could not be opened for a reason that says nothing about it.
var errUnopened = errors.New("the segment cannot be opened")

// read returns the frames of a block, how many they are, and what is damaged.
func (r *reader) read(s *segment, b *block) ([]waiting, Tally, Damage, error) {
	if r.file == nil || r.number != s.number {
		r.close()
		f, err := r.disk.opts.fs.Open(r.disk.path(s.number), false)
		if err != nil {
			if r.isAway(err) {
				err = errors.Join(errUnopened, err)
			}
			return nil, Tally{}, Damage{}, err
		}
		r.file, r.number = f, s.number
	}
	// The frames' payloads are parts of this, and nothing else refers to it.
	w := window{source: r.file, base: b.offset, end: b.end, buffer: make([]byte, b.end-b.offset)}
	n, err := r.file.ReadAt(w.buffer, b.offset)
	if n < len(w.buffer) {
		r.close() // the next attempt opens it anew
		return nil, Tally{}, Damage{}, err
	}
	var found Tally
	frames := make([]waiting, 0, b.tally.Frames)
	last, damage, _ := scan(&w, s.seed, b.offset, func(rec *record) error {
		found.add(rec.tally())
		f := rec.frame()
		f.Recovered = b.recovered
		frames = append(frames, waiting{Frame: f, place: place{segment: s, offset: rec.offset, stamp: rec.stamp}})
		return nil
	})
	if last < b.end {
		damage.Regions++
		damage.Bytes += uint64(b.end - last)
	}
	return frames, found, damage, nil
}

// isAway reports whether the segment may well be there: no more files can be opened, it is not allowed, or the directory is not there.
func (r *reader) isAway(err error) bool {
	for _, other := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, fs.ErrPermission} {
		if errors.Is(err, other) {
			return true
		}
	}
	return errors.Is(err, fs.ErrNotExist) && !r.disk.gone(err)
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // was only read
		r.file = nil
	}
}
