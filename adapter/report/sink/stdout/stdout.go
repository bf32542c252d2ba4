// Package stdout is the sink that writes records as JSON lines to a stream, such as the process's standard output.
package stdout

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
)

// Sink writes to a stream. A batch is delivered when the stream took it: what becomes of it behind a pipe nobody knows, and a
// crash of the machine or of who reads can lose it.
type Sink struct {
	mu   sync.Mutex
	to   io.Writer
	torn bool // the last write ended within a line
}

// New returns the sink of a stream, which it does not close.
func New(to io.Writer) *Sink { return &Sink{to: to} }

// Deliver writes a batch with one write.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return jsonlines.Deliver(ctx, batch, s.write)
}

func (s *Sink) write(lines []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.torn { // one bad line rather than two in one
		if _, err := s.to.Write([]byte{'\n'}); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		s.torn = false
	}
	n, err := s.to.Write(lines)
	if err == nil && n < len(lines) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.torn = n > 0 && n <= len(lines) && lines[n-1] != '\n'
		return fmt.Errorf("stdout: %w", err)
	}
	return nil
}

// Close does nothing: the stream is somebody else's.
func (*Sink) Close(context.Context) error { return nil }
