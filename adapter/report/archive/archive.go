// Package archive reads what reports left on a disk, the queues of sinks and the files of dead letters, and delivers it again.
//
//	DIR/<sink>/                                        a queue, see package spool
//	DIR/dead-letters/<sink>.jsonl                      dead letters that may still be appended to
//	DIR/dead-letters/<sink>-<time>-<reason>.jsonl      those that were rotated
//	DIR/dead-letters/<sink>.replay.jsonl               those that a replay through the sink made; rotated like the others
//	DIR/dead-letters/<file>.replayed                   a file of which every letter was delivered again
//	DIR/dead-letters/<file>.progress                   how far a replay of the file came
//	DIR/dead-letters/<file>.unreadable                 lines of the file that a replay could make nothing of
//
// Looking changes nothing and may be done beside a running adapter; a queue in use may then seem to end torn, and to hold frames
// that are done or not to hold the latest. docs/spool.md is for users.
package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// DeadLetterDirectory is the directory of dead letters in the directory of reports.
const DeadLetterDirectory = "dead-letters"

const (
	lettersSuffix    = ".jsonl"
	replayedSuffix   = ".replayed"
	unreadableSuffix = ".unreadable"
	progressSuffix   = ".progress"
	replayInfix      = ".replay"

	fileMode = 0o640
)

// ErrNothing means that a path leads to none of what this package reads.
var ErrNothing = errors.New("is neither a directory of reports, a sink's queue, a directory of dead letters nor a file of them; " +
	"name what reports.directory is in the settings, or a part of it")

// Contents is what a path leads to.
type Contents struct {
	// Path is the path, absolute.
	Path string
	// Reports means that it is a directory of reports and not a part of one.
	Reports bool
	// Queues are in the order of their names.
	Queues []Queue
	// Letters are the files of dead letters by sink, the oldest first.
	Letters []File
}

// Queue is the directory of a sink's queue.
type Queue struct {
	// Name is the sink's: the directory's own name.
	Name string
	// Path is the directory.
	Path string
}

// State says what may still happen to a file of dead letters. Its text is for people.
type State string

// The states of files.
const (
	// Current files may still be appended to.
	Current State = "current"
	// Rotated files are complete.
	Rotated State = "rotated"
	// Replayed files have been delivered again.
	Replayed State = "replayed"
)

// File is a file of dead letters.
type File struct {
	// Sink is the sink's name, by that of the file.
	Sink string
	// Path is the file.
	Path string
	// State is by the file's name too.
	State State
}

// Find returns what a path leads to: a directory of reports, a queue, a directory of dead letters or a file of them; else ErrNothing.
func Find(path string) (Contents, error) {
	// With the name that the directory has for others, which "." has not.
	whole, err := filepath.Abs(path)
	if err != nil {
		return Contents{}, err
	}
	info, err := os.Stat(whole)
	if err != nil {
		return Contents{}, err
	}
	found := Contents{Path: whole}
	var known bool
	if info.IsDir() {
		known, err = found.directory()
	} else {
		var file File
		file, known, err = asFile(whole)
		found.Letters = []File{file}
	}
	if err == nil && !known {
		err = ErrNothing
	}
	if err != nil {
		return Contents{}, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// directory finds out what is in a directory, and whether that is known.
func (c *Contents) directory() (known bool, err error) {
	queue, err := spool.Exists(c.Path)
	if err != nil {
		return false, err
	}
	if queue {
		c.Queues = []Queue{{Name: filepath.Base(c.Path), Path: c.Path}}
		return true, nil
	}
	if c.Letters, err = findLetters(c.Path); err != nil {
		return false, err
	}
	if len(c.Letters) > 0 || filepath.Base(c.Path) == DeadLetterDirectory {
		return true, nil
	}
	entries, err := os.ReadDir(c.Path)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if err := c.member(entry.Name()); err != nil {
			return false, err
		}
	}
	return c.Reports, nil
}

// member adds what is in a directory of reports under a name, if it is one of ours.
func (c *Contents) member(name string) error {
	if name == "lost+found" { // of the volume, and root's alone
		return nil
	}
	path := filepath.Join(c.Path, name)
	info, err := os.Stat(path) // which follows links
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	if name == DeadLetterDirectory {
		c.Reports = true
		c.Letters, err = findLetters(path)
		return err
	}
	queue, err := spool.Exists(path)
	if queue {
		c.Reports = true
		c.Queues = append(c.Queues, Queue{Name: name, Path: path})
	}
	return err
}

// findLetters returns the files of dead letters in a directory. By their names rotated ones come before the current one.
func findLetters(dir string) (files []File, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		file, ok, err := asFile(filepath.Join(dir, entry.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			return nil, err
		case ok:
			files = append(files, file)
		}
	}
	slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(a.Sink, b.Sink) })
	return files, nil
}

// rotatedName is how the file sinks' rotation and that of this package name files.
var rotatedName = regexp.MustCompile(`^(.+)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}-[^-]+$`)

// asFile reports whether a path is a file of dead letters: by its name and its first lines.
func asFile(path string) (File, bool, error) {
	file := File{Path: path, State: Current}
	name, replayed := strings.CutSuffix(filepath.Base(path), replayedSuffix)
	name, letters := strings.CutSuffix(name, lettersSuffix)
	if !letters {
		return File{}, false, nil
	}
	if parts := rotatedName.FindStringSubmatch(name); parts != nil {
		name, file.State = parts[1], Rotated
	}
	if replayed {
		file.State = Replayed
	}
	file.Sink = strings.TrimSuffix(name, replayInfix)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return File{}, false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, false, err
	}
	defer f.Close() //nolint:errcheck // only read
	const enough = 64 << 10
	head := make([]byte, enough)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return File{}, false, err
	}
	// Not only the first line, which may be damaged.
	begin := []byte(`{"sink":`)
	head = head[:n]
	return file, n == 0 || bytes.HasPrefix(head, begin) || bytes.Contains(head, append([]byte("\n"), begin...)), nil
}

// DeadLetterDirectory returns where dead letters of what is here belong: beside a queue, or where the others are.
func (c Contents) DeadLetterDirectory() string {
	switch {
	case c.Reports:
		return filepath.Join(c.Path, DeadLetterDirectory)
	case len(c.Queues) > 0:
		return filepath.Join(filepath.Dir(c.Path), DeadLetterDirectory)
	case len(c.Letters) > 0:
		return filepath.Dir(c.Letters[0].Path)
	default:
		return c.Path
	}
}

// Replayable returns the files of dead letters that can be replayed through a sink: of a directory those of that sink, and a file
// that was named whatever its sink is. Those that may still be appended to are left out, and counted, unless they are to be included.
func (c Contents) Replayable(sink string, includeCurrent bool) (files []File, leftOut int, err error) {
	named := len(c.Letters) == 1 && c.Letters[0].Path == c.Path
	for _, file := range c.Letters {
		if !named && file.Sink != sink {
			continue
		}
		switch file.State {
		case Rotated:
			files = append(files, file)
		case Current:
			if includeCurrent {
				files = append(files, file)
			} else {
				leftOut++
			}
		case Replayed:
			if named {
				return nil, 0, fmt.Errorf("%s has been replayed; to do so again, copy it to a name that ends in %s", file.Path, lettersSuffix)
			}
		}
	}
	return files, leftOut, nil
}

// rotate renames a current file as if it had been rotated. A running adapter notices before its next letter and begins a new one;
// if it is writing one at this moment it takes that for failed and writes it again to the new file.
func (f File) rotate(now time.Time) (File, error) {
	const layout = "2006-01-02T15-04-05.000"
	stem := strings.TrimSuffix(f.Path, lettersSuffix)
	for {
		path := stem + "-" + now.UTC().Format(layout) + "-replay" + lettersSuffix
		if _, err := os.Lstat(path); err == nil {
			now = now.Add(time.Millisecond)
			continue
		}
		if err := os.Rename(f.Path, path); err != nil {
			return File{}, err
		}
		return File{Sink: f.Sink, Path: path, State: Rotated}, syncDirectory(filepath.Dir(path))
	}
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
