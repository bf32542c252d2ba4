package mixer

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Observer is told what the door does. Its methods are called from many goroutines and must not block.
type Observer interface {
	// Decided is told of every decision. The handler is nil where the call brought none that could be decoded.
	Decided(handler *config.Handler, instance string, decision policy.Decision, elapsed time.Duration)
	// Compiled is told of every handler configuration that was compiled, whether it can decide or not.
	Compiled(compiled *policy.Policy, elapsed time.Duration)
}

// Door answers Mixer's calls.
type Door struct {
	handlers *handlers
	observer Observer
}

// NewDoor returns a door that compiles the handlers it meets with compiler.
func NewDoor(compiler *policy.Compiler, limits HandlerLimits, observer Observer) *Door {
	return &Door{handlers: newHandlers(compiler, limits, observer), observer: observer}
}

// checkTemplate is a template whose calls are answered with a CheckResult.
type checkTemplate struct {
	service, method string
	decode          func(message string) (call, error)
}

var checkTemplates = []checkTemplate{
	{"authorization.HandleAuthorizationService", "HandleAuthorization", decodeAuthorization},
}

// Services returns the names of the gRPC services that the door answers.
func Services() []string {
	names := make([]string, 0, len(checkTemplates))
	for _, t := range checkTemplates {
		names = append(names, t.service)
	}
	return names
}

// Register adds the door's services to a server, which must use a Codec.
func (d *Door) Register(server grpc.ServiceRegistrar) {
	for _, t := range checkTemplates {
		server.RegisterService(&grpc.ServiceDesc{
			ServiceName: t.service,
			HandlerType: (*any)(nil),
			Methods:     []grpc.MethodDesc{d.method(t)},
		}, d)
	}
}

// method describes the template's one method to gRPC.
func (d *Door) method(t checkTemplate) grpc.MethodDesc {
	info := &grpc.UnaryServerInfo{Server: d, FullMethod: "/" + t.service + "/" + t.method}
	handle := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := &message{}
		if err := decode(in); err != nil {
			return nil, err
		}
		if intercept == nil {
			return d.check(ctx, t, in.text), nil
		}
		return intercept(ctx, in, info, func(ctx context.Context, _ any) (any, error) {
			return d.check(ctx, t, in.text), nil
		})
	}
	return grpc.MethodDesc{MethodName: t.method, Handler: handle}
}

// check answers one check call. It always has an answer.
func (d *Door) check(ctx context.Context, t checkTemplate, text string) (result *v1beta1.CheckResult) {
	defer func() {
		if r := recover(); r != nil {
			// Nobody was told of this decision: the observer itself panicked.
			result = checkResult(panicked(t, r))
		}
	}()
	start := time.Now()
	handler, instance, decision := d.decide(ctx, t, text)
	d.observer.Decided(handler, instance, decision, time.Since(start))
	return checkResult(decision)
}

func (d *Door) decide(ctx context.Context, t checkTemplate, text string) (handler *config.Handler, instance string, decision policy.Decision) {
	defer func() {
		if r := recover(); r != nil {
			decision = panicked(t, r)
		}
	}()
	call, err := t.decode(text)
	instance = call.request.Instance
	switch {
	case err != nil:
		return nil, instance, malformed(t, err)
	case !call.hasConfig:
		return nil, instance, unconfigured("the call has no adapter_config; check that the adapter resource has session_based: false and a config")
	case call.typeURL != config.TypeURL:
		return nil, instance, unconfigured("adapter_config is a %.100q, not a %s; apply the adapter resource that `tollgate operatorconfig` prints", call.typeURL, config.TypeURL)
	case len(call.params) > MaxParamsBytes:
		return nil, instance, unconfigured("params have %d bytes; use at most %d", len(call.params), MaxParamsBytes)
	}
	handler, decision = d.handlers.decide(ctx, call.params, &call.request)
	return handler, instance, decision
}

// panicked is the answer to a panic outside of every check, which recover by themselves: it is the door's own fault, and no
// handler's modes are known for sure.
func panicked(t checkTemplate, r any) policy.Decision {
	return policy.Fail(config.Panic, "answering %s: %T\n%s", t.service, r, debug.Stack()).Resolve(config.Modes{})
}

func malformed(t checkTemplate, err error) policy.Decision {
	return policy.Fail(config.MalformedRequest, "%s: %v; check that the template resource is the one that belongs to this version", t.service, err).
		Resolve(config.Modes{})
}

func unconfigured(format string, args ...any) policy.Decision {
	return policy.Fail(config.ConfigurationFailure, "%s", fmt.Sprintf(format, args...)).Resolve(config.Modes{})
}
