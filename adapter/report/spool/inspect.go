package spool

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// Found is what Inspect found.
type Found struct {
	// ID is the queue's.
	ID ID
	// Segments is how many files there are.
	Segments int
	// Pending frames would be recovered; Done ones are known to need no more work and have not been removed.
	Pending, Done Tally
	// Damage is what cannot be read.
	Damage Damage
	// Headers is how many segments have a damaged header. Their frames are read nonetheless.
	Headers int
	// Written is when the state was last written.
	Written time.Time
}

// Exists reports whether there is a queue in the directory: a state file or a segment.
func Exists(dir string) (bool, error) {
	names, err := osFS{}.List(dir)
	if err != nil {
		return false, fault(dir, "list", err)
	}
	return slices.ContainsFunc(names, func(name string) bool {
		_, segment := segmentNumber(name)
		return segment || filepath.Join(dir, name) == stateName(dir)
	}), nil
}

// InUse reports whether a process has the directory's lock. To find out it shares the lock for a moment; who opens the queue in
// that moment tries again.
func InUse(dir string) (bool, error) {
	name := filepath.Join(dir, lockName)
	held, err := lockHeld(name)
	if err != nil {
		return false, fault(name, "lock", err)
	}
	return held, nil
}

// LockFile takes a lock as a queue's directory has one, which ends with the process at the latest. The file and its directory are
// made if need be and stay. While somebody else has the lock it fails with class Locked.
func LockFile(name string) (io.Closer, error) {
	if err := (osFS{}).MakeDir(filepath.Dir(name)); err != nil {
		return nil, fault(filepath.Dir(name), "create", err)
	}
	lock, err := osFS{}.Lock(name)
	if errors.Is(err, errLocked) {
		return nil, &Error{Class: Locked, Path: name, Text: "another process has the lock"}
	}
	if err != nil {
		return nil, fault(name, "lock", err)
	}
	return lock, nil
}

// Inspect reads the frames in a directory and calls visit for each, in order; done says that it needs no more work. It takes
// no lock and changes nothing, so it may look at a directory in use: what is appended or removed meanwhile may be missed, and
// the end of the last segment counts as torn.
func Inspect(dir string, visit func(frame Frame, done bool) error) (Found, error) {
	return inspect(osFS{}, dir, visit)
}

func inspect(files fileSystem, dir string, visit func(frame Frame, done bool) error) (Found, error) {
	var found Found
	numbers, err := segments(files, dir)
	if err != nil {
		return found, err
	}
	s, err := inspectState(files, dir)
	if err != nil {
		return found, err
	}
	if s.generation > 0 {
		found.ID, found.Written = s.id, time.Unix(0, s.now)
	}
	for i, number := range numbers {
		last := i == len(numbers)-1 && (!s.clean || number >= s.next)
		if err := found.inspect(files, filepath.Join(dir, segmentName(number)), number, s.cursor, last, visit); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (found *Found) inspect(files fileSystem, path string, number uint64, from cursor, last bool, visit func(Frame, bool) error) error {
	f, err := openSegment(files, path, number, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer f.file.Close() //nolint:errcheck // only read
	if found.ID == (ID{}) && f.header != nil {
		found.ID = f.header.id
	}
	if f.header != nil && f.header.id != found.ID {
		return foreign(path, f.header.id, found.ID)
	}
	found.Segments++
	var stopped error
	end, damage, err := scan(&window{source: f.file, end: f.size}, segmentSeed(found.ID, number), min(headerBytes, f.size), func(r *record) error {
		done := number < from.segment || number == from.segment && r.offset < from.offset
		if done {
			found.Done.add(r.tally())
		} else {
			found.Pending.add(r.tally())
		}
		frame := r.frame()
		frame.Payload = slices.Clone(frame.Payload)
		stopped = visit(frame, done)
		return stopped
	})
	if stopped != nil {
		return stopped
	}
	if err != nil {
		return fault(path, "read", err)
	}
	if f.header == nil && f.size >= headerBytes && (!last || end > headerBytes) { // else it may have been torn with the rest
		found.Headers++
	}
	if tail := uint64(f.size - end); last {
		damage.Torn = tail
	} else if tail > 0 {
		damage.Regions++
		damage.Bytes += tail
	}
	found.Damage.add(damage)
	return nil
}

// inspectState reads the state; one that cannot be read is as good as none.
func inspectState(files fileSystem, dir string) (state, error) {
	name := stateName(dir)
	f, err := files.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fault(name, "open", err)
	}
	defer f.Close() //nolint:errcheck // only read
	s, err := readState(f)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, errNoState):
		return state{}, nil
	case errors.Is(err, errNewVersion):
		return state{}, &Error{Class: Corrupt, Path: name, Err: err}
	default:
		return state{}, fault(name, "read", err)
	}
}
