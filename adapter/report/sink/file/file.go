// Package file is the sink that writes records as JSON lines to a file that rotates.
package file

import (
	"context"
	"fmt"
	"os"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
)

// Sink writes to a file. A batch is delivered when it is on the disk; a crash before that was told can write it twice, whole
// lines of it or all.
type Sink struct{ file *jsonlines.File }

// New returns the sink of the file at path, which is opened when it is needed.
func New(path string, rotation jsonlines.Rotation) (*Sink, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("path is %q, which is a directory; name a file", path)
	}
	file, err := jsonlines.NewFile(path, rotation)
	if err != nil {
		return nil, err
	}
	return &Sink{file: file}, nil
}

// Deliver writes a batch with one write, so that a rotation never splits it, and syncs the file, and its directory if the file is
// new. What the disk does not take is tried again; a record that cannot be rendered is refused for good.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return jsonlines.Deliver(ctx, batch, s.file.Append)
}

// Close closes the file.
func (s *Sink) Close(context.Context) error { return s.file.Close() }
