package adapter

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// patience bounds a test that fails and is no measure: a busy machine with the race detector takes many seconds for one password.
const patience = 2 * time.Minute

// service is an adapter that runs.
type service struct {
	*Adapter
	log        *logtest.Buffer
	connection *grpc.ClientConn
	cancel     context.CancelFunc
	ended      chan error
}

// start runs an adapter on loopback until the test ends, with the settings as change leaves them, after it was prepared.
func start(tb testing.TB, change func(s *settings.Settings), prepare ...func(a *Adapter)) *service {
	tb.Helper()
	s := settings.Default()
	s.Listen, s.Admin = "127.0.0.1:0", "127.0.0.1:0"
	s.Log.Level = "debug"
	// Slow machines are no subject of these tests but where they say so.
	s.EvaluationTimeout = 10 * time.Second
	if change != nil {
		change(&s)
	}
	require.NoError(tb, s.Validate())
	log := &logtest.Buffer{}
	logger, err := observe.NewLogger(log, s.Log.Level, s.Log.Format)
	require.NoError(tb, err)
	a, err := New(tb.Context(), s, "test", logger)
	require.NoError(tb, err)
	for _, p := range prepare {
		p(a)
	}

	ctx, cancel := context.WithCancel(context.Background())
	r := &service{Adapter: a, log: log, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		err := a.Run(ctx)
		r.ended <- err
		close(r.ended)
	}()
	r.connection = dial(tb, a.Address())
	tb.Cleanup(func() {
		r.connection.Close()
		cancel()
		select {
		case <-r.ended:
		case <-time.After(patience):
			tb.Error("Run did not return")
		}
	})
	return r
}

func dial(tb testing.TB, address string) *grpc.ClientConn {
	tb.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(tb, err)
	tb.Cleanup(func() { connection.Close() })
	return connection
}

// end asks the adapter to end and returns what Run did.
func (s *service) end(t *testing.T) error {
	t.Helper()
	s.cancel()
	return s.wait(t)
}

func (s *service) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		t.Fatal("Run did not return")
		return nil
	}
}

// send makes a call that must have an answer.
func (s *service) send(t *testing.T, call []byte) *v1beta1.CheckResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := mixertest.Send(ctx, s.connection, call)
	require.NoError(t, err)
	return result
}

// get returns the status and body of a page of the admin listener.
func (s *service) get(t *testing.T, path string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + s.AdminAddress() + path)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content)
}

func (s *service) health(t *testing.T, name string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	response, err := healthpb.NewHealthClient(s.connection).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
	require.NoError(t, err)
	return response.GetStatus()
}

// bucketAdmins is the policy known from Mixer's opa adapter, for the subject that mixertest makes.
const bucketAdmins = `package mixerauthz
policy = [{"rule": {"verbs": ["GET"], "users": ["alice"]}}]
default allow = false
allow = true {
	rule = policy[_].rule
	input.subject.user = rule.users[_]
	input.action.method = rule.verbs[_]
}`

func regoParams(name, source string) *configpb.Params {
	return &configpb.Params{Name: name, Policy: []string{source}, CheckMethod: proto.String("data.mixerauthz.allow")}
}

func keyParams(name, key string) *configpb.Params {
	return &configpb.Params{Name: name, AuthKey: proto.String(key)}
}

func lifetimeOf(result *v1beta1.CheckResult) config.Lifetime {
	return config.Lifetime{Duration: result.ValidDuration, Uses: result.ValidUseCount}
}

func TestServiceDecides(t *testing.T) {
	s := start(t, nil)
	standard := config.Lifetime{Duration: config.DefaultLifetimeDuration, Uses: config.DefaultLifetimeUses}

	allowed := s.send(t, mixertest.Call(keyParams("key", "abc"), "abc"))
	assert.Zero(t, allowed.Status.Code)
	assert.Equal(t, standard, lifetimeOf(allowed))
	for _, token := range []string{"abd", "", "ab", "abcd", "ABC", " abc"} {
		denied := s.send(t, mixertest.Call(keyParams("key", "abc"), token))
		assert.EqualValues(t, config.PermissionDenied, denied.Status.Code, token)
		assert.Equal(t, "not authorized", denied.Status.Message)
		assert.Equal(t, config.Lifetime{}, lifetimeOf(denied))
	}

	policy := regoParams("bucket-admins", bucketAdmins)
	allowed = s.send(t, mixertest.Call(policy, ""))
	assert.Zero(t, allowed.Status.Code)
	assert.Equal(t, standard, lifetimeOf(allowed))
	stranger := mixertest.Request(mixertest.Params(policy), "")
	stranger.Instance.Subject.User = "mallory"
	assert.EqualValues(t, config.PermissionDenied, s.send(t, mixertest.Bytes(stranger)).Status.Code)

	// Whoever waits for a handler goes on before it is counted.
	s.awaitMetric(t, `tollgate_handlers_compiled_total{result="ok"} 2`+"\n")
	code, metrics := s.get(t, "/metrics")
	assert.Equal(t, http.StatusOK, code)
	for _, line := range []string{
		`tollgate_decisions_total{class="none",handler="key",outcome="allow"} 1`,
		`tollgate_decisions_total{class="none",handler="key",outcome="deny"} 6`,
		`tollgate_decisions_total{class="none",handler="bucket-admins",outcome="allow"} 1`,
		`tollgate_decisions_total{class="none",handler="bucket-admins",outcome="deny"} 1`,
		`tollgate_build_info{version="test"} 1`,
	} {
		assert.Contains(t, metrics, line+"\n")
	}
}

func TestServiceAnswersHealthAndReflection(t *testing.T) {
	s := start(t, nil)
	const mixerService = "authorization.HandleAuthorizationService"
	for _, service := range slices.Concat([]string{"", mixerService}, mixer.CheckServices(), mixer.ReportServices()) {
		assert.Equal(t, healthpb.HealthCheckResponse_SERVING, s.health(t, service), service)
	}
	_, err := healthpb.NewHealthClient(s.connection).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"})
	assert.Equal(t, codes.NotFound, status.Code(err))
	code, _ := s.get(t, "/readyz")
	assert.Equal(t, http.StatusOK, code)
	code, _ = s.get(t, "/healthz")
	assert.Equal(t, http.StatusOK, code)

	stream, err := reflectionpb.NewServerReflectionClient(s.connection).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	ask := func(request *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		require.NoError(t, stream.Send(request))
		response, err := stream.Recv()
		require.NoError(t, err)
		return response
	}
	var services []string
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	for _, s := range list.GetListServicesResponse().GetService() {
		services = append(services, s.GetName())
	}
	assert.ElementsMatch(t, slices.Concat([]string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}, mixer.CheckServices(), mixer.ReportServices()), services)

	// What a tool such as grpcurl asks before it can build a call: the file of the service, and those it imports.
	messages := map[string]bool{}
	for _, symbol := range []string{mixerService, "authorization.SubjectMsg", "apikey.HandleApiKeyService", "listentry.InstanceMsg", "checknothing.Type", "tracespan.InstanceMsg", "istio.policy.v1beta1.Value", "istio.mixer.adapter.model.v1beta1.CheckResult", "grpc.health.v1.Health"} {
		response := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
		require.Nil(t, response.GetErrorResponse(), symbol)
		for _, encoded := range response.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			require.NoError(t, proto.Unmarshal(encoded, file))
			for _, m := range file.GetMessageType() {
				messages[file.GetPackage()+"."+m.GetName()] = true
			}
		}
	}
	for _, message := range []string{
		"authorization.HandleAuthorizationRequest", "authorization.InstanceMsg", "apikey.HandleApiKeyRequest", "listentry.InstanceParam",
		"checknothing.HandleCheckNothingRequest", "tracespan.HandleTraceSpanRequest", "google.protobuf.Any",
		"istio.policy.v1beta1.Value", "istio.mixer.adapter.model.v1beta1.CheckResult", "google.rpc.Status",
	} {
		assert.True(t, messages[message], message)
	}
	require.NoError(t, stream.CloseSend())
}

func TestServiceFollowsSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "partners")
	require.NoError(t, os.WriteFile(file, []byte("first\n"), 0o600))
	s := start(t, func(s *settings.Settings) { s.Secrets.Files = map[string]string{"partners": file} })
	params := &configpb.Params{Headers: []*configpb.HeaderCheck{{SubjectProperty: proto.String(config.AuthKeyProperty), Secrets: []string{"partners"}}}}
	code := func(token string) config.Code {
		return config.Code(s.send(t, mixertest.Call(params, token)).Status.Code)
	}
	become := func(token string, want config.Code) {
		t.Helper()
		require.Eventually(t, func() bool { return code(token) == want }, patience, 10*time.Millisecond, "%s never became %s", token, want)
	}
	assert.Equal(t, config.OK, code("first"))
	assert.Equal(t, config.PermissionDenied, code("second"))

	require.NoError(t, os.WriteFile(file+".new", []byte("second\nthird"), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
	become("second", config.OK)
	assert.Equal(t, config.OK, code("third"))
	assert.Equal(t, config.PermissionDenied, code("first"))

	// A secret that is gone is a dependency that is down, and nobody's token is good.
	require.NoError(t, os.Remove(file))
	become("second", config.Unavailable)
	require.NoError(t, os.WriteFile(file, []byte("fourth"), 0o600))
	become("fourth", config.OK)
}

func TestServiceUnderManyCallers(t *testing.T) {
	s := start(t, func(s *settings.Settings) { s.Limits.Handlers.RetryAfter = time.Hour }) // each is compiled once, however long it takes
	connections := []*grpc.ClientConn{s.connection, dial(t, s.Address())}
	kinds := []struct {
		call []byte
		want config.Code
	}{
		{mixertest.Call(keyParams("a", "abc"), "abc"), config.OK},
		{mixertest.Call(keyParams("a", "abc"), "abd"), config.PermissionDenied},
		{mixertest.Call(keyParams("b", "abd"), "abc"), config.PermissionDenied},
		{mixertest.Call(regoParams("c", bucketAdmins), ""), config.OK},
		{mixertest.Call(regoParams("d", "package mixerauthz\nallow { false }"), ""), config.Unavailable},
		{mixertest.Call(regoParams("e", "package mixerauthz\nallow {"), ""), config.Unavailable},
		{mixertest.Call(&configpb.Params{Name: "f"}, "abc"), config.Unavailable},
		{[]byte("\x0a\x7f"), config.Unavailable},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var callers sync.WaitGroup
	for caller := range 64 {
		callers.Go(func() {
			for i := range 50 {
				kind := kinds[(caller+i)%len(kinds)]
				result, err := mixertest.Send(ctx, connections[caller%2], kind.call)
				if assert.NoError(t, err) {
					assert.EqualValues(t, kind.want, result.Status.Code)
				}
			}
		})
	}
	callers.Wait()
	s.awaitMetric(t, `tollgate_handlers_compiled_total{result="ok"} 4`+"\n")
	s.awaitMetric(t, `tollgate_handlers_compiled_total{result="configuration"} 2`+"\n")
}

func TestNewReportsWhatCannotBeOpened(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		change func(s *settings.Settings)
		want   string
	}{
		"listen taken":       {func(s *settings.Settings) { s.Listen = taken.Addr().String() }, "listen: "},
		"admin taken":        {func(s *settings.Settings) { s.Admin = taken.Addr().String() }, "admin: "},
		"listen everywhere":  {func(s *settings.Settings) { s.Listen = "0.0.0.0:0" }, "--allow-plaintext"},
		"no secrets' folder": {func(s *settings.Settings) { s.Secrets.Directory = filepath.Join(t.TempDir(), "none") }, "secrets.directory: "},
		"no folder":          {func(s *settings.Settings) { s.Reports.Directory = file }, "reports.directory is " + strconv.Quote(file) + ", which is no directory; name one"},
	} {
		t.Run(name, func(t *testing.T) {
			before := goroutines()
			s := settings.Default()
			s.Listen, s.Admin = "127.0.0.1:0", "127.0.0.1:0"
			c.change(&s)
			logger, err := observe.NewLogger(io.Discard, "info", "json")
			require.NoError(t, err)
			_, err = New(t.Context(), s, "test", logger)
			require.ErrorContains(t, err, c.want)
			requireNoMoreGoroutines(t, before)
		})
	}
}

func TestServiceWithoutAdmin(t *testing.T) {
	s := start(t, func(s *settings.Settings) { s.Admin = "" })
	assert.Empty(t, s.AdminAddress())
	assert.Zero(t, s.send(t, mixertest.Call(keyParams("key", "abc"), "abc")).Status.Code)
	require.NoError(t, s.end(t))
}

// goroutines returns the stacks of all goroutines but those of tests, by goroutine. It is our own because goleak panics at
// stacks as deep as those of Rego.
func goroutines() map[string]string {
	buffer := make([]byte, 4<<20)
	stacks := map[string]string{}
	for stack := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		if !strings.Contains(stack, "\ntesting.") {
			stacks[id] = stack
		}
	}
	return stacks
}

// requireNoMoreGoroutines waits for every goroutine to end that was not there before.
func requireNoMoreGoroutines(t *testing.T, before map[string]string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := goroutines()
		for id := range before {
			delete(left, id)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(strings.Join(slices.Collect(maps.Values(left)), "\n\n"))
		}
	}
}
