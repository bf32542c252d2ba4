package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// line is one of a file of dead letters.
type line struct {
	// text is the line with its end, valid until the next one; nil if it is longer than maxLine.
	text []byte
	// letter is what is in it, unless err says why there is none.
	letter deadletter.Letter
	err    error
	// done means that a replay has dealt with it.
	done bool
}

// left is how many records are left where the line is: one also for what is no letter.
func (l *line) left() uint64 {
	if l.err == nil {
		if found, err := records(&l.letter); err == nil {
			return uint64(len(found))
		}
	}
	return 1
}

// maxLine bounds what is kept of a line: more than the largest frame takes as a letter.
const maxLine = 4 * spool.MaxPayload

// reader reads a file of dead letters line by line.
type reader struct {
	path    string
	file    *os.File
	in      *bufio.Reader
	longest int
	done    bool
	text    []byte
	// at is where the next line begins, and digest that of all before.
	at     int64
	digest hash.Hash
	// before is where an earlier replay stopped.
	before progress
	// torn is how many bytes at the end are half a line: what was just being written, or what a crash left of letters that nobody
	// was told are kept. It is known at the end.
	torn int64
}

func openLetters(file File) (*reader, error) {
	before, err := readProgress(file.Path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file.Path)
	if err != nil {
		return nil, err
	}
	const window = 256 << 10
	return &reader{
		path: file.Path, file: f, in: bufio.NewReaderSize(f, window), longest: maxLine, done: file.State == Replayed,
		digest: sha256.New(), before: before,
	}, nil
}

func (r *reader) close() error { return r.file.Close() }

// next returns the next line; io.EOF after the last whole one.
func (r *reader) next() (line, error) {
	begin := r.at
	l, err := r.read()
	switch {
	case errors.Is(err, io.EOF) && r.at < r.before.Offset:
		return line{}, r.stale()
	case err != nil:
		return line{}, err
	case begin < r.before.Offset && r.before.Offset <= r.at && r.position() != r.before:
		return line{}, r.stale()
	}
	l.done = r.done || r.at <= r.before.Offset
	if l.err == nil {
		l.letter, l.err = deadletter.Parse(l.text)
	}
	return l, nil
}

func (r *reader) read() (line, error) {
	r.text = r.text[:0]
	size := 0
	for {
		part, err := r.in.ReadSlice('\n')
		size += len(part)
		if errors.Is(err, io.EOF) {
			r.torn = int64(size)
			return line{}, io.EOF
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return line{}, err
		}
		_, _ = r.digest.Write(part) // never fails
		if size <= r.longest {
			r.text = append(r.text, part...)
		}
		if err == nil {
			break
		}
	}
	r.at += int64(size)
	if size > r.longest {
		return line{err: fmt.Errorf("a line of %d bytes; no dead letter has more than %d", size, r.longest)}, nil
	}
	return line{text: r.text}, nil
}

// position returns where the next line begins.
func (r *reader) position() progress {
	return progress{Offset: r.at, SHA256: hex.EncodeToString(r.digest.Sum(nil))}
}

func (r *reader) stale() error {
	return fmt.Errorf("%s is of another file than %s; remove it to begin anew", r.path+progressSuffix, filepath.Base(r.path))
}

// records returns what a letter holds: a record, or those of a frame that an earlier version could not read.
func records(letter *deadletter.Letter) ([]record.Record, error) {
	r := letter.Record
	switch {
	case r.Kind != 0:
		return []record.Record{r}, nil
	case r.Spool == record.SpoolID{}:
		return report.DecodeDeadFrame(&r)
	default:
		return nil, fmt.Errorf("record %s: %w", r.ID(), record.ErrKind)
	}
}

// progress is how far a replay of a file came, and the digest of what is before that: the offset alone would skip letters of another
// file that got the name.
type progress struct {
	Offset int64  `json:"offset"`
	SHA256 string `json:"sha256"`
}

// readProgress returns the beginning where no replay has begun.
func readProgress(path string) (p progress, err error) {
	content, err := os.ReadFile(path + progressSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return progress{}, nil
	}
	if err != nil {
		return progress{}, err
	}
	if err := json.Unmarshal(content, &p); err != nil || p.Offset < 0 {
		return progress{}, fmt.Errorf("%s cannot be read; remove it to begin anew", path+progressSuffix)
	}
	return p, nil
}

// write keeps the progress, so that it is there whole or as it was.
func (p progress) write(path string) error {
	content, err := json.Marshal(p)
	if err != nil {
		return err
	}
	path += progressSuffix
	if err := writeSynced(path+".new", os.O_TRUNC, append(content, '\n')); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// writeSynced writes to a file, which is made if need be, and returns when it is on the disk.
func writeSynced(path string, flag int, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flag, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}
