// Package otlp is the sink that sends records to an OpenTelemetry Collector, or to whatever else takes OTLP, by gRPC or by
// HTTP/protobuf: log entries, edges, decisions and empty reports as log records, trace spans as spans, metrics as data points.
// docs/sinks/otlp.md has the mapping.
//
// It sends with no OpenTelemetry SDK: their exporters buffer and retry by themselves, and then nobody can say what was delivered.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// Sink sends batches. A batch is delivered when the other side has answered for each of its signals that it took it. What that is
// worth is up to the other side: a Collector answers when its receiver has handed the data to the first processor, and with the
// batch processor that is memory.
//
// Records come twice if the answer is lost: at most the batches under way at a crash or a broken connection, once for each attempt.
// Log records and spans can then be told by tollgate.record.id; data points cannot.
type Sink struct {
	encoding encoding
	exporter exporter
	logger   *slog.Logger

	complaint rate.Sometimes
	rejected  atomic.Uint64
}

var _ report.Sink = (*Sink)(nil)

// exporter sends one request. Its errors are retryable unless they are *report.Undelivered or errTooLarge. It fills in the answer.
type exporter interface {
	export(ctx context.Context, r *request) error
	close() error
}

// errTooLarge means that the other side takes requests, but none of this size.
var errTooLarge = errors.New("too large for the other side")

// New returns the sink. It connects with the first batch.
func New(o Options, logger *slog.Logger) (*Sink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := &Sink{
		encoding:  newEncoding(o.Resource),
		logger:    logger,
		complaint: rate.Sometimes{Interval: 10 * time.Second},
	}
	var err error
	if s.exporter, err = newExporter(&o); err != nil {
		return nil, err
	}
	return s, nil
}

func newExporter(o *Options) (e exporter, err error) {
	if o.Protocol == protocolHTTP {
		e, err = newHTTPExporter(o)
	} else {
		e, err = newGRPCExporter(o)
	}
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	return e, nil
}

// Rejected returns how many log records, spans and data points the other side has rejected in requests of which it took the rest.
// It does not say which, so they count as delivered.
func (s *Sink) Rejected() uint64 { return s.rejected.Load() }

// Close closes the connections.
func (s *Sink) Close(context.Context) error { return s.exporter.close() }

// Deliver sends a batch, one request for each of its signals, and waits for the answers. Requests that are too large for the other
// side are halved. The error is about records that can never be sent, and those that are refused for good; or, where some are to be tried
// again, about all that were not delivered.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	d := delivery{sink: s, batch: batch, delivered: make([]bool, len(batch))}
	var failures []error
	var pause time.Duration
	for i, indices := range d.split() {
		err := d.send(ctx, signal(i), indices)
		if err == nil {
			continue
		}
		failures = appendCause(failures, err)
		if u, ok := errors.AsType[*report.Undelivered](err); ok {
			pause = max(pause, u.After)
		}
		if pause > 0 || ctx.Err() != nil {
			break
		}
	}
	if len(failures) > 0 {
		return &report.Undelivered{Records: d.undelivered(), After: pause, Err: errors.Join(failures...)}
	}
	return d.refused.err()
}

// delivery is one attempt at a batch.
type delivery struct {
	sink      *Sink
	batch     []record.Record
	delivered []bool
	refused   refusals
}

// split sorts the indices of the records by signal.
func (d *delivery) split() (parts [signals][]int) {
	for i := range d.batch {
		signal, known := signalOf(d.batch[i].Kind)
		if !known {
			d.refused.add([]int{i}, fmt.Errorf("%w: %d", record.ErrKind, d.batch[i].Kind))
			continue
		}
		parts[signal] = append(parts[signal], i)
	}
	return parts
}

// undelivered returns the indices of what was not delivered.
func (d *delivery) undelivered() (indices []int) {
	for i, delivered := range d.delivered {
		if !delivered {
			indices = append(indices, i)
		}
	}
	return indices
}

// send delivers records of one signal, or says why they are to be tried again.
func (d *delivery) send(ctx context.Context, signal signal, indices []int) error {
	if len(indices) == 0 {
		return nil
	}
	r := d.sink.encoding.encode(ctx, signal, d.batch, indices, &d.refused)
	if len(r.records) == 0 {
		return nil
	}
	err := d.sink.exporter.export(ctx, r)
	if u, ok := errors.AsType[*report.Undelivered](err); ok && u.Permanent {
		d.refused.add(r.records, u.Err)
		return nil
	}
	switch {
	case err == nil:
		d.settle(r)
		return nil
	case !errors.Is(err, errTooLarge):
		return err
	case len(r.records) == 1:
		d.refused.add(r.records, err)
		return nil
	}
	half := len(r.records) / 2
	if err := d.send(ctx, signal, r.records[:half]); err != nil {
		return err
	}
	return d.send(ctx, signal, r.records[half:])
}

// settle counts what a request's answer says. Of one that was rejected in part nobody can tell which part. Sending it again would
// double the rest, and dead letters would claim that the rest was not delivered; so it is told, counted, and taken as delivered.
func (d *delivery) settle(r *request) {
	rejected, message := r.rejected()
	if rejected >= int64(r.items) {
		d.refused.add(r.records, fmt.Errorf("all %d %s were rejected: %s", r.items, r.signal.items(), quote(message)))
		return
	}
	for _, i := range r.records {
		d.delivered[i] = true
	}
	if rejected <= 0 && message == "" {
		return
	}
	rejected = max(rejected, 0)
	d.sink.rejected.Add(uint64(rejected))
	d.sink.complaint.Do(func() {
		d.sink.logger.Warn("the other side took a request and complained",
			"items", r.signal.items(), "sent", r.items, "rejected", rejected, "message", quote(message))
	})
}

// refusals are the records that can never be delivered, and why.
type refusals struct {
	records []int
	causes  []error
}

func (r *refusals) add(records []int, cause error) {
	r.records = append(r.records, records...)
	r.causes = appendCause(r.causes, cause)
}

// appendCause keeps a few causes: one mistake is often made many times.
func appendCause(causes []error, cause error) []error {
	const most = 8
	if len(causes) == most || slices.ContainsFunc(causes, func(known error) bool { return known.Error() == cause.Error() }) {
		return causes
	}
	return append(causes, cause)
}

// err returns nil if there are none.
func (r *refusals) err() error {
	if len(r.records) == 0 {
		return nil
	}
	slices.Sort(r.records)
	return &report.Undelivered{Permanent: true, Records: r.records, Err: errors.Join(r.causes...)}
}

// quote cuts a text of the other side's and keeps it on one line.
func quote(message string) string {
	const most = 256
	if len(message) > most {
		message = message[:most] + "…"
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(message, ""))
}
