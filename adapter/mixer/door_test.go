package mixer

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/authorization"
)

func newTestDoor(tb testing.TB, observer Observer) *Door {
	tb.Helper()
	return NewDoor(testEngines(testCompiler()), testLimits(), observer)
}

// answer asks the door with a whole call and returns the reply beside the decision behind it.
func answer(t *testing.T, kinds []policy.Kind, call []byte) (*v1beta1.CheckResult, policy.Decision) {
	t.Helper()
	seen := &ledger{}
	compiler := testCompiler()
	if kinds != nil {
		compiler.Kinds = kinds
	}
	door := NewDoor(testEngines(compiler), testLimits(), seen)
	result := door.check(t.Context(), checkTemplates[0], string(call))
	require.Len(t, seen.decisions, 1)
	return result, seen.decisions[0]
}

var openForAll = &configpb.Failure{
	Configuration: configpb.Failure_OPEN, PolicyNotLoaded: configpb.Failure_OPEN, EvaluationError: configpb.Failure_OPEN, UndefinedResult: configpb.Failure_OPEN,
	Timeout: configpb.Failure_OPEN, DependencyDown: configpb.Failure_OPEN, Overload: configpb.Failure_OPEN, Panic: configpb.Failure_OPEN,
}

// future is a field that no version knows yet.
const future = "\xf2\x2e\x00"

func TestDoorAnswersBadInput(t *testing.T) {
	good := mixertest.Params(&configpb.Params{AuthKey: proto.String("abc")})
	generous := mixertest.Params(&configpb.Params{AuthKey: proto.String("abc"), Failure: openForAll})
	request := func(change func(r *authorization.HandleAuthorizationRequest)) []byte {
		r := mixertest.Request(good, "abc")
		change(r)
		return mixertest.Bytes(r)
	}
	anything := []policy.Kind{kindFunc(func(*config.Handler) ([]policy.Check, config.Problems) { return []policy.Check{passing{}}, nil })}
	rego := func(source string) []byte {
		return mixertest.Params(&configpb.Params{Policy: []string{source}, CheckMethod: proto.String("data.p.allow")})
	}

	for name, c := range map[string]struct {
		call  []byte
		kinds []policy.Kind
		// class is the failure's; "" where nothing fails.
		class string
		code  config.Code
	}{
		"a good call":          {call: request(func(*authorization.HandleAuthorizationRequest) {})},
		"nothing at all":       {call: nil, class: "configuration", code: config.Unavailable},
		"no adapter_config":    {call: request(func(r *authorization.HandleAuthorizationRequest) { r.AdapterConfig = nil }), class: "configuration", code: config.Unavailable},
		"empty adapter_config": {call: request(func(r *authorization.HandleAuthorizationRequest) { r.AdapterConfig = &types.Any{} }), class: "configuration", code: config.Unavailable},
		"no type URL":          {call: request(func(r *authorization.HandleAuthorizationRequest) { r.AdapterConfig.TypeUrl = "" }), class: "configuration", code: config.Unavailable},
		"another type": {call: request(func(r *authorization.HandleAuthorizationRequest) {
			r.AdapterConfig.TypeUrl = "type.googleapis.com/adapter.Params"
		}), class: "configuration", code: config.Unavailable},
		"a type URL of other case": {call: request(func(r *authorization.HandleAuthorizationRequest) {
			r.AdapterConfig.TypeUrl = strings.ToUpper(config.TypeURL)
		}), class: "configuration", code: config.Unavailable},
		"params empty":              {call: mixertest.Bytes(mixertest.Request(nil, "abc")), class: "configuration", code: config.Unavailable},
		"params too large":          {call: mixertest.Bytes(mixertest.Request(append(bytes.Clone(generous), lengthDelimited(4, strings.Repeat("#", MaxParamsBytes))...), "abc")), class: "configuration", code: config.Unavailable},
		"params no protobuf":        {call: mixertest.Bytes(mixertest.Request([]byte("\x0a\x7f"), "abc")), class: "configuration", code: config.Unavailable},
		"params cut":                {call: mixertest.Bytes(mixertest.Request(generous[:len(generous)-1], "abc")), class: "configuration", code: config.Unavailable},
		"no checks":                 {call: mixertest.Call(&configpb.Params{Name: "empty"}, "abc"), class: "configuration", code: config.Unavailable},
		"no checks, open":           {call: mixertest.Call(&configpb.Params{Failure: openForAll}, "abc"), class: "configuration"},
		"field of the future":       {call: mixertest.Bytes(mixertest.Request(append(bytes.Clone(good), future...), "abc")), class: "configuration", code: config.Unavailable},
		"field of the future, open": {call: mixertest.Bytes(mixertest.Request(append(bytes.Clone(generous), future...), "abc")), class: "configuration"},
		"future within failure":     {call: mixertest.Bytes(mixertest.Request(append(bytes.Clone(generous), lengthDelimited(9, future)...), "abc")), class: "configuration", code: config.Unavailable},
		"mode of the future":        {call: mixertest.Call(&configpb.Params{AuthKey: proto.String("abc"), Failure: &configpb.Failure{Configuration: configpb.Failure_OPEN, Panic: 7}}, "abc"), class: "configuration", code: config.Unavailable},
		"no instance":               {call: request(func(r *authorization.HandleAuthorizationRequest) { r.Instance = nil }), code: config.PermissionDenied},
		"no subject":                {call: request(func(r *authorization.HandleAuthorizationRequest) { r.Instance.Subject = nil }), code: config.PermissionDenied},
		"no properties":             {call: request(func(r *authorization.HandleAuthorizationRequest) { r.Instance.Subject.Properties = nil }), code: config.PermissionDenied},
		"no action":                 {call: request(func(r *authorization.HandleAuthorizationRequest) { r.Instance.Action = nil })},
		"no subject, Rego": {call: request(func(r *authorization.HandleAuthorizationRequest) {
			r.Instance.Subject, r.AdapterConfig.Value = nil, rego("package p\ndefault allow = false\nallow { input.subject.user == \"alice\" }")
		}), code: config.PermissionDenied},
		"no action, Rego undefined": {call: request(func(r *authorization.HandleAuthorizationRequest) {
			r.Instance.Action, r.AdapterConfig.Value = nil, rego("package p\nallow = x { x := input.action.method }")
		}), class: "undefined_result", code: config.Unavailable},
		"Rego that yields a string":     {call: mixertest.Bytes(mixertest.Request(rego("package p\nallow = \"true\" { true }"), "abc")), class: "evaluation_error", code: config.Unavailable},
		"Rego that does not compile":    {call: mixertest.Bytes(mixertest.Request(rego("package p\nallow { nothing }"), "abc")), class: "configuration", code: config.Unavailable},
		"token of an unknown kind":      {call: []byte(subjectCall(lengthDelimited(3, mapEntry("custom_token_header", lengthDelimited(11)))) + lengthDelimited(2, lengthDelimited(1, config.TypeURL), lengthDelimited(2, string(good)))), code: config.PermissionDenied},
		"malformed":                     {call: request(func(*authorization.HandleAuthorizationRequest) {})[:50], class: "malformed_request", code: config.Unavailable},
		"malformed after a good config": {call: append(mixertest.Bytes(mixertest.Request(generous, "abc")), 0x0b), kinds: anything, class: "malformed_request", code: config.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			result, d := answer(t, c.kinds, c.call)
			assert.EqualValues(t, c.code, result.Status.Code)
			class := ""
			if d.Failure != nil {
				class = d.Failure.Class.String()
			}
			assert.Equal(t, c.class, class)
			switch {
			case c.code != config.OK:
				assert.NotEmpty(t, result.Status.Message)
				assert.Zero(t, result.ValidDuration)
				assert.Zero(t, result.ValidUseCount)
			case c.class != "":
				assert.Equal(t, config.SingleUse, lifetimeOf(result))
			default:
				assert.Positive(t, result.ValidDuration)
				assert.Positive(t, result.ValidUseCount)
			}
		})
	}
}

// passing lets everything pass.
type passing struct{}

func (passing) Name() string      { return "passing" }
func (passing) Cost() policy.Cost { return policy.Instant }
func (passing) Evaluate(context.Context, *policy.Request) policy.Verdict {
	return policy.Pass("passing")
}

// A configuration whose failure section opens everything opens it for what its own checks do, not for what the door does.
func TestDoorSurvivesItsOwnPanic(t *testing.T) {
	const secret = "s3cr3t-in-a-panic"
	broken := checkTemplate{service: "broken.Service", method: "Handle", decode: func(string, *policy.Request) error { panic(secret) }}
	seen := &ledger{}
	result := newTestDoor(t, seen).check(t.Context(), broken, "\x0a\x00")
	assert.EqualValues(t, 14, result.Status.Code)
	require.Len(t, seen.decisions, 1)
	assert.Equal(t, config.Panic, seen.decisions[0].Failure.Class)
	assert.NotContains(t, seen.decisions[0].Failure.Detail+result.Status.Message, secret)

	result = newTestDoor(t, panicking{}).check(t.Context(), checkTemplates[0], string(mixertest.Call(&configpb.Params{AuthKey: proto.String("abc")}, "abc")))
	assert.EqualValues(t, 14, result.Status.Code)
}

// Observers log whatever they are told, so they are told no secret.
func TestDoorTellsObserversNoSecret(t *testing.T) {
	const secret, token = "S3cr3tOfTheOperator", "T0kenOfTheCaller"
	seen := &ledger{}
	limits := testLimits()
	limits.RetryAfter = time.Nanosecond
	door := NewDoor(testEngines(testCompiler()), limits, seen)
	calls := mixertest.SecretCalls(secret, token)
	show := func(what string) {
		t.Helper()
		for _, planted := range []string{secret, token} {
			if i := strings.Index(what, planted); i >= 0 {
				t.Errorf("…%s…", what[max(0, i-300):min(len(what), i+100)])
			}
		}
	}
	for _, call := range calls {
		show(door.check(t.Context(), checkTemplates[0], string(call)).String())
	}
	require.Eventually(t, func() bool { return door.handlers.waiting.Load() == 0 }, 30*time.Second, time.Millisecond)
	outcomes := map[string]int{}
	for _, d := range seen.decisions {
		outcome := d.Outcome()
		if d.Failure != nil {
			outcome += " " + d.Failure.Class.String()
			show(d.Failure.Detail)
		}
		outcomes[outcome]++
		show(d.Message + d.Reason + d.Check + d.Revision)
	}
	for _, p := range seen.compiled {
		show(p.Problems().Error() + p.Handler().Name + strings.Join(p.Checks(), " ") + p.Handler().Modes.String())
		if p.Failure() != nil {
			show(p.Failure().Detail)
		}
	}
	assert.Len(t, seen.decisions, len(calls))
	for _, outcome := range []string{
		"allow", "deny", "failed_closed configuration", "failed_open configuration", "failed_closed evaluation_error", "failed_open evaluation_error",
		"failed_closed timeout", "failed_open timeout", "failed_closed malformed_request",
	} {
		assert.Positive(t, outcomes[outcome], outcome)
	}
}

func TestDoorAnswersPanickingChecksByTheHandlersModes(t *testing.T) {
	kinds := []policy.Kind{kindFunc(func(*config.Handler) ([]policy.Check, config.Problems) {
		return []policy.Check{panickingCheck{policy.Instant}, panickingCheck{policy.Compute}}, nil
	})}
	second := []*configpb.HeaderCheck{{SubjectProperty: proto.String("second"), Values: []string{"x"}}}
	result, d := answer(t, kinds, mixertest.Call(&configpb.Params{AuthKey: proto.String("abc"), Headers: second}, "abc"))
	assert.EqualValues(t, 14, result.Status.Code)
	assert.Equal(t, config.Panic, d.Failure.Class)
	result, d = answer(t, kinds, mixertest.Call(&configpb.Params{AuthKey: proto.String("abc"), Headers: second, Failure: openForAll}, "abc"))
	assert.Zero(t, result.Status.Code)
	assert.Equal(t, config.SingleUse, d.Lifetime)
}

type panickingCheck struct{ cost policy.Cost }

func (panickingCheck) Name() string                                             { return "panicking" }
func (c panickingCheck) Cost() policy.Cost                                      { return c.cost }
func (panickingCheck) Evaluate(context.Context, *policy.Request) policy.Verdict { panic("s3cr3t") }

// allowedSamples present the token that their handler expects.
var allowedSamples = map[string]bool{"allowed": true, "fields in reverse": true}

// However wrong the bytes are, gRPC's own status is OK: an RPC error is what a mesh with policyCheckFailOpen lets through.
func TestDoorNeverAnswersWithAnRPCError(t *testing.T) {
	var intercepted sync.Map
	connection := serve(t, newTestDoor(t, quiet{}), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			intercepted.Store(info.FullMethod, true)
			return handle(ctx, request)
		}))
	for name, sample := range wireSamples() {
		result, err := mixertest.Send(t.Context(), connection, []byte(sample))
		if assert.NoError(t, err, name) {
			assert.Equal(t, allowedSamples[name], result.Status.Code == 0, name)
			assert.NotEqualValues(t, 13, result.Status.Code, name)
		}
	}
	for name, sample := range quotaSamples(t) {
		result, err := mixertest.SendQuota(t.Context(), connection, []byte(sample))
		if assert.NoError(t, err, name) {
			assert.Zero(t, result.GrantedAmount, name)
		}
	}
	for _, method := range []string{mixertest.Method, mixertest.QuotaMethod} {
		_, ok := intercepted.Load(method)
		assert.True(t, ok, "interceptors see the call")
	}
	assert.Equal(t, []string{
		"authorization.HandleAuthorizationService", "apikey.HandleApiKeyService", "listentry.HandleListEntryService", "checknothing.HandleCheckNothingService",
		"quota.HandleQuotaService",
	}, CheckServices())
}

// A caller whom an interceptor refuses is answered before its message has come, and nothing of it is held meanwhile.
func TestDoorReceivesNothingOfTheRefused(t *testing.T) {
	connection := serve(t, newTestDoor(t, quiet{}), grpc.UnaryInterceptor(
		func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, status.Error(codes.Unauthenticated, "who are you")
		}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, method := range []string{mixertest.Method, mixertest.LogEntryMethod} {
		stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		require.NoError(t, err)
		assert.Equal(t, codes.Unauthenticated, status.Code(stream.RecvMsg(nil)), "without a message")
	}
}

// beforeDeadline demands that ask, which works all the time, returns before its deadline: once in a few times, because a busy machine may
// sleep through the margin that is kept for the answer.
func beforeDeadline(t *testing.T, ask func(ctx context.Context)) {
	t.Helper()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		ask(ctx)
		err := ctx.Err()
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatal("the answer came after the deadline")
}

func TestDoorAnswersWhenTheCallersTimeIsUp(t *testing.T) {
	looped := func(failure *configpb.Failure) []byte {
		return mixertest.Params(&configpb.Params{Policy: []string{loopingPolicy}, CheckMethod: proto.String("data.p.allow"), Failure: failure})
	}
	for name, c := range map[string]struct {
		failure *configpb.Failure
		code    config.Code
	}{"closed": {nil, config.Unavailable}, "open": {openForAll, config.OK}} {
		t.Run(name, func(t *testing.T) {
			// With a door of its own each attempt would compile anew and spend its time on that.
			seen := &ledger{}
			door := newTestDoor(t, seen)
			call := string(mixertest.Bytes(mixertest.Request(looped(c.failure), "abc")))
			<-door.handlers.get(string(looped(c.failure))).ready
			var result *v1beta1.CheckResult
			beforeDeadline(t, func(ctx context.Context) { result = door.check(ctx, checkTemplates[0], call) })
			d := seen.decisions[len(seen.decisions)-1]
			assert.EqualValues(t, c.code, result.Status.Code)
			require.NotNil(t, d.Failure)
			assert.Equal(t, config.Timeout, d.Failure.Class)
		})
	}
}

// loopingPolicy would run for minutes.
const loopingPolicy = `package p
xs := numbers.range(1, 2000)
allow { x := xs[_]; y := xs[_]; z := xs[_]; x + y + z < 0 }`

// fuzzSeeds are whole calls, most of which carry a handler that works and none of which may be allowed.
func fuzzSeeds() [][]byte {
	var seeds [][]byte
	for name, sample := range wireSamples() {
		if !allowedSamples[name] {
			seeds = append(seeds, []byte(sample))
		}
	}
	for _, params := range deniedParams() {
		seeds = append(seeds, mixertest.Call(params, "wrong"))
	}
	return seeds
}

// deniedParams are handlers that no token in the fuzzers' seeds satisfies.
func deniedParams() []*configpb.Params {
	return []*configpb.Params{
		{AuthKey: proto.String(unguessable)},
		{Name: "h", Headers: []*configpb.HeaderCheck{{SubjectProperty: proto.String("p"), Values: []string{unguessable}, Sha256: []string{strings.Repeat("ab", 32)}}}, Require: configpb.Params_ANY},
		{AuthKey: proto.String(unguessable), Denial: &configpb.Denial{
			Code: configpb.Denial_UNAUTHENTICATED, Message: "no", Http: &configpb.HttpResponse{Status: 401, Body: "b", Headers: map[string]string{"A": "b", "C": "d"}},
		}},
		{AuthKey: proto.String(unguessable), Lifetimes: &configpb.Lifetimes{Allow: &configpb.Lifetime{Uses: proto.Int64(5)}, Deny: &configpb.Lifetime{SingleUse: true}}},
		{AuthKey: proto.String(unguessable), FailClose: proto.Bool(true)},
		{Headers: []*configpb.HeaderCheck{{ActionProperty: proto.String("p"), Secrets: []string{"missing"}}}},
		{Policy: []string{"package p\nallow { input.subject.user == \"" + unguessable + "\" }"}, CheckMethod: proto.String("data.p.allow")},
	}
}

// unguessable is longer than what a fuzzer finds by chance.
const unguessable = "0f8d7c2e51a94b36"

// fuzzDoor answers with a short leash, so that a fuzzer that writes slow Rego does not wait for it.
func fuzzDoor() *Door {
	compiler := testCompiler()
	compiler.Timeout = 5 * time.Second
	return NewDoor(testEngines(compiler), HandlerLimits{Entries: 64, Bytes: 1 << 20, Compiling: 2, Waiting: 64, RetryAfter: time.Minute}, quiet{})
}

// FuzzCheck sends arbitrary bytes as a whole call: never a panic, and never an allow unless the bytes hold a handler that says so.
func FuzzCheck(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
	}
	door := fuzzDoor()
	f.Fuzz(func(t *testing.T, data []byte) {
		result := door.check(t.Context(), checkTemplates[0], string(data))
		requireExplained(t, data, result)
	})
}

// FuzzCheckConfig sends a good call whose handler configuration is arbitrary.
func FuzzCheckConfig(f *testing.F) {
	for _, params := range deniedParams() {
		f.Add(mixertest.Params(params), "wrong")
	}
	f.Add(mixertest.Params(&configpb.Params{AuthKey: proto.String("abc"), Failure: openForAll}), "wrong")
	f.Add([]byte(future), "")
	door := fuzzDoor()
	f.Fuzz(func(t *testing.T, params []byte, token string) {
		call := mixertest.Bytes(mixertest.Request(params, token))
		requireExplained(t, call, door.check(t.Context(), checkTemplates[0], string(call)))
	})
}

// requireExplained demands of an allow that the call's own configuration explains it: it opens failures, or it has a check that
// the call passes, judged from the generated code's reading of the call and not from ours.
func requireExplained(t *testing.T, data []byte, result *v1beta1.CheckResult) {
	t.Helper()
	require.NotEqualValues(t, 13, result.Status.Code)
	if result.Status.Code != 0 {
		_, err := result.Marshal()
		require.NoError(t, err)
		return
	}
	require.NotZero(t, result.ValidDuration, "an OK of 0/0 is a minute to Mixer")
	require.NotZero(t, result.ValidUseCount, "an OK of 0/0 is a minute to Mixer")

	request := &authorization.HandleAuthorizationRequest{}
	require.NoError(t, request.Unmarshal(data), "malformed bytes were allowed")
	require.Equal(t, config.TypeURL, request.GetAdapterConfig().GetTypeUrl())
	params := &configpb.Params{}
	require.NoError(t, proto.Unmarshal(request.AdapterConfig.Value, params), "malformed params were allowed")

	single := result.ValidDuration < 0 && result.ValidUseCount == 1
	opens := params.GetFailure() != nil || params.FailClose != nil && !params.GetFailClose()
	if single && opens {
		return
	}
	require.Empty(t, params.ProtoReflect().GetUnknown(), "a field of the future was allowed")
	checks := len(params.GetPolicy()) + len(params.GetHeaders()) + len(params.GetLists()) + len(params.GetApiKeys())
	require.True(t, checks > 0 || params.AuthKey != nil, "a handler without checks was allowed")
	if params.GetRequire() != configpb.Params_ANY && params.AuthKey != nil {
		token := request.GetInstance().GetSubject().GetProperties()[config.AuthKeyProperty].GetStringValue()
		require.NotEmpty(t, params.GetAuthKey())
		value := request.GetInstance().GetSubject().GetProperties()[config.AuthKeyProperty]
		other := value.GetUriValue().GetValue() + value.GetDnsNameValue().GetValue() + value.GetEmailAddressValue().GetValue()
		require.Equal(t, params.GetAuthKey(), token+other)
	}
}
