package archive

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Exported counts what an export found.
type Exported struct {
	// Records were written.
	Records uint64
	// Undecodable are the records, frames and lines that could not be.
	Undecodable uint64
	// Damaged is how many regions of queues are, each of which may have held some.
	Damaged uint64
}

// Export writes records as JSON lines in the schema of docs/records.md: those that are pending or dead letters, and with all set
// also those that are done or were replayed and are still there. A record that is in several places is written for each. An error
// of out ends it at once; what cannot be read of one place does not hide the others.
func (c Contents) Export(ctx context.Context, out io.Writer, all bool) (Exported, error) {
	const buffer = 256 << 10
	e := &exporter{out: bufio.NewWriterSize(out, buffer)}
	var unread []error
	for _, queue := range c.Queues {
		found, err := spool.Inspect(queue.Path, func(frame spool.Frame, done bool) error {
			if done && !all {
				return ctx.Err()
			}
			e.put(report.DecodeFrame(&frame))
			return errors.Join(ctx.Err(), e.err)
		})
		e.Damaged += found.Damage.Regions
		if err != nil && e.err == nil {
			unread = append(unread, err)
		}
		if e.err != nil || ctx.Err() != nil {
			break
		}
	}
	for _, file := range c.Letters {
		if e.err != nil || ctx.Err() != nil {
			break
		}
		if file.State == Replayed && !all {
			continue
		}
		err := file.each(func(l *line) error {
			switch {
			case l.done && !all:
			case l.err != nil:
				e.Undecodable++
			default:
				e.put(records(&l.letter))
			}
			return errors.Join(ctx.Err(), e.err)
		}, func(int64) {})
		if err != nil && e.err == nil {
			unread = append(unread, err)
		}
	}
	if e.err == nil {
		e.err = e.out.Flush()
	}
	err := errors.Join(e.err, errors.Join(unread...))
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = errors.Join(err, ended) // between two of them
	}
	return e.Exported, err
}

// exporter writes records until writing fails.
type exporter struct {
	Exported

	out  *bufio.Writer
	line []byte
	err  error
}

func (e *exporter) put(records []record.Record, undecodable error) {
	if undecodable != nil {
		e.Undecodable++
		return
	}
	for i := range records {
		var err error
		if e.line, err = record.AppendJSON(e.line[:0], &records[i]); err != nil {
			e.Undecodable++
			continue
		}
		e.line = append(e.line, '\n')
		if _, err := e.out.Write(e.line); err != nil {
			e.err = err
			return
		}
		e.Records++
	}
}
