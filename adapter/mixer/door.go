package mixer

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/config"
)

// Observer is told what the door does. Its methods are called from many goroutines and must not block.
type Observer interface {
	// Decided is told of every decision. The handler is nil where the call brought none that could be decoded.
	Decided(handler *config.Handler, instance string, decision policy.Decision, elapsed time.Duration)
	// Compiled is told of every handler configuration that was compiled, whether it can decide or not.
	Compiled(compiled *policy.Policy, elapsed time.Duration)
	// Planned is told of every handler configuration that reports came with, valid or not.
	Planned(plan *report.Plan)
	// Reported is told of every report call.
	Reported(reported report.Reported)
}

// Door answers Mixer's calls.
type Door struct {
	handlers *handlers
	plans    *plans
	acceptor Acceptor
	recorder Recorder
	observer Observer
	caller   func(ctx context.Context) string
	shadows  *policy.Shadows
}

// Engines are what stands behind a door.
type Engines struct {
	// Compiler makes policies of the handlers that checks bring.
	Compiler *policy.Compiler
	// Shadows evaluates what handlers may become; nil for nothing.
	Shadows *policy.Shadows
	// Planner makes plans of the handlers that reports bring.
	Planner *report.Planner
	// Acceptor keeps what is reported.
	Acceptor Acceptor
	// Recorder keeps decisions.
	Recorder Recorder
	// Caller returns who makes a call, by the call's context; empty where callers are not known.
	Caller func(ctx context.Context) string
}

// Recorder keeps decisions.
type Recorder interface {
	// Record takes a decision and returns the id under which it is kept; empty where it is not. It does not wait. The handler is nil
	// where the call brought none that could be decoded, and the caller empty where it is not known.
	Record(caller string, handler *config.Handler, request *policy.Request, decision policy.Decision, elapsed time.Duration) (id string)
}

// NewDoor returns a door to the engines. Limits holds for the handlers of checks and for those of reports, each by themselves.
func NewDoor(engines Engines, limits HandlerLimits, observer Observer) *Door {
	return &Door{
		handlers: newHandlers(engines.Compiler, limits, observer),
		plans:    newPlans(engines.Planner, limits, observer),
		acceptor: engines.Acceptor,
		recorder: engines.Recorder,
		observer: observer,
		caller:   engines.Caller,
		shadows:  engines.Shadows,
	}
}

// checkTemplate is a template whose calls are answered with a CheckResult.
type checkTemplate struct {
	service, method string
	// decode reads the template's InstanceMsg into a request. It reads every field, so that an instance is well-formed throughout or
	// not decided about at all.
	decode func(instance string, request *policy.Request) error
}

var checkTemplates = []checkTemplate{
	{"authorization.HandleAuthorizationService", "HandleAuthorization", decodeAuthorization},
	{"apikey.HandleApiKeyService", "HandleApiKey", decodeAPIKey},
	{"listentry.HandleListEntryService", "HandleListEntry", decodeListEntry},
	{"checknothing.HandleCheckNothingService", "HandleCheckNothing", decodeNothing},
}

// CheckServices returns the names of the gRPC services whose calls are answered with decisions.
func CheckServices() []string {
	names := make([]string, 0, len(checkTemplates))
	for _, t := range checkTemplates {
		names = append(names, t.service)
	}
	return names
}

// ReportServices returns the names of the gRPC services whose calls hand over records.
func ReportServices() []string {
	names := make([]string, 0, len(reportTemplates))
	for _, t := range reportTemplates {
		names = append(names, t.service)
	}
	return names
}

// Register adds the door's services to a server, which must use a Codec.
func (d *Door) Register(server grpc.ServiceRegistrar) {
	for _, t := range checkTemplates {
		d.register(server, t.service, t.method, func(ctx context.Context, text string) (any, error) {
			return d.check(ctx, t, text), nil
		})
	}
	for _, t := range reportTemplates {
		d.register(server, t.service, t.method, func(ctx context.Context, text string) (any, error) {
			return d.report(ctx, t, text)
		})
	}
}

// register describes a template's one method to gRPC. The message is received where the interceptors let the call pass, not before: a
// caller whom they refuse must not make us hold it.
func (d *Door) register(server grpc.ServiceRegistrar, service, method string, answer func(ctx context.Context, text string) (any, error)) {
	info := &grpc.UnaryServerInfo{Server: d, FullMethod: "/" + service + "/" + method}
	handle := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := &message{}
		receive := func(ctx context.Context, _ any) (any, error) {
			if err := decode(in); err != nil {
				return nil, err
			}
			return answer(ctx, in.text)
		}
		if intercept == nil {
			return receive(ctx, in)
		}
		return intercept(ctx, in, info, receive)
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: method, Handler: handle}},
	}, d)
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
	handler, compiled, request, decision := d.decide(ctx, t, text)
	elapsed := time.Since(start)
	caller := d.caller(ctx)
	decision.ID = d.recorder.Record(caller, handler, request, decision, elapsed)
	d.observer.Decided(handler, request.Instance, decision, elapsed)
	d.shadows.Evaluate(compiled, caller, request, decision, elapsed)
	return checkResult(decision)
}

func (d *Door) decide(
	ctx context.Context, t checkTemplate, text string,
) (handler *config.Handler, compiled *policy.Policy, request *policy.Request, decision policy.Decision) {
	var call call
	request = &call.request
	defer func() {
		if r := recover(); r != nil {
			decision = panicked(t, r)
		}
	}()
	switch err := decodeCheck(text, t.decode, &call); {
	case err != nil:
		return nil, nil, request, malformed(t, err)
	case !call.hasConfig:
		return nil, nil, request, unconfigured("the call has no adapter_config; check that the adapter resource has session_based: false and a config")
	case call.typeURL != config.TypeURL:
		return nil, nil, request, unconfigured("adapter_config is a %.100q, not a %s; apply the adapter resource that `tollgate operatorconfig` prints", call.typeURL, config.TypeURL)
	case len(call.params) > MaxParamsBytes:
		return nil, nil, request, unconfigured("params have %d bytes; use at most %d", len(call.params), MaxParamsBytes)
	}
	handler, compiled, decision = d.handlers.decide(ctx, call.params, request)
	return handler, compiled, request, decision
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
