// Package logtest keeps what loggers write, for tests that read it.
package logtest

import (
	"bytes"
	"sync"
)

// Buffer keeps what is written to it. It may be written to and read at once, and is ready for use.
type Buffer struct {
	mu      sync.Mutex
	content bytes.Buffer
}

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.Write(p)
}

// String returns what was written since the last Take.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.String()
}

// Take returns what was written since the last Take, once.
func (b *Buffer) Take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.content.Reset()
	return b.content.String()
}
