package spool

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
)

// Class says what kind of thing went wrong. Its text is a metric label.
type Class uint8

const (
	// Full means that there was no room within the wait.
	Full Class = iota
	// TooLarge means that the frame can never fit.
	TooLarge
	// DiskFull means that the file system has no space left, or none for us.
	DiskFull
	// ReadOnly means that the file system or its permissions refuse writes.
	ReadOnly
	// IO is any other failure of the file system.
	IO
	// Locked means that somebody else uses the directory.
	Locked
	// Corrupt means that what is on the disk is not what was written there.
	Corrupt
	// Closed means that the queue was closed.
	Closed
)

const classes = int(Closed) + 1

var classNames = [classes]string{"full", "too_large", "disk_full", "read_only", "io", "locked", "corrupt", "closed"}

// String returns the class as a metric label.
func (c Class) String() string { return classNames[c] }

// Advice on each class, at the end of every error's text. What heals by itself says so.
var classAdvice = [classes]string{
	Full:     "raise the queue's max bytes, speed the sink up, or choose to drop",
	TooLarge: "send smaller reports or raise the bound",
	DiskFull: "free space on the volume; accepting resumes by itself",
	ReadOnly: "make the directory writable; accepting resumes by itself",
	IO:       "check the directory and its disk; once open, the queue keeps trying",
	Locked:   "stop the other process or give each a directory of its own",
	Corrupt:  "keep a copy of the directory and check the disk",
	Closed:   "the process is shutting down",
}

// Error is what the package's functions return, the ends of contexts apart.
type Error struct {
	// Class is what kind of thing went wrong.
	Class Class
	// Path is the file or the directory; a memory queue's name.
	Path string
	// Text says what was attempted or found.
	Text string
	// Err is the cause, if there is one.
	Err error
}

// ErrFull and ErrClosed match every error of their class with errors.Is.
var (
	ErrFull   = &Error{Class: Full}
	ErrClosed = &Error{Class: Closed}
)

// Error returns the class, the path, what happened and what to do.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("spool ")
	b.WriteString(e.Path)
	b.WriteString(": ")
	b.WriteString(e.Class.String())
	for _, part := range []string{e.Text, errorText(e.Err)} {
		if part != "" {
			b.WriteString(": ")
			b.WriteString(part)
		}
	}
	b.WriteString("; ")
	b.WriteString(classAdvice[e.Class])
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the sentinel of the error's class.
func (e *Error) Is(target error) bool {
	return e.Class == Full && target == error(ErrFull) || e.Class == Closed && target == error(ErrClosed)
}

// ClassOf returns the class of an error of this package; ok is false for others.
func ClassOf(err error) (class Class, ok bool) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return 0, false
	}
	return e.Class, true
}

// fault classes a failure of the file system.
func fault(path, text string, err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	e := &Error{Class: IO, Path: path, Text: text, Err: err}
	// The path is in the text already.
	if known, ok := errors.AsType[*fs.PathError](err); ok {
		e.Err = known.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Class = DiskFull
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		e.Class = ReadOnly
	}
	return e
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
