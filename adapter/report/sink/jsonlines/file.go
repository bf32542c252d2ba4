package jsonlines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/DeRuina/timberjack"
)

// Rotation says when a file is followed by the next, and which of the old ones are kept. The old ones are never compressed: the
// library does not sync the compressed file before it removes the other, so a power loss could take what was delivered long ago.
type Rotation struct {
	// Megabytes is how large a file gets; 0 for 100. Lines that are written together and are more than that get a larger file of
	// their own.
	Megabytes int
	// Every is how long a file is written to; 0 for as long as its size allows. The time runs from when the process opened it.
	Every time.Duration
	// KeepDays is for how many days old files are kept; 0 for ever.
	KeepDays int
	// KeepFiles is how many old files are kept; 0 for all.
	KeepFiles int
}

const defaultMegabytes = 100

// Validate returns all that is wrong with the rotation.
func (r Rotation) Validate() error {
	var problems []error
	for _, n := range []struct {
		key   string
		value int
	}{{"megabytes", r.Megabytes}, {"keep days", r.KeepDays}, {"keep files", r.KeepFiles}} {
		if n.value < 0 {
			problems = append(problems, fmt.Errorf("%s: %d is negative", n.key, n.value))
		}
	}
	if r.Every != 0 && r.Every < time.Second {
		problems = append(problems, fmt.Errorf("every: %s is less than a second", r.Every))
	}
	return errors.Join(problems...)
}

// File is a file of lines that rotates. What Append returned nil for is on the disk, in one piece, and ends with a line's end.
type File struct {
	path     string
	rotation Rotation

	mu     sync.Mutex
	log    *rotator    // nil until it is needed, and after a failure
	info   fs.FileInfo // the file as the last Append left it; nil if there was none
	size   int64       // likewise
	named  bool        // its name is on the disk
	closed bool

	faults        func(output) output          // for tests
	syncDirectory func(directory string) error // likewise
}

// rotator is the library's file, and where it is written, which is the same unless a test is in between.
type rotator struct {
	*timberjack.Logger

	out output
}

type output interface {
	io.Writer
	Sync() error
}

const (
	fileMode      = 0o640
	directoryMode = 0o750
)

// NewFile returns the file of that path. It is opened by the first Append, so that a disk that cannot be written is an error that
// passes and not one that ends the process.
func NewFile(path string, rotation Rotation) (*File, error) {
	if path == "" {
		return nil, errors.New("the path is empty; name a file")
	}
	if err := rotation.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if rotation.Megabytes == 0 {
		rotation.Megabytes = defaultMegabytes
	}
	return &File{path: path, rotation: rotation, syncDirectory: syncDirectory}, nil
}

// Path returns the path of the file that is being written.
func (f *File) Path() string { return f.path }

// Append writes whole lines with one write and returns when they are on the disk. At an error none of them counts as written: the
// file is cut back as far as the disk allows, and the next Append opens it again.
func (f *File) Append(lines []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("%s: %w", f.path, fs.ErrClosed)
	}
	err := f.open()
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if err = f.write(lines); err != nil {
		f.cutBack(int64(len(lines)))
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

// Close lets the file go.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return f.letGo()
}

// open makes sure that the library's file is the one at the path, and is as it was left. Whoever moves or cuts it (logrotate, a
// person) would otherwise send all that follows into a file without a name, or leave a hole in it.
func (f *File) open() error {
	info, err := stat(f.path)
	if err != nil {
		return err
	}
	if f.log != nil && info != nil && os.SameFile(info, f.info) && info.Size() == f.size {
		return nil
	}
	if err := f.letGo(); err != nil {
		return err
	}
	if info == nil {
		err = makeDirectory(filepath.Dir(f.path))
	} else {
		err = cutTorn(f.path)
	}
	if err != nil {
		return err
	}
	if f.info, err = stat(f.path); err != nil {
		return err
	}
	f.size, f.named = 0, false // a file that is there may be what a write left that failed, or a process that was killed
	if f.info != nil {
		f.size = f.info.Size()
	}
	log := &timberjack.Logger{
		Filename: f.path, MaxSize: f.rotation.Megabytes, RotationInterval: f.rotation.Every, MaxAge: f.rotation.KeepDays, MaxBackups: f.rotation.KeepFiles,
		Compression: "none", FileMode: fileMode,
	}
	f.log = &rotator{Logger: log, out: log}
	if f.faults != nil {
		f.log.out = f.faults(log)
	}
	return nil
}

func (f *File) write(lines []byte) error {
	if need := len(lines)>>20 + 2; len(lines) > f.rotation.Megabytes<<20 {
		// The library refuses what is larger than a file may be.
		f.log.MaxSize = need
		defer func(log *rotator) { log.MaxSize = f.rotation.Megabytes }(f.log)
		if f.size > 0 {
			if err := f.log.RotateWithReason("size"); err != nil {
				return err
			}
		}
	}
	if _, err := f.log.out.Write(lines); err != nil {
		return err
	}
	info, err := stat(f.path)
	switch {
	case err != nil:
		return err
	case info == nil:
		return errors.New("somebody removed the file while it was written")
	}
	fresh := f.info == nil || !os.SameFile(info, f.info)
	before := f.size
	if fresh {
		before, f.named = 0, false
	}
	if info.Size() != before+int64(len(lines)) {
		return fmt.Errorf("somebody else changes the file: it has %d bytes, not %d", info.Size(), before+int64(len(lines)))
	}
	if err := f.log.out.Sync(); err != nil {
		return err
	}
	if !f.named {
		if err := f.syncDirectory(filepath.Dir(f.path)); err != nil {
			return err
		}
		f.named = true
	}
	f.info, f.size = info, info.Size()
	return nil
}

// cutBack takes away what a failed write left, so that trying again neither doubles it nor fills the disk. What cannot be cut now
// is cut by the next open as far as it is half a line.
func (f *File) cutBack(written int64) {
	_ = f.letGo() // nothing in it counts
	info, err := stat(f.path)
	if err != nil || info == nil {
		return
	}
	before := int64(0)
	if f.info != nil && os.SameFile(info, f.info) {
		before = f.size
	}
	if info.Size() > before && info.Size() <= before+written {
		_ = os.Truncate(f.path, before)
	}
}

func (f *File) letGo() error {
	if f.log == nil {
		return nil
	}
	err := f.log.Close()
	f.log = nil
	return err
}

// stat returns nil where there is no file, and an error for what is no regular file, since rotation would move it away.
func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // nil is a file that is not there
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	return info, nil
}

// cutTorn cuts off half a line at the end of a file: what a killed process or a full disk left, and what nobody was told is there.
func cutTorn(path string) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return err
	}
	var block [64 << 10]byte
	for end := size; end > 0; {
		part := block[:min(end, int64(len(block)))]
		if _, err = file.ReadAt(part, end-int64(len(part))); err != nil {
			return err
		}
		if at := bytes.LastIndexByte(part, '\n'); at >= 0 {
			end += int64(at + 1 - len(part))
			if end == size {
				return nil
			}
			return errors.Join(file.Truncate(end), file.Sync())
		}
		end -= int64(len(part))
		if end == 0 && part[0] != '{' && part[0] != 0 { // a power loss leaves zeros
			return errors.New("is not a file of JSON lines; move it away or name another")
		}
	}
	return errors.Join(file.Truncate(0), file.Sync())
}

// makeDirectory makes a directory, and those above it, in a way that a power loss does not undo.
func makeDirectory(path string) error {
	err := os.Mkdir(path, directoryMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDirectory(filepath.Dir(path)); err == nil {
			err = os.Mkdir(path, directoryMode)
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
