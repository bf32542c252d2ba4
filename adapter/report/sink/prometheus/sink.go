// Package promsink is the sink that keeps reported metrics as series for Prometheus to scrape.
package promsink

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// Sink keeps metric instances as counters, gauges and histograms, in the process's memory alone. A batch is delivered when its values
// are in the series; what was not scraped when the process ends is not seen by anybody. Records that were delivered and whose
// delivery was not noted before a crash come again, into series that begin anew: none is counted twice in one process.
//
// It is a prometheus.Collector for the classic text format and protobuf. To a counter that an operator called by a name without
// _total OpenMetrics would add it, so do not offer that.
type Sink struct {
	options   Options
	logger    *slog.Logger
	now       func() time.Time
	scratches sync.Pool
	full      rate.Sometimes // complaints

	mu     sync.Mutex
	series store
}

// complaintInterval is how often the log tells that there are too many series.
const complaintInterval = time.Minute

// New returns an empty sink.
func New(o Options, logger *slog.Logger) (*Sink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	return &Sink{
		options:   o,
		logger:    logger,
		now:       time.Now,
		scratches: sync.Pool{New: func() any { return new(scratch) }},
		full:      rate.Sometimes{Interval: complaintInterval},
		series:    newStore(o),
	}, nil
}

// Takes reports whether the sink is for records of the kind: metrics only.
func (*Sink) Takes(kind record.Kind) bool { return kind == record.KindMetric }

// Deliver puts the values of a batch into their series, all of them at one moment. Records that make no valid series or value are
// refused for good, those alone. There is no other failure but a ctx that is done already, and then nothing was counted: trying
// again counts nothing twice.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	work, _ := s.scratches.Get().(*scratch)
	defer s.release(work)
	work.read(ctx, batch, s.options.Namespace) // all of them before the first counts
	if overflowed := s.add(work.points); overflowed > 0 {
		s.full.Do(func() {
			s.logger.Warn("too many series; new ones go to the series overflow, gauges are refused", "max_series", s.options.MaxSeries, "overflowed", overflowed)
		})
	}
	return work.refused(batch)
}

// add counts points, leaves in each why it was not, and returns how many found no series of their own.
func (s *Sink) add(points []point) (overflowed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.series.expireSometimes(now)
	before := s.series.overflowed
	for i := range points {
		if p := &points[i]; p.err == nil {
			p.err = s.series.add(p, now)
		}
	}
	return s.series.overflowed - before
}

func (s *Sink) release(work *scratch) {
	const kept = 1 << 20
	clear(work.points) // they hold texts of the records
	clear(work.labels[:cap(work.labels)])
	if cap(work.buffer) <= kept {
		s.scratches.Put(work)
	}
}

// Overflowed returns how many values found no series of their own because there were as many as max_series allows.
func (s *Sink) Overflowed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.series.overflowed
}

// Series returns how many series there are. Over max_series it is by at most one for each metric.
func (s *Sink) Series() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.series.count
}

// Close does nothing: what was delivered can be scraped as long as the process lives.
func (*Sink) Close(context.Context) error { return nil }

// Describe sends nothing, which tells a registry that the metrics are not known beforehand.
func (*Sink) Describe(chan<- *prometheus.Desc) {}

// Collect sends all series as they were at one moment.
func (s *Sink) Collect(metrics chan<- prometheus.Metric) {
	for _, m := range s.snapshot() { // the lock is free again: who receives may be slow
		metrics <- m
	}
}

func (s *Sink) snapshot() []prometheus.Metric {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.series.expire(s.now())
	return s.series.metrics()
}

var (
	_ report.Sink          = (*Sink)(nil)
	_ report.Chooser       = (*Sink)(nil)
	_ prometheus.Collector = (*Sink)(nil)
)
