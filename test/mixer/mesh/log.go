package mesh

import (
	"io"
	"math"
	"os"
	"strings"
)

// Log is what a process wrote. The process writes straight to a file, so the log is complete even when the process
// is killed, and reading it is safe at any time.
type Log struct {
	path string
}

// A Mark is a place in a Log, to look only at what was written after it.
type Mark int64

// Path is the file that holds the log.
func (l *Log) Path() string { return l.path }

// Mark returns the current end of the log.
func (l *Log) Mark() Mark {
	info, err := os.Stat(l.path)
	if err != nil {
		return 0
	}
	return Mark(info.Size())
}

// Since returns what was written after the mark.
func (l *Log) Since(m Mark) string {
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.NewSectionReader(f, int64(m), math.MaxInt64-int64(m)))
	if err != nil {
		return ""
	}
	return string(data)
}

// String returns the whole log.
func (l *Log) String() string { return l.Since(0) }

// Lines returns the lines after the mark that contain all the given texts.
func (l *Log) Lines(m Mark, texts ...string) []string {
	var found []string
lines:
	for line := range strings.Lines(l.Since(m)) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		found = append(found, strings.TrimRight(line, "\n"))
	}
	return found
}

// Contains says whether the text was ever written.
func (l *Log) Contains(text string) bool { return strings.Contains(l.String(), text) }
