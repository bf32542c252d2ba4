// Package deadletter keeps, or at least counts, the records that a sink refused for good.
package deadletter

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
)

var (
	_ report.DeadLetters = (*File)(nil)
	_ report.DeadLetters = (*Discarder)(nil)
)

// File keeps dead letters as JSON lines in a file of the sink's own:
//
//	{"sink":"…","cause":"…","at":"…","record":{…},"delivery":"…","raw":"…"}
//
// record is what the file sink would have written, or, if it cannot be rendered, the keys that all kinds share. raw is the wire
// form in base64, and so is delivery, which is left out where all of it is default; with the shared keys they are all of the
// record, see Parse.
type File struct {
	sink string
	file *jsonlines.File
	now  func() time.Time
}

// NewFile returns the dead letters of a sink, in a file of its name in the directory.
func NewFile(directory, sink string, rotation jsonlines.Rotation) (*File, error) {
	if sink == "" || sink == "." || sink == ".." || filepath.Base(sink) != sink {
		return nil, fmt.Errorf("sink %q: its name must do as a file's", sink)
	}
	if directory == "" {
		return nil, errors.New("the directory for dead letters is empty; name one")
	}
	file, err := jsonlines.NewFile(filepath.Join(directory, sink+".jsonl"), rotation)
	if err != nil {
		return nil, err
	}
	return &File{sink: sink, file: file, now: time.Now}, nil
}

// Keep returns when the records are on the disk.
func (f *File) Keep(records []record.Record, cause error) error {
	head := appendText([]byte(`{"sink":`), f.sink)
	head = appendText(append(head, `,"cause":`...), cause.Error())
	head = appendTime(append(head, `,"at":`...), f.now())
	head = append(head, `,"record":`...)
	var lines, delivery []byte
	for i := range records {
		r := &records[i]
		lines = append(lines, head...)
		var err error
		if lines, err = record.AppendJSON(lines, r); err != nil {
			lines = appendShared(lines, r)
		}
		if delivery = r.Delivery.Append(delivery[:0]); len(delivery) > 0 {
			lines = append(lines, `,"delivery":"`...)
			lines = append(base64.StdEncoding.AppendEncode(lines, delivery), '"')
		}
		lines = append(lines, `,"raw":"`...)
		lines = base64.StdEncoding.AppendEncode(lines, []byte(r.Raw))
		lines = append(lines, "\"}\n"...)
	}
	if len(lines) == 0 {
		return nil
	}
	return f.file.Append(lines)
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// appendShared writes the keys that records of all kinds have.
func appendShared(dst []byte, r *record.Record) []byte {
	dst = appendText(append(dst, `{"id":`...), r.ID())
	dst = appendText(append(dst, `,"kind":`...), r.Kind.String())
	dst = appendText(append(dst, `,"handler":`...), r.Handler)
	if r.Caller != "" {
		dst = appendText(append(dst, `,"caller":`...), r.Caller)
	}
	return append(appendTime(append(dst, `,"arrived":`...), r.Arrived), '}')
}

func appendText(dst []byte, text string) []byte {
	quoted, _ := json.Marshal(text) //nolint:errchkjson // a string has a JSON form
	return append(dst, quoted...)
}

func appendTime(dst []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(dst, '"'), time.RFC3339Nano), '"')
}

// Letter is a line of a dead-letter file.
type Letter struct {
	// Sink is which sink refused the record, Cause why, At when.
	Sink, Cause string
	At          time.Time
	// Record is the record as it was, but that a decision which names a handler has that one. Its kind is 0 if this version knows
	// none of that name, or if it is a spooled frame of another version, whole.
	Record record.Record
}

// Parse reads a line of a dead-letter file.
func Parse(line []byte) (Letter, error) {
	var l struct {
		Sink   string    `json:"sink"`
		Cause  string    `json:"cause"`
		At     time.Time `json:"at"`
		Record struct {
			ID      string    `json:"id"`
			Kind    string    `json:"kind"`
			Handler string    `json:"handler"`
			Caller  string    `json:"caller"`
			Arrived time.Time `json:"arrived"`
		} `json:"record"`
		Delivery []byte `json:"delivery"`
		Raw      []byte `json:"raw"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return Letter{}, fmt.Errorf("not a dead letter: %w", err)
	}
	kind, _ := record.ParseKind(l.Record.Kind)
	letter := Letter{Sink: l.Sink, Cause: l.Cause, At: l.At, Record: record.Record{
		Kind: kind, Handler: l.Record.Handler, Caller: l.Record.Caller, Arrived: l.Record.Arrived, Raw: string(l.Raw),
	}}
	var err error
	if letter.Record.Delivery, err = record.ParseDelivery(string(l.Delivery)); err != nil {
		return Letter{}, fmt.Errorf("not a dead letter: %w", err)
	}
	return letter, parseID(l.Record.ID, &letter.Record)
}

// parseID reads an id, <spool>-<sequence>-<index>.
func parseID(id string, r *record.Record) error {
	parts := strings.Split(id, "-")
	if len(parts) != 3 || len(parts[0]) != hex.EncodedLen(len(r.Spool)) {
		return fmt.Errorf("not a dead letter: %.100q is no record's id", id)
	}
	_, spoolErr := hex.Decode(r.Spool[:], []byte(parts[0]))
	sequence, sequenceErr := strconv.ParseUint(parts[1], 10, 64)
	index, indexErr := strconv.Atoi(parts[2])
	if err := errors.Join(spoolErr, sequenceErr, indexErr); err != nil {
		return fmt.Errorf("not a dead letter: %.100q is no record's id: %w", id, err)
	}
	r.Sequence, r.Index = sequence, index
	if r.ID() != id {
		return fmt.Errorf("not a dead letter: %.100q is no record's id; it would be written %s", id, r.ID())
	}
	return nil
}

// Discarder counts dead letters and tells the log, and lets them go. It is for where no directory is configured.
type Discarder struct {
	logger    *slog.Logger
	often     rate.Sometimes
	discarded atomic.Uint64
}

// NewDiscarder returns the discarder of a sink.
func NewDiscarder(sink string, logger *slog.Logger) *Discarder {
	const interval = 10 * time.Second
	return &Discarder{logger: logger.With("sink", sink), often: rate.Sometimes{Interval: interval}}
}

// Keep discards the records.
func (d *Discarder) Keep(records []record.Record, cause error) error {
	if len(records) == 0 {
		return nil
	}
	total := d.discarded.Add(uint64(len(records)))
	d.often.Do(func() {
		d.logger.Error("records that the sink refused for good are gone, since no directory for dead letters is configured",
			"records", len(records), "first", records[0].ID(), "discarded_total", total, "error", cause)
	})
	return nil
}

// Discarded is how many records it discarded.
func (d *Discarder) Discarded() uint64 { return d.discarded.Load() }

// Close does nothing.
func (*Discarder) Close() error { return nil }
