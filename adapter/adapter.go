// Package adapter assembles the service: engines, doors and listeners. It starts them in order and ends them in order.
package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tollgate-mesh/tollgate/adapter/admin"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport"
	"github.com/tollgate-mesh/tollgate/template"
)

// Adapter is the service, ready to run: everything that can fail for a reason in the settings has been tried.
type Adapter struct {
	settings settings.Settings
	logger   *slog.Logger
	secrets  *secret.Store
	server   *grpc.Server
	health   *health.Server
	// endWatches ends the streams of those who watch the health service.
	endWatches context.CancelFunc
	listener   net.Listener
	admin      *admin.Server
	// adminListener is nil where the settings want none.
	adminListener net.Listener
	serving       atomic.Bool
}

// New assembles the service and opens its listeners. The settings must be valid. Run closes what New opened.
func New(ctx context.Context, s settings.Settings, version string, logger *slog.Logger) (*Adapter, error) {
	secrets, err := secret.Open(secret.Sources{Directory: s.Secrets.Directory, Files: s.Secrets.Files}, logger)
	if err != nil {
		return nil, err
	}
	observer := observe.New(logger, version)
	observer.CountSecrets(secrets.Unavailable)
	compiler := &policy.Compiler{
		Kinds:   []policy.Kind{header.Kind{Secrets: headerSecrets{secrets}}, rego.Kind{}},
		Timeout: s.EvaluationTimeout,
		Gate:    policy.NewGate(s.Limits.ConcurrentChecks, s.Limits.QueueWait),
	}
	door := mixer.NewDoor(compiler, mixer.HandlerLimits{
		Entries:    s.Limits.Handlers.Entries,
		Bytes:      s.Limits.Handlers.Bytes,
		Compiling:  s.Limits.Handlers.Compiling,
		Waiting:    s.Limits.Handlers.Waiting,
		RetryAfter: s.Limits.Handlers.RetryAfter,
	}, observer)

	watches, endWatches := context.WithCancel(context.WithoutCancel(ctx))
	a := &Adapter{
		settings:   s,
		logger:     logger,
		secrets:    secrets,
		server:     transport.NewServer(mixer.NewCodec(), s.Limits.MessageBytes, logger),
		health:     health.NewServer(),
		endWatches: endWatches,
	}
	a.admin = admin.New(observer.Registry(), a.ready)
	door.Register(a.server)
	healthpb.RegisterHealthServer(a.server, healthService{a.health, watches})
	if err := registerReflection(a.server); err != nil {
		return nil, err
	}

	if a.listener, err = transport.Listen(ctx, "listen", s.Listen, s.AllowPlaintext, logger); err != nil {
		return nil, err
	}
	if s.Admin != "" {
		if a.adminListener, err = transport.Listen(ctx, "admin", s.Admin, s.AllowPlaintext, logger); err != nil {
			_ = a.listener.Close()
			return nil, err
		}
	}
	return a, nil
}

// Address returns where Mixer's calls are taken.
func (a *Adapter) Address() string { return a.listener.Addr().String() }

// AdminAddress returns where the admin server listens; empty for nowhere.
func (a *Adapter) AdminAddress() string {
	if a.adminListener == nil {
		return ""
	}
	return a.adminListener.Addr().String()
}

func (a *Adapter) ready() error {
	if !a.serving.Load() {
		return errors.New("starting or shutting down")
	}
	return nil
}

// Run serves until ctx is done or a listener fails. Then, in this order: it says that it is not ready, serves on for the drain
// time, lets calls under way finish, and ends the rest. It returns nil after an orderly end.
func (a *Adapter) Run(ctx context.Context) error {
	// The parts outlive ctx: they end in the order below, not all at once.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(parts)
	group.Go(func() error { return a.secrets.Watch(parts) })
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
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	a.admin.Shutdown(finish)
	stop()
	err := group.Wait()
	a.logger.Info("ended")
	return err
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

func (a *Adapter) setServing(serving bool) {
	a.serving.Store(serving)
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus("", status)
	for _, service := range mixer.Services() {
		a.health.SetServingStatus(service, status)
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

// headerSecrets lets header checks see the store without knowing it.
type headerSecrets struct{ store *secret.Store }

func (h headerSecrets) Secret(name string) (header.Secret, bool) {
	s, ok := h.store.Secret(name)
	if !ok {
		return nil, false
	}
	return s, true
}
