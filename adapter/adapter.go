// Package adapter assembles the service: engines, doors and listeners. It starts them in order and ends them in order.
package adapter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/admin"
	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/htpasswd"
	"github.com/tollgate-mesh/tollgate/adapter/keyset"
	"github.com/tollgate-mesh/tollgate/adapter/lists"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/apikey"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
	"github.com/tollgate-mesh/tollgate/adapter/transport"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/template"
)

// Adapter is the service, ready to run: everything that can fail for a reason in the settings has been tried.
type Adapter struct {
	settings settings.Settings
	logger   *slog.Logger
	secrets  *secret.Store
	keySets  *keyset.Store
	lists    *lists.Store
	redis    redisStores
	htpasswd *htpasswd.Store
	policies *policies.Store
	server   *grpc.Server
	health   *health.Server
	// endWatches ends the streams of those who watch the health service.
	endWatches context.CancelFunc
	transport  *transport.Transport
	listener   net.Listener
	admin      *admin.Server
	// adminListener is nil where the settings want none.
	adminListener net.Listener
	pipeline      *report.Pipeline
	decisions     *decisionlog.Log
	tracer        *tracing.Tracer // nil for no traces
	activity      *activity.Activity
	level         *observe.Level
	// conditions are what has to hold for calls to come.
	conditions *readiness.Conditions
	version    string
	started    time.Time
	shadows    *policy.Shadows
	serving    atomic.Bool
	// statusMu keeps the health service and serving of one mind.
	statusMu sync.Mutex
}

// New assembles the service and opens its listeners. The settings must be valid. Run closes what New opened.
func New(ctx context.Context, s settings.Settings, version string, logger *slog.Logger) (*Adapter, error) {
	store, err := secret.Open(secret.Sources{Directory: s.Secrets.Directory, Files: s.Secrets.Files}, logger)
	if err != nil {
		return nil, err
	}
	observer := observe.New(logger, version)
	observer.CountSecrets(store.Unavailable)
	keySets := keyset.Open(ctx, keySetSources(s.KeySets), logger)
	observer.CountKeySets(keySets.Stats)
	access, err := transport.New(ctx, s, store, observer, logger)
	if err != nil {
		return nil, err
	}
	observer.CountTransport(access)
	named := lists.Open(ctx, listSources(s.Lists), logger)
	observer.CountLists(named.Stats)
	users := htpasswd.Open(ctx, htpasswdSources(s.Htpasswd), logger)
	observer.CountHtpasswd(users.Stats)
	environment, sources, err := openPolicies(s, observer, logger) //nolint:contextcheck // preparing a policy ends by itself
	if err != nil {
		return nil, err
	}
	observer.CountPolicies(sources.Stats)
	shared, err := openRedis(s.Redis)
	if err != nil {
		return nil, err
	}
	pipeline, sinks, err := openPipeline(ctx, s.Reports, os.Stdout, logger)
	if err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	observer.CountReports(pipeline)
	observer.CountSinks(sinks)
	reports := s.Reports.WithDefaults()
	decisions := decisionlog.New(pipeline, decisionlog.Options{Sinks: pipeline.Sinks(), Default: reports.DefaultSinks, Complain: observer.DecisionsDropped})
	observer.CountDecisionLog(decisions)
	gate := policy.NewGate(s.Limits.ConcurrentChecks, s.Limits.QueueWait)
	tracer, spans, err := openTracer(s.Traces, version, observer)
	if err != nil {
		return nil, errors.Join(err, closePipeline(ctx, pipeline), shared.Close())
	}
	seen := activity.New()
	remembered := rego.NewCache(s.Limits.DecisionCache.Bytes, s.Limits.DecisionCache.HandlerBytes)
	observer.CountDecisionCache(remembered.Stats)
	// Candidates have kinds and a gate of their own: what a kind keeps between requests must not be touched by what decides nothing.
	compiler := func(gate *policy.Gate, tokens *jwt.Cache, passwords *basic.Verifier, regos rego.Kind) *policy.Compiler {
		regos.Sources, regos.Environment = sources, environment
		return &policy.Compiler{
			Kinds: []policy.Kind{
				header.Kind{Secrets: secrets{store}},
				// Before the policies, which see the claims.
				jwt.Kind{KeySets: jwtKeySets{keySets}, Cache: tokens},
				apikey.Kind{Secrets: secrets{store}},
				list.Kind{Sources: named},
				basic.Kind{Files: users, Verifier: passwords},
				regos,
			},
			Timeout: s.EvaluationTimeout,
			Gate:    gate,
		}
	}
	shadows := policy.NewShadows(
		compiler(policy.NewGate(s.Limits.ShadowChecks, 0), jwt.NewCache(shadowTokenEntries, shadowTokenBytes), basic.NewVerifier(s.Limits.ShadowChecks),
			rego.Kind{Candidates: true}),
		s.Limits.Handlers.RetryAfter, shadowObserver{observer, decisions})
	counts := quota.NewMemory(s.Limits.QuotaCounts)
	observer.CountQuotas(counts.Counts)
	door := mixer.NewDoor(mixer.Engines{
		Compiler: compiler(gate, jwt.NewCache(tokenCacheEntries, tokenCacheBytes), basic.NewVerifier(s.Limits.ConcurrentChecks), rego.Kind{Cache: remembered}),
		Shadows:  shadows,
		Quotas: &policy.Compiler{
			Kinds:   []policy.Kind{quota.Kind{Memory: counts, Stores: shared.stores()}},
			Timeout: s.EvaluationTimeout,
			// Its own: those who wait for a Redis that hangs must not keep checks out.
			Gate:  policy.NewGate(s.Limits.ConcurrentChecks, s.Limits.QueueWait),
			Scope: quota.Scope,
		},
		Planner:  &report.Planner{Sinks: pipeline.Sinks(), Default: reports.DefaultSinks},
		Acceptor: pipeline,
		Recorder: recorders{decisions, seen},
		Tracer:   spans,
		Caller:   transport.Caller,
		TooLarge: access.TooLarge,
	}, mixer.HandlerLimits{
		Entries:    s.Limits.Handlers.Entries,
		Bytes:      s.Limits.Handlers.Bytes,
		Compiling:  s.Limits.Handlers.Compiling,
		Waiting:    s.Limits.Handlers.Waiting,
		RetryAfter: s.Limits.Handlers.RetryAfter,
	}, observers{observer, seen})
	door.BoundReports(reportLimits(s.Limits.Reports), gate.Crowded)

	watches, endWatches := context.WithCancel(context.WithoutCancel(ctx))
	a := &Adapter{
		settings:   s,
		logger:     logger,
		secrets:    store,
		keySets:    keySets,
		server:     access.NewServer(mixer.NewCodec()),
		transport:  access,
		lists:      named,
		redis:      shared,
		htpasswd:   users,
		policies:   sources,
		health:     health.NewServer(),
		endWatches: endWatches,
		pipeline:   pipeline,
		decisions:  decisions,
		tracer:     tracer,
		activity:   seen,
		level:      observe.LevelOf(logger),
		conditions: &readiness.Conditions{SourceWait: s.Readiness.SourceWait},
		version:    version,
		started:    time.Now(),
		shadows:    shadows,
	}
	pages := map[string]prometheus.Gatherer{"": observer.Registry()}
	for name, sink := range sinks {
		if series, ok := sink.(prometheus.Collector); ok {
			registry := prometheus.NewRegistry()
			registry.MustRegister(series)
			pages[name] = registry
		}
	}
	a.conditions.Add(a.readiness()...)
	observer.CountReadiness(a.conditions.For)
	a.admin = admin.New(admin.Options{Metrics: pages, Ready: a.conditions.For, Level: a.level, Status: a.status})
	door.Register(a.server)
	healthpb.RegisterHealthServer(a.server, healthService{a.health, watches})
	if err := errors.Join(registerReflection(a.server), a.listen(ctx)); err != nil {
		endWatches()
		a.server.Stop() // its workers are there already
		return nil, errors.Join(err, closeUnused(ctx, a.runTracer), closePipeline(ctx, pipeline), shared.Close())
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
	deliver := newStage(parts, func(ctx context.Context) error { return a.pipeline.Run(ctx, a.settings.Reports.Flush) })
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
	a.conditions.Start()
	a.setServing(true)
	a.logger.Info("serving", "address", a.Address(), "admin", a.AdminAddress())

	select {
	case <-ctx.Done():
		a.logger.Info("shutting down", "drain", a.settings.Shutdown.Drain.String(), "timeout", a.settings.Shutdown.Timeout.String())
	case <-failed.Done():
	}
	a.setServing(false)
	select {
	case <-time.After(a.settings.Shutdown.Drain):
	case <-failed.Done():
	}
	a.stopServer()
	a.endShadows(ctx)
	undelivered := errors.Join(trace.end(), record.end(), deliver.end())
	a.tellPending()
	a.level.Close()
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	a.admin.Shutdown(finish)
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

// shadowObserver counts candidates' decisions and has those recorded that differ.
type shadowObserver struct {
	*observe.Observer
	decisions *decisionlog.Log
}

// Compared records before it counts, so that what is counted is on its way.
func (s shadowObserver) Compared(c *policy.Comparison) {
	s.decisions.RecordShadow(c)
	s.Observer.Compared(c)
}

// stage is a part of the service that ends in its turn.
type stage struct {
	stop context.CancelFunc
	done chan error
}

func newStage(ctx context.Context, run func(ctx context.Context) error) *stage {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &stage{stop: stop, done: make(chan error, 1)}
	go func() { s.done <- run(ctx) }()
	return s
}

// end ends the part and returns when it has ended.
func (s *stage) end() error {
	s.stop()
	return <-s.done
}

// closePipeline lets go of a pipeline that never ran.
func closePipeline(ctx context.Context, pipeline *report.Pipeline) error {
	return closeUnused(ctx, func(ctx context.Context) error { return pipeline.Run(ctx, 0) })
}

// closeUnused lets go of a part that never ran.
func closeUnused(ctx context.Context, run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return run(ctx)
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

// healthService is gRPC's health service whose watchers are let go when done is: they would stay as long as there is a server,
// and a graceful stop waits for them.
type healthService struct {
	*health.Server
	done context.Context
}

// Watch sends the status at every change.
func (h healthService) Watch(request *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(h.done, cancel)()
	return h.Server.Watch(request, watchStream{stream, ctx})
}

type watchStream struct {
	healthpb.Health_WatchServer
	ctx context.Context
}

// Context returns the stream's context, which ends with the service as well.
func (s watchStream) Context() context.Context { return s.ctx }

// registerReflection lets tools such as grpcurl see the services with their messages.
func registerReflection(server *grpc.Server) error {
	templates, err := template.Files()
	if err != nil {
		return fmt.Errorf("template descriptors: %w", err)
	}
	reflectionpb.RegisterServerReflectionServer(server, reflection.NewServerV1(reflection.ServerOptions{
		Services:           server,
		DescriptorResolver: resolvers{templates, protoregistry.GlobalFiles},
	}))
	return nil
}

// resolvers asks several sources of descriptors in turn.
type resolvers []protodesc.Resolver

func (r resolvers) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	for _, resolver := range r {
		if found, err := resolver.FindFileByPath(path); err == nil {
			return found, nil
		}
	}
	return nil, protoregistry.NotFound
}

func (r resolvers) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	for _, resolver := range r {
		if found, err := resolver.FindDescriptorByName(name); err == nil {
			return found, nil
		}
	}
	return nil, protoregistry.NotFound
}

// secrets lets checks see the store without knowing it.
type secrets struct{ store *secret.Store }

func (s secrets) Secret(name string) (credential.Secret, bool) {
	found, ok := s.store.Secret(name)
	if !ok {
		return nil, false
	}
	return found, true
}

// Bounds of the cache of verified tokens. Decoded claims take some ten times the bytes of their text.
const (
	tokenCacheEntries = 10_000
	tokenCacheBytes   = 8 << 20
	// Those of candidates, whose checks may be slower.
	shadowTokenEntries = 1000
	shadowTokenBytes   = 1 << 20
)

func keySetSources(sets map[string]settings.KeySet) map[string]keyset.Source {
	sources := make(map[string]keyset.Source, len(sets))
	for name, set := range sets {
		set = set.WithDefaults()
		sources[name] = keyset.Source{Symmetric: set.Symmetric, From: follow.Source{
			File: set.File, URL: set.URL, CA: set.CA, Refresh: set.Refresh, MinRefresh: set.MinRefresh, MaxStale: set.MaxStale, Timeout: set.Timeout,
		}}
	}
	return sources
}

// jwtKeySets lets JWT checks see the store without knowing it.
type jwtKeySets struct{ store *keyset.Store }

func (j jwtKeySets) KeySet(name string) (jwt.KeySet, bool) {
	s, ok := j.store.Set(name)
	if !ok {
		return nil, false
	}
	return s, true
}

func listSources(settings map[string]settings.List) map[string]lists.Source {
	sources := make(map[string]lists.Source, len(settings))
	for name, l := range settings {
		l = l.WithDefaults()
		entryType, _ := config.ParseEntryType(l.Type)
		sources[name] = lists.Source{Type: entryType, From: follow.Source{
			File: l.File, URL: l.URL, CA: l.CA, Refresh: l.Refresh, MaxStale: l.MaxStale, Timeout: l.Timeout,
		}}
	}
	return sources
}

func htpasswdSources(files map[string]settings.Htpasswd) map[string]follow.Source {
	const timeout = 10 * time.Second
	sources := make(map[string]follow.Source, len(files))
	for name, file := range files {
		file = file.WithDefaults()
		sources[name] = follow.Source{File: file.File, Refresh: file.MaxStale, MaxStale: file.MaxStale, Timeout: timeout}
	}
	return sources
}

// reportLimits gives reports a number of calls at once that fits the machine, where the settings leave it open: some are still on their way
// while others are worked on.
func reportLimits(s settings.ReportLimits) mixer.ReportLimits {
	const callsOfProcessor = 8
	return mixer.ReportLimits{Calls: cmp.Or(s.Calls, callsOfProcessor*runtime.GOMAXPROCS(0)), Bytes: s.Bytes, Wait: s.Wait}
}
