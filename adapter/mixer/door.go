package mixer

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
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
	quotas   *handlers
	plans    *plans
	acceptor Acceptor
	recorder Recorder
	observer Observer
	tracer   Tracer // nil for no spans
	caller   func(ctx context.Context) string
	// tooLarge is told of calls that are not received; admission is nil where report calls are not bounded.
	tooLarge  func(ctx context.Context, method string, err error)
	admission *admission
	shadows   *policy.Shadows
	checks    *pace.Checks
}

// Engines are what stands behind a door.
type Engines struct {
	// Compiler makes policies of the handlers that checks bring.
	Compiler *policy.Compiler
	// Quotas makes policies of the handlers that quota calls bring.
	Quotas *policy.Compiler
	// Shadows evaluates what handlers may become; nil for nothing.
	Shadows *policy.Shadows
	// Planner makes plans of the handlers that reports bring.
	Planner *report.Planner
	// Checks is told of every check and quota call, so that reports step aside; nil if they need not.
	Checks *pace.Checks
	// Acceptor keeps what is reported.
	Acceptor Acceptor
	// Recorder keeps decisions.
	Recorder Recorder
	// Tracer makes spans of calls; nil for none.
	Tracer Tracer
	// Caller returns who makes a call, by the call's context; empty where callers are not known.
	Caller func(ctx context.Context) string
	// TooLarge, if there is one, is told of calls that gRPC does not receive because they are larger than the server's bound.
	TooLarge func(ctx context.Context, method string, err error)
}

// Recorder keeps decisions.
type Recorder interface {
	// Record takes a decision and returns the id under which it is kept; empty where it is not. It does not wait. The handler is nil
	// where the call brought none that could be decoded, and the caller empty where it is not known.
	Record(caller string, handler *config.Handler, request *policy.Request, decision policy.Decision, elapsed time.Duration) (id string)
}

// Tracer makes spans of calls that have been answered. Its methods are called from many goroutines, and neither block nor panic.
type Tracer interface {
	// Checked is told of every check. The handler is nil where the call brought none that could be decoded.
	Checked(ctx context.Context, start time.Time, service, method string, handler *config.Handler, request *policy.Request, decision policy.Decision)
	// Reported is told of every report call.
	Reported(ctx context.Context, start time.Time, service, method string, reported report.Reported)
}

// NewDoor returns a door to the engines. Limits holds for the handlers of checks, of quota calls and of reports,
// each by themselves.
func NewDoor(engines Engines, limits HandlerLimits, observer Observer) *Door {
	return &Door{
		handlers: newHandlers(engines.Compiler, limits, observer),
		quotas:   newHandlers(engines.Quotas, limits, observer),
		plans:    newPlans(engines.Planner, limits, observer),
		acceptor: engines.Acceptor,
		recorder: engines.Recorder,
		observer: observer,
		tracer:   engines.Tracer,
		caller:   engines.Caller,
		tooLarge: engines.TooLarge,
		shadows:  engines.Shadows,
		checks:   engines.Checks,
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
	return append(names, quotaService)
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
		d.register(server, t.service, t.method, once(func(ctx context.Context, text string) any { return d.check(ctx, t, text) }))
	}
	d.register(server, quotaService, quotaMethod, once(func(ctx context.Context, text string) any { return d.quota(ctx, text) }))
	for _, t := range reportTemplates {
		d.register(server, t.service, t.method, func(ctx context.Context, in *incoming) (any, error) {
			return d.admitReport(ctx, t, in.receive)
		})
	}
}

// incoming is a call whose message has not been received.
type incoming struct {
	message

	ctx      context.Context // of the one call that this is
	method   string
	decode   func(any) error
	tooLarge func(ctx context.Context, method string, err error)
}

// receive receives the message. An error is gRPC's, for the caller.
func (i *incoming) receive() (text string, err error) {
	err = i.decode(&i.message)
	if status.Code(err) == codes.ResourceExhausted && i.tooLarge != nil {
		i.tooLarge(i.ctx, i.method, err)
	}
	return i.text, err
}

// once makes an answer of one that needs the message at once.
func once(answer func(ctx context.Context, text string) any) func(ctx context.Context, in *incoming) (any, error) {
	return func(ctx context.Context, in *incoming) (any, error) {
		text, err := in.receive()
		if err != nil {
			return nil, err
		}
		return answer(ctx, text), nil
	}
}

// register describes a template's one method to gRPC. The message is received where the interceptors let the call pass and answer wants it,
// not before: a caller who is refused must not make us hold it.
func (d *Door) register(server grpc.ServiceRegistrar, service, method string, answer func(ctx context.Context, in *incoming) (any, error)) {
	info := &grpc.UnaryServerInfo{Server: d, FullMethod: "/" + service + "/" + method}
	handle := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := &incoming{ctx: ctx, method: info.FullMethod, decode: decode, tooLarge: d.tooLarge}
		serve := func(ctx context.Context, _ any) (any, error) { return answer(ctx, in) }
		if intercept == nil {
			return serve(ctx, in)
		}
		return intercept(ctx, in, info, serve)
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
			result = checkResult(panicked(t.service, r))
		}
	}()
	start := time.Now()
	d.checks.Served(start)
	var call call
	handler, compiled, decision := d.decide(ctx, d.handlers, t.service, &call, func() error { return decodeCheck(text, t.decode, &call) })
	elapsed := time.Since(start)
	caller := d.caller(ctx)
	decision.ID = d.recorder.Record(caller, handler, &call.request, decision, elapsed)
	d.observer.Decided(handler, call.request.Instance, decision, elapsed)
	if d.tracer != nil {
		d.tracer.Checked(ctx, start, t.service, t.method, handler, &call.request, decision)
	}
	d.shadows.Evaluate(compiled, caller, &call.request, decision, elapsed)
	return checkResult(decision)
}

// decide decodes a call and asks the policy of its params.
func (d *Door) decide(
	ctx context.Context, handlers *handlers, service string, call *call, decode func() error,
) (handler *config.Handler, compiled *policy.Policy, decision policy.Decision) {
	defer func() {
		if r := recover(); r != nil {
			decision = panicked(service, r)
		}
	}()
	switch err := decode(); {
	case err != nil:
		return nil, nil, malformed(service, err)
	case !call.hasConfig:
		return nil, nil, unconfigured("the call has no adapter_config; check that the adapter resource has session_based: false and a config")
	case call.typeURL != config.TypeURL:
		return nil, nil, unconfigured("adapter_config is a %.100q, not a %s; apply the adapter resource that `tollgate operatorconfig` prints", call.typeURL, config.TypeURL)
	case len(call.params) > MaxParamsBytes:
		return nil, nil, unconfigured("params have %d bytes; use at most %d", len(call.params), MaxParamsBytes)
	}
	return handlers.decide(ctx, call.params, &call.request)
}

// panicked is the answer to a panic outside of every check, which recover by themselves: it is the door's own fault, and no
// handler's modes are known for sure.
func panicked(service string, r any) policy.Decision {
	return policy.Fail(config.Panic, "answering %s: %T\n%s", service, r, debug.Stack()).Resolve(config.Modes{})
}

func malformed(service string, err error) policy.Decision {
	return policy.Fail(config.MalformedRequest, "%s: %v; check that the template resource is the one that belongs to this version", service, err).
		Resolve(config.Modes{})
}

func unconfigured(format string, args ...any) policy.Decision {
	return policy.Fail(config.ConfigurationFailure, "%s", fmt.Sprintf(format, args...)).Resolve(config.Modes{})
}
