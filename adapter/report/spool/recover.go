package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

const (
	lockName = "lock"

	// sequenceGap is what NextSequence leaves out after a crash: more frames than an operating system can have held back.
	sequenceGap = 1 << 32
)

func stateName(dir string) string { return filepath.Join(dir, "state") }

// Open opens the queue in the directory, which is made if there is none, and recovers what is in it. It reads all that is
// pending, which takes as long as the disk takes to read that.
func Open(dir string, o Options) (*Disk, error) {
	d, err := prepare(dir, o)
	if err != nil {
		return nil, err
	}
	go d.committer.run()
	go d.keeper.run()
	return d, nil
}

// prepare makes a queue that is open and does not run yet.
func prepare(dir string, o Options) (*Disk, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if err := o.fs.MakeDir(dir); err != nil {
		return nil, fault(dir, "create", err)
	}
	lock, err := o.fs.Lock(filepath.Join(dir, lockName))
	if errors.Is(err, errLocked) {
		return nil, &Error{Class: Locked, Path: dir, Text: "another process uses the directory"}
	}
	if err != nil {
		return nil, fault(filepath.Join(dir, lockName), "lock", err)
	}
	d := &Disk{dir: dir, lock: lock}
	d.ledger = ledger{path: dir, opts: o, overhead: headerBytes + recordHeader, dead: 2 * o.SegmentBytes, ahead: o.SegmentBytes, expire: d.expire, evict: d.evict, reclaim: d.reclaim, self: d}
	d.idle.L, d.work.L = &d.mu, &d.mu
	d.reader.disk = d
	d.committer = committer{disk: d, ended: make(chan struct{})}
	d.keeper = keeper{disk: d, kick: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	err = d.recover()
	if err == nil {
		err = d.begin()
	}
	if err != nil {
		if d.keeper.file != nil {
			_ = d.keeper.file.Close() // the first error is the one to tell
		}
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

// recover finds out what is in the directory.
func (d *Disk) recover() error {
	numbers, err := segments(d.opts.fs, d.dir)
	if err != nil {
		return err
	}
	headers := make([]*segmentHeader, len(numbers))
	for i, number := range numbers {
		f, err := openSegment(d.opts.fs, d.path(number), number, false)
		if err != nil {
			return err
		}
		_ = f.file.Close() // was only read
		headers[i] = f.header
	}
	s, err := d.openState(numbers, headers)
	if err != nil {
		return err
	}
	d.id, d.keeper.state = s.id, s
	d.next, d.sequence = s.next, s.sequence
	clean := s.clean
	if n := len(numbers); n > 0 && numbers[n-1] >= d.next {
		clean, d.next = false, numbers[n-1]+1
	}
	latest := s.now
	for i, number := range numbers {
		if h := headers[i]; h != nil && h.id != d.id {
			return foreign(d.path(number), h.id, d.id)
		}
	}
	for i, number := range numbers {
		if err := d.recoverSegment(number, s.cursor, !clean && i == len(numbers)-1, &latest); err != nil {
			return err
		}
	}
	if !clean {
		d.sequence = max(d.sequence+sequenceGap, d.sequence)
	}
	d.clock = newClock(d.opts.clock, latest)
	return nil
}

// begin writes a first state, so that after a crash from here on the directory is not taken for one that was closed, and no
// sequence from here on is given again even if the disk forgets all that comes.
func (d *Disk) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.keeper.write(); err != nil {
		return err
	}
	return nil
}

// recoverSegment enters what is pending in a segment. The tail of the one that was written last is cut: nothing in it was
// acknowledged.
func (d *Disk) recoverSegment(number uint64, from cursor, last bool, latest *int64) error {
	f, err := openSegment(d.opts.fs, d.path(number), number, last)
	if err != nil {
		return err
	}
	defer f.file.Close() //nolint:errcheck // was only read, or synced
	s := &segment{number: f.number, seed: segmentSeed(d.id, f.number), bytes: f.size, end: f.size, sealed: true}
	d.segments = append(d.segments, s)
	if f.header != nil {
		d.sequence = max(d.sequence, f.header.sequence)
	}
	offset := int64(headerBytes)
	switch {
	case f.number < from.segment:
		d.used += s.bytes
		return nil // all done; the keeper removes it
	case f.number == from.segment:
		offset = max(offset, from.offset)
	}
	end, damage, err := scan(&window{source: f.file, end: f.size}, s.seed, min(offset, f.size), func(r *record) error {
		s.add(r, true)
		d.stats.Recovered.add(r.tally())
		d.stats.Pending.add(r.tally())
		d.live += r.size()
		d.saw(r.sequence)
		*latest = max(*latest, r.stamp)
		return nil
	})
	if err != nil {
		return fault(f.path, "read", err)
	}
	tail := uint64(f.size - end)
	switch {
	case tail == 0:
	case last:
		if err := f.file.Truncate(end); err != nil {
			return fault(f.path, "cut the torn end", err)
		}
		if err := f.file.Sync(); err != nil {
			return fault(f.path, "cut the torn end", err)
		}
		s.bytes = end
		damage.Torn += tail
	default:
		damage.Regions++
		damage.Bytes += tail
	}
	s.end = end
	d.stats.Damage.add(damage)
	d.used += s.bytes
	return nil
}

// openState opens the state file and reads it. Where there is none that can be read it begins a new one, with the id that the
// segments know and nothing done.
func (d *Disk) openState(numbers []uint64, headers []*segmentHeader) (state, error) {
	name := stateName(d.dir)
	f, err := d.opts.fs.Open(name, true)
	created := errors.Is(err, fs.ErrNotExist)
	if created {
		f, err = d.opts.fs.Create(name)
	}
	if err != nil {
		return state{}, fault(name, "open", err)
	}
	d.keeper.file = f
	s, err := readState(f)
	if err == nil {
		return s, nil
	}
	if errors.Is(err, errNewVersion) {
		return state{}, &Error{Class: Corrupt, Path: name, Err: err}
	}
	if !errors.Is(err, errNoState) {
		return state{}, fault(name, "read", err)
	}
	s = state{next: 1, sequence: 1, clean: true}
	if i := slices.IndexFunc(headers, func(h *segmentHeader) bool { return h != nil }); i >= 0 {
		s.id = headers[i].id
	} else if len(numbers) > 0 {
		return state{}, &Error{Class: Corrupt, Path: d.path(numbers[0]), Text: "neither the state file nor any segment tells the queue's id"}
	} else {
		s.id = newID()
	}
	for s.generation = range uint64(slots) {
		if err := writeState(f, &s); err != nil {
			return state{}, fault(name, "write", err)
		}
	}
	if err := d.opts.fs.SyncDir(d.dir); err != nil {
		return state{}, fault(d.dir, "sync the directory", err)
	}
	return s, nil
}

// segmentFile is an open segment.
type segmentFile struct {
	path   string
	number uint64
	file   file
	size   int64
	header *segmentHeader // nil where it is damaged
}

// openSegment opens a segment.
func openSegment(files fileSystem, path string, number uint64, writable bool) (*segmentFile, error) {
	file, err := files.Open(path, writable)
	if err != nil {
		return nil, fault(path, "open", err)
	}
	f := &segmentFile{path: path, number: number, file: file}
	if err := f.readHeader(); err != nil {
		_ = file.Close()
		return nil, err
	}
	return f, nil
}

func (f *segmentFile) readHeader() error {
	var err error
	if f.size, err = f.file.Size(); err != nil {
		return fault(f.path, "read", err)
	}
	if f.size < headerBytes {
		return nil
	}
	b := make([]byte, headerBytes)
	if n, err := f.file.ReadAt(b, 0); n < len(b) {
		return fault(f.path, "read", err)
	}
	f.header, err = parseSegmentHeader(b)
	switch {
	case err != nil:
		return &Error{Class: Corrupt, Path: f.path, Err: err}
	case f.header != nil && f.header.number != f.number:
		return &Error{Class: Corrupt, Path: f.path, Text: fmt.Sprintf("the file is segment %s under another name", segmentName(f.header.number))}
	}
	return nil
}

func foreign(path string, segment, directory ID) *Error {
	return &Error{Class: Corrupt, Path: path, Text: fmt.Sprintf("the segment is of queue %s, and the directory of %s", segment, directory)}
}

// segments returns the numbers of the segments in a directory, in order.
func segments(files fileSystem, dir string) ([]uint64, error) {
	names, err := files.List(dir)
	if err != nil {
		return nil, fault(dir, "list", err)
	}
	var numbers []uint64
	for _, name := range names {
		if number, ok := segmentNumber(name); ok {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
