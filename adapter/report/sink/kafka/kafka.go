// Package kafka is the sink that produces records to a Kafka topic, as lines of JSON.
package kafka

import (
	"context"
	"log/slog"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// Sink produces to one topic. A batch is delivered when all in-sync replicas of its partitions have acknowledged it. The brokers
// recognize what a producer repeats, so a record comes twice only when nobody knows what became of it: an attempt ended, or the
// process did, before it was acknowledged. Each such end can make one more of each record without an acknowledgement, under the same id.
type Sink struct {
	options Options
	logger  *slog.Logger
	parts   client.Parts
	// idle are producers without work. One that works belongs to one batch, so that neither its errors nor its end are about others'
	// records, and has buffered nothing that is not of that batch.
	idle chan *producer
}

// maxIdle is how many producers are kept for later batches.
const maxIdle = 16

// New returns a sink. It connects to nobody; the library's own log goes to the logger's debug level.
func New(o Options, logger *slog.Logger) (*Sink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Sink{options: o, logger: logger, idle: make(chan *producer, maxIdle)}, nil
}

// Deliver produces a batch and waits until all of it is acknowledged. Records that are too large, that the brokers find invalid or that
// cannot be written as JSON are refused for good, those alone; everything else is tried again, without what was acknowledged.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	return s.parts.Deliver(ctx, batch, s.send)
}

func (s *Sink) send(ctx context.Context, part []record.Record) error {
	p, err := s.take(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, p.abort)
	healthy, err := p.produce(ctx, part)
	if aborted := !stop(); aborted || !healthy {
		p.close()
		return err
	}
	select {
	case s.idle <- p:
	default:
		p.close()
	}
	return err
}

func (s *Sink) take(ctx context.Context) (*producer, error) {
	select {
	case p := <-s.idle:
		return p, nil
	default:
		return newProducer(ctx, s.options, s.logger)
	}
}

// Close ends all connections.
func (s *Sink) Close(context.Context) error {
	for {
		select {
		case p := <-s.idle:
			p.close()
		default:
			return nil
		}
	}
}
