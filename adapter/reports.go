package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/file"
	httpsink "github.com/tollgate-mesh/tollgate/adapter/report/sink/http"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/kafka"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/otlp"
	promsink "github.com/tollgate-mesh/tollgate/adapter/report/sink/prometheus"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/stdout"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// deadLetterDirectory is where dead letters are, beside the directories of the sinks' queues.
const deadLetterDirectory = "dead-letters"

// reporting is where records go: those of reports, and those of decisions.
type reporting struct {
	pipeline  *report.Pipeline
	sinks     map[string]report.Sink
	decisions *decisionlog.Log
}

// openReporting opens the pipeline with the decision log before it, and makes what they count metrics.
func openReporting(ctx context.Context, s settings.Reports, observer *observe.Observer, logger *slog.Logger) (reporting, error) {
	pipeline, sinks, err := openPipeline(ctx, s, os.Stdout, logger)
	if err != nil {
		return reporting{}, err
	}
	observer.CountReports(pipeline)
	observer.CountSinks(sinks)
	decisions := decisionlog.New(pipeline, decisionlog.Options{
		Sinks: pipeline.Sinks(), Default: s.WithDefaults().DefaultSinks, Complain: observer.DecisionsDropped,
	})
	observer.CountDecisionLog(decisions)
	return reporting{pipeline, sinks, decisions}, nil
}

// metrics returns the pages of metrics by their names: that of the process, "", and those of sinks that keep series.
func (a *Adapter) metrics(observer *observe.Observer) map[string]prometheus.Gatherer {
	pages := map[string]prometheus.Gatherer{"": observer.Registry()}
	for name, sink := range a.sinks {
		if series, ok := sink.(prometheus.Collector); ok {
			registry := prometheus.NewRegistry()
			registry.MustRegister(series)
			pages[name] = registry
		}
	}
	return pages
}

// openPipeline opens the queues and sinks of the settings. Run of the pipeline closes them; the sinks are returned by their names
// for whoever serves or counts what they hold.
func openPipeline(ctx context.Context, s settings.Reports, output io.Writer, logger *slog.Logger) (*report.Pipeline, map[string]report.Sink, error) {
	s = s.WithDefaults()
	var lanes []report.Lane
	sinks := map[string]report.Sink{}
	fail := func(err error) (*report.Pipeline, map[string]report.Sink, error) {
		for _, l := range lanes {
			err = errors.Join(err, l.Queue.Close(), l.Sink.Close(ctx), l.DeadLetters.Close())
		}
		return nil, nil, err
	}
	if info, err := os.Stat(s.Directory); err == nil && !info.IsDir() {
		return nil, nil, fmt.Errorf("reports.directory is %q, which is no directory; name one, which is made if it is not there", s.Directory)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sinks)) {
		lane, err := openLane(ctx, s, name, output, logger)
		if err != nil {
			return fail(err)
		}
		lanes = append(lanes, lane)
		sinks[name] = lane.Sink
	}
	pipeline, err := report.NewPipeline(lanes, logger)
	if err != nil {
		return fail(err)
	}
	warnOfOrphans(s, logger)
	return pipeline, sinks, nil
}

func openLane(ctx context.Context, s settings.Reports, name string, output io.Writer, logger *slog.Logger) (lane report.Lane, err error) {
	lane = report.Lane{Name: name, Batching: batching(s.Sinks[name].Batch)}
	if lane.Sink, err = openSink(s, name, output, logger); err != nil {
		return report.Lane{}, withPath("reports.sinks."+name+".", err)
	}
	if lane.DeadLetters, err = openDeadLetters(s, name, logger); err != nil {
		return report.Lane{}, errors.Join(fmt.Errorf("reports.sinks.%s: %w", name, err), lane.Sink.Close(ctx))
	}
	if lane.Queue, err = openQueue(s, name); err != nil {
		return report.Lane{}, errors.Join(fmt.Errorf("reports.sinks.%s: %w", name, err), lane.Sink.Close(ctx), lane.DeadLetters.Close())
	}
	return lane, nil
}

// OpenSink opens one sink of the settings, for whoever delivers without serving. Standard output is the process's.
func OpenSink(s settings.Settings, name string, logger *slog.Logger) (report.Sink, error) {
	reports := s.Reports.WithDefaults()
	if _, ok := reports.Sinks[name]; !ok {
		return nil, fmt.Errorf("there is no sink %q; use one of %q", name, slices.Sorted(maps.Keys(reports.Sinks)))
	}
	sink, err := openSink(reports, name, os.Stdout, logger)
	if err != nil {
		return nil, withPath("reports.sinks."+name+".", err)
	}
	return sink, nil
}

// Batching returns how a sink's records are put together.
func Batching(s settings.Settings, name string) report.Batching {
	return batching(s.Reports.WithDefaults().Sinks[name].Batch)
}

// openSink opens a sink. Its problems begin with the key of the sink's kind.
func openSink(s settings.Reports, name string, output io.Writer, logger *slog.Logger) (report.Sink, error) {
	sink := s.Sinks[name]
	logger = logger.With("sink", name)
	var opened report.Sink
	var kind string
	var err error
	switch {
	case sink.Stdout != nil:
		opened = stdout.New(output)
	case sink.File != nil:
		f := sink.File
		kind = "file"
		opened, err = file.New(f.Path, jsonlines.Rotation{Megabytes: f.Megabytes, Every: f.Every, KeepDays: f.KeepDays, KeepFiles: f.KeepFiles})
	case sink.OTLP != nil:
		kind = "otlp"
		opened, err = otlp.New(otlpOptions(sink.OTLP), logger)
	case sink.Kafka != nil:
		k := sink.Kafka
		kind = "kafka"
		opened, err = kafka.New(kafka.Options{
			Brokers: k.Brokers, Topic: k.Topic, TLS: client.TLS(k.TLS), Compression: k.Compression, Key: kafka.Key(k.Key), MaxMessageBytes: k.MaxMessageBytes,
			SASL: kafka.SASL{
				Mechanism: k.SASL.Mechanism, User: client.Credential(k.SASL.User), Password: client.Credential(k.SASL.Password),
			},
		}, logger)
	case sink.HTTP != nil:
		h := sink.HTTP
		kind = "http"
		opened, err = httpsink.New(httpsink.Options{
			URL: h.URL, Method: h.Method, Headers: h.Headers, Credential: client.Credential(h.Credential),
			CredentialHeader: h.CredentialHeader, TLS: client.TLS(h.TLS), Compression: h.Compression,
		}, logger)
	case sink.Prometheus != nil:
		p := sink.Prometheus
		kind = "prometheus"
		opened, err = promsink.New(promsink.Options{Namespace: p.Namespace, MaxSeries: p.MaxSeries, IdleExpiry: p.IdleExpiry}, logger)
	default: // settings that were validated have no such sink
		return nil, errors.New("kind is missing")
	}
	if err != nil {
		return nil, withPath(kind+".", err)
	}
	return opened, nil
}

// withPath puts the path of a section before each problem that was found in it, which begins with a key.
func withPath(path string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s%w", path, err)
	}
	var problems []error
	for _, problem := range joined.Unwrap() {
		problems = append(problems, withPath(path, problem))
	}
	return errors.Join(problems...)
}

func openDeadLetters(s settings.Reports, name string, logger *slog.Logger) (report.DeadLetters, error) {
	if s.Directory == "" {
		return deadletter.NewDiscarder(name, logger), nil
	}
	return deadletter.NewFile(filepath.Join(s.Directory, deadLetterDirectory), name, jsonlines.Rotation{})
}

func openQueue(s settings.Reports, name string) (spool.Queue, error) {
	q := s.Sinks[name].Queue
	options := spool.Options{MaxBytes: q.MaxBytes, MaxAge: q.MaxAge, FullWait: q.FullWait}
	switch q.Full {
	case "drop_oldest":
		options.Full = spool.DropOldest
	case "drop_newest":
		options.Full = spool.DropNewest
	}
	if q.Sync == "os" {
		options.Sync = spool.SyncOS
	}
	if s.Directory == "" {
		return spool.NewMemory(options)
	}
	return spool.Open(filepath.Join(s.Directory, name), options)
}

func batching(b settings.Batch) report.Batching {
	return report.Batching{
		Records: b.Records, Bytes: b.Bytes, Wait: b.Wait, Concurrency: b.Concurrency, Timeout: b.Timeout,
		Backoff: b.Backoff, MaxBackoff: b.MaxBackoff, GiveUpAfter: b.GiveUpAfter,
	}
}

// warnOfOrphans tells of queues whose sink is in the settings no more: nobody delivers what is in them.
func warnOfOrphans(s settings.Reports, logger *slog.Logger) {
	if s.Directory == "" {
		return
	}
	entries, err := os.ReadDir(s.Directory)
	if err != nil {
		return // the queues themselves say what is wrong
	}
	for _, e := range entries {
		if _, known := s.Sinks[e.Name()]; known || !e.IsDir() || e.Name() == deadLetterDirectory {
			continue
		}
		directory := filepath.Join(s.Directory, e.Name())
		if found, err := spool.Inspect(directory, func(spool.Frame, bool) error { return nil }); err == nil && found.Pending.Records > 0 {
			logger.Warn("records wait for a sink that the settings do not have; add it again, or deliver them with `tollgate spool replay`",
				"directory", directory, "records", found.Pending.Records)
		}
	}
}
