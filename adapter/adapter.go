// Package adapter assembles the service: engines, doors and listeners. It starts them in order and ends them in order.
package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/admin"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
	"github.com/tollgate-mesh/tollgate/adapter/transport"
)

// Adapter is the service, ready to run: everything that can fail for a reason in the settings has been tried.
type Adapter struct {
	stores
	reporting

	settings settings.Settings
	logger   *slog.Logger
	server   *grpc.Server
	health   *health.Server
	// endWatches ends the streams of those who watch the health service.
	endWatches context.CancelFunc
	transport  *transport.Transport
	listener   net.Listener
	admin      *admin.Server
	// adminListener is nil where the settings want none.
	adminListener net.Listener
	tracer        *tracing.Tracer // nil for no traces
	activity      *activity.Activity
	level         *observe.Level
	// conditions are what has to hold for calls to come.
	conditions *readiness.Conditions
	version    string
	started    time.Time
	shadows    *policy.Shadows
	checks     *pace.Checks
	// after is time.After, but in tests that end the drain time themselves.
	after func(time.Duration) <-chan time.Time
	// flushSpans is how long the end waits for spans to be sent.
	flushSpans time.Duration
	serving    atomic.Bool
	// statusMu keeps the health service and serving of one mind.
	statusMu sync.Mutex
}

// New assembles the service and opens its listeners. The settings must be valid. Run closes what New opened.
func New(ctx context.Context, s settings.Settings, version string, logger *slog.Logger) (*Adapter, error) {
	observer := observe.New(logger, version)
	stores, err := openStores(ctx, s, observer, logger)
	if err != nil {
		return nil, err
	}
	access, err := transport.New(ctx, s, stores.secrets, observer, logger)
	if err != nil {
		return nil, errors.Join(err, stores.redis.Close())
	}
	observer.CountTransport(access)
	reporting, err := openReporting(ctx, s.Reports, observer, logger)
	if err != nil {
		return nil, errors.Join(err, stores.redis.Close())
	}
	tracer, spans, err := openTracer(s.Traces, version, observer)
	if err != nil {
		return nil, errors.Join(err, closePipeline(ctx, reporting.pipeline), stores.redis.Close())
	}
	watches, endWatches := context.WithCancel(context.WithoutCancel(ctx))
	a := &Adapter{
		stores:     stores,
		reporting:  reporting,
		settings:   s,
		logger:     logger,
		server:     access.NewServer(mixer.NewCodec()),
		transport:  access,
		health:     health.NewServer(),
		endWatches: endWatches,
		tracer:     tracer,
		activity:   activity.New(),
		level:      observe.LevelOf(logger),
		conditions: &readiness.Conditions{SourceWait: s.Readiness.SourceWait},
		version:    version,
		started:    time.Now(),
		checks:     pace.New(),
		after:      time.After,
		flushSpans: flushSpans,
	}
	a.setServing(false) // the health service would say yes until it is told
	a.shadows = a.newShadows(observer)
	a.newDoor(observer, spans).Register(a.server)
	healthpb.RegisterHealthServer(a.server, healthService{a.health, watches})
	a.conditions.Add(a.readiness()...)
	observer.CountReadiness(a.conditions.For)
	a.admin = admin.New(admin.Options{Metrics: a.metrics(observer), Ready: a.conditions.For, Level: a.level, Status: a.status})
	if err := errors.Join(registerReflection(a.server), a.listen(ctx)); err != nil {
		endWatches()
		a.server.Stop() // its workers are there already
		return nil, errors.Join(err, closeUnused(ctx, a.runTracer), closePipeline(ctx, a.pipeline), a.redis.Close())
	}
	return a, nil
}

// listen opens the listeners.
func (a *Adapter) listen(ctx context.Context) (err error) {
	s := a.settings
	if a.listener, err = a.transport.Listen(ctx); err != nil {
		return err
	}
	if s.Admin == "" {
		return nil
	}
	if a.adminListener, err = transport.Listen(ctx, "admin", s.Admin, s.AllowPlaintext, a.logger); err != nil {
		_ = a.listener.Close()
	}
	return err
}

// Address returns where Mixer's calls are taken: host:port, or unix:///PATH.
func (a *Adapter) Address() string {
	address := a.listener.Addr()
	if address.Network() == "unix" {
		return "unix://" + address.String()
	}
	return address.String()
}

// AdminAddress returns where the admin server listens; empty for nowhere.
func (a *Adapter) AdminAddress() string {
	if a.adminListener == nil {
		return ""
	}
	return a.adminListener.Addr().String()
}

// Run serves until ctx is done or a listener fails. Then, in this order: it says that it is not ready, serves on for the drain
// time, lets calls under way finish, and ends the rest. It returns nil after an orderly end.
func (a *Adapter) Run(ctx context.Context) error {
	// The parts outlive ctx: they end in the order below, not all at once.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(parts)
	group.Go(func() error { return a.secrets.Watch(parts) })
	group.Go(func() error { return a.keySets.Run(parts) })
	group.Go(func() error { return a.lists.Run(parts) })
	group.Go(func() error { return a.htpasswd.Run(parts) })
	// What was taken is delivered after nobody is served any more: first the decisions become records, then the records go out.
	deliver := newStage(parts, func(ctx context.Context) error {
		return a.pipeline.Run(pace.NewContext(ctx, a.checks), a.settings.Reports.Flush)
	})
	record := newStage(parts, func(ctx context.Context) error { a.decisions.Run(ctx); return nil })
	trace := newStage(parts, a.runTracer)
	group.Go(func() error { return a.watchReadiness(parts) })
	begun := make(chan struct{})
	group.Go(func() error { a.transport.Run(parts, func() { close(begun) }); return nil })
	tried := make(chan struct{})
	group.Go(func() error { return a.policies.Run(parts, func() { close(tried) }) })
	select {
	case <-begun:
	case <-ctx.Done():
	}
	// What is called before its policy is there fails closed, or open; a server that hangs must not keep away the handlers that need none.
	select {
	case <-tried:
	case <-time.After(policyPatience):
	case <-ctx.Done():
	}
	// Before anybody is answered, so that the first who asks is told the truth.
	a.conditions.Start()
	a.setServing(true)
	group.Go(func() error {
		// It says that it was stopped where Run is told to end before it has begun.
		if err := a.server.Serve(a.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("listen: %w", err)
		}
		return nil
	})
	if a.adminListener != nil {
		group.Go(func() error { return a.admin.Serve(a.adminListener) })
	}
	a.logger.Info("serving", "address", a.Address(), "admin", a.AdminAddress())

	select {
	case <-ctx.Done():
		a.logger.Info("shutting down", "drain", a.settings.Shutdown.Drain.String(), "timeout", a.settings.Shutdown.Timeout.String())
	case <-failed.Done():
	}
	a.setServing(false)
	select {
	case <-a.after(a.settings.Shutdown.Drain):
	case <-failed.Done():
	}
	a.stopServer()
	a.endShadows(ctx)
	undelivered := errors.Join(trace.end(), record.end(), deliver.end())
	a.tellPending()
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	a.admin.Shutdown(finish)
	a.level.Close()
	stop()
	err := errors.Join(group.Wait(), undelivered, a.redis.Close())
	a.logger.Info("ended")
	return err
}

// tellPending says what is left for the next start. No scrape may come to see it any more, and where the directory ends with the process, as a
// pod's emptyDir does, this is all that tells of the loss.
func (a *Adapter) tellPending() {
	for name, stats := range a.pipeline.Stats() {
		if stats.Pending.Records > 0 {
			a.logger.Warn("records are left for the next start with this directory", "sink", name, "records", stats.Pending.Records, "directory", a.settings.Reports.Directory)
		}
	}
}

// endShadows cuts off the candidates under way. None keeps the process from ending.
func (a *Adapter) endShadows(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	a.shadows.End(ctx)
}

// stopServer lets calls under way finish, up to the timeout.
func (a *Adapter) stopServer() {
	a.endWatches()
	finished := make(chan struct{})
	go func() {
		a.server.GracefulStop()
		close(finished)
	}()
	select {
	case <-finished:
	case <-time.After(a.settings.Shutdown.Timeout):
		a.logger.Warn("calls under way were cut off", "after", a.settings.Shutdown.Timeout.String())
		a.server.Stop()
		<-finished
	}
}
