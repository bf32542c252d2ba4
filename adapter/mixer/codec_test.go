package mixer

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/durationpb"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// A name long enough that gRPC takes the call's buffers from its pool: what is short is never pooled.
var pooledName = strings.Repeat("authinstance.", 200) + "instance.istio-system"

func pooledCall(params *configpb.Params, token string) []byte {
	request := mixertest.Request(mixertest.Params(params), token)
	request.Instance.Name = pooledName
	return mixertest.Bytes(request)
}

func scribble(content []byte) {
	for i := range content {
		content[i] = 'x'
	}
}

func TestUnmarshalKeepsNothingOfTheBuffers(t *testing.T) {
	params := &configpb.Params{Name: "scribbled", AuthKey: pointer("abc")}
	sent := pooledCall(params, "abc")
	for name, parts := range map[string]int{"one buffer": 1, "three buffers": 3} {
		t.Run(name, func(t *testing.T) {
			var log logtest.Buffer
			observer := observe.New(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), "test")
			door := newTestDoor(t, observer)

			buffers := bytes.Clone(sent)
			var data mem.BufferSlice
			for rest := buffers; len(rest) > 0; {
				size := min(len(rest), len(buffers)/parts+1)
				data = append(data, mem.SliceBuffer(rest[:size]))
				rest = rest[size:]
			}
			in := &message{}
			require.NoError(t, NewCodec().Unmarshal(data, in))
			scribble(buffers)

			assert.Equal(t, string(sent), in.text)
			assert.Zero(t, door.check(t.Context(), checkTemplates[0], in.text).Status.Code)
			assert.Equal(t, []string{string(mixertest.Params(params))}, door.handlers.lru.Keys())
			assert.Equal(t, []any{"scribbled", pooledName}, lastDecision(t, log.String()))
		})
	}
}

// lastDecision returns the handler and the instance that the last decision line names.
func lastDecision(t *testing.T, log string) []any {
	t.Helper()
	var line map[string]any
	for raw := range strings.Lines(log) {
		decoded := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(raw), &decoded))
		if decoded["msg"] == "decision" {
			line = decoded
		}
	}
	return []any{line["handler"], line["instance"]}
}

// scribblingPool writes over every buffer that comes back, so that whoever still reads one reads rubbish.
type scribblingPool struct {
	returned sync.Map // of capacities, to show that the pool is in use at all
}

func (p *scribblingPool) Get(length int) *[]byte {
	buffer := make([]byte, length)
	return &buffer
}

func (p *scribblingPool) Put(buffer *[]byte) {
	scribble((*buffer)[:cap(*buffer)])
	p.returned.Store(cap(*buffer), true)
}

// The same over a real connection, with checks that are still running after their call was answered and its buffers are gone.
func TestNothingBehindTheDoorReadsReusedBuffers(t *testing.T) {
	var log logtest.Buffer
	observer := observe.New(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), "test")
	compiler := testCompiler()
	late := &lateKind{Kind: compiler.Kinds[0], asked: make(chan string, 1), answered: make(chan struct{})}
	compiler.Kinds[0] = late
	door := NewDoor(testEngines(compiler), testLimits(), observer)
	pool := &scribblingPool{}
	connection := serve(t, door, experimental.BufferPool(pool))

	reused := &configpb.Params{Name: "reused", AuthKey: pointer("abc")}
	for range 20 {
		allowed, err := mixertest.Send(t.Context(), connection, pooledCall(reused, "abc"))
		require.NoError(t, err)
		assert.Zero(t, allowed.Status.Code)
		refused, err := mixertest.Send(t.Context(), connection, pooledCall(reused, "abd"))
		require.NoError(t, err)
		assert.EqualValues(t, config.PermissionDenied, refused.Status.Code)
	}
	pooled := 0
	pool.returned.Range(func(any, any) bool { pooled++; return true })
	require.Positive(t, pooled, "the pool was not used, so this shows nothing")
	assert.Equal(t, []string{string(mixertest.Params(reused))}, door.handlers.lru.Keys())
	assert.Equal(t, []any{"reused", pooledName}, lastDecision(t, log.String()))

	// This one is answered for want of time while its check still holds the request.
	slow := &configpb.Params{Name: lateName, AuthKey: pointer("abc"), EvaluationTimeout: durationpb.New(200 * time.Millisecond)}
	timedOut, err := mixertest.Send(t.Context(), connection, pooledCall(slow, "abc"))
	require.NoError(t, err)
	assert.EqualValues(t, config.Unavailable, timedOut.Status.Code)
	for range 20 {
		_, err := mixertest.Send(t.Context(), connection, pooledCall(reused, strings.Repeat("y", 100)))
		require.NoError(t, err)
	}
	close(late.answered)
	select {
	case token := <-late.asked:
		assert.Equal(t, "abc", token)
	case <-time.After(30 * time.Second):
		t.Fatal("the check was not asked")
	}
}

const lateName = "late"

// lateKind makes, of the handler called late, a check that reads the request only when it is told to, whatever its deadline.
type lateKind struct {
	policy.Kind
	asked    chan string
	answered chan struct{}
}

func (k *lateKind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	if handler.Name != lateName {
		return k.Kind.Compile(handler)
	}
	return []policy.Check{lateCheck{k}}, nil
}

type lateCheck struct{ kind *lateKind }

func (lateCheck) Name() string      { return lateName }
func (lateCheck) Cost() policy.Cost { return policy.Compute }

func (c lateCheck) Evaluate(_ context.Context, request *policy.Request) policy.Verdict {
	<-c.kind.answered
	value, _ := request.Property(config.Property{Name: config.AuthKeyProperty})
	text, _ := value.Text()
	c.kind.asked <- text
	return policy.Pass("late")
}

func TestCodecLeavesOtherServicesToGRPC(t *testing.T) {
	codec := NewCodec()
	assert.Equal(t, "proto", codec.Name())

	sent := &healthpb.HealthCheckRequest{Service: "s"}
	data, err := codec.Marshal(sent)
	require.NoError(t, err)
	received := &healthpb.HealthCheckRequest{}
	require.NoError(t, codec.Unmarshal(data, received))
	assert.Equal(t, "s", received.GetService())

	_, err = codec.Marshal("no message")
	require.Error(t, err)
	require.Error(t, codec.Unmarshal(data, new(string)))
	require.Error(t, codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer("\x0a\x05x")}, received))
}

func TestCodecMarshalsRepliesOfIstio(t *testing.T) {
	want := &v1beta1.CheckResult{ValidDuration: time.Second, ValidUseCount: 7}
	data, err := NewCodec().Marshal(want)
	require.NoError(t, err)
	got := &v1beta1.CheckResult{}
	require.NoError(t, got.Unmarshal(data.Materialize()))
	assert.Equal(t, want, got)
}

// serve registers a door with a server on loopback and returns a connection to it.
func serve(tb testing.TB, door *Door, options ...grpc.ServerOption) *grpc.ClientConn {
	tb.Helper()
	server := grpc.NewServer(append(options, grpc.ForceServerCodecV2(NewCodec()))...)
	door.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		connection.Close()
		server.Stop()
		assert.NoError(tb, <-served)
	})
	return connection
}
