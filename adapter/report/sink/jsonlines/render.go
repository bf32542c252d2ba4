// Package jsonlines is what the sinks that write JSON lines share: records to lines, and a file that rotates and keeps what it was
// given.
package jsonlines

import (
	"context"
	"fmt"
	"sync"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// buffers are those of batches that were written. Larger ones than most batches need are not kept.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const keptBuffer = 4 << 20

// Deliver renders a batch and hands all its lines to write at once. Records that cannot be rendered are refused for good, those
// alone, once the others are written.
func Deliver(ctx context.Context, batch []record.Record, write func(lines []byte) error) error {
	buffer, _ := buffers.Get().(*[]byte)
	lines := (*buffer)[:0]
	var bad []int
	var cause error
	for i := range pace.Over(ctx, batch) {
		var err error
		if lines, err = record.AppendJSON(lines, &batch[i]); err != nil {
			bad = append(bad, i)
			if cause == nil {
				cause = fmt.Errorf("record %s cannot be written as JSON: %w", batch[i].ID(), err)
			}
			continue
		}
		lines = append(lines, '\n')
	}
	var err error
	if len(lines) > 0 {
		err = write(lines)
	}
	if cap(lines) <= keptBuffer {
		*buffer = lines
		buffers.Put(buffer)
	}
	if err == nil && bad != nil {
		err = &report.Undelivered{Permanent: true, Records: bad, Err: cause}
	}
	return err
}
