package adapter

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// looping would run for minutes.
const looping = `package mixerauthz
xs := numbers.range(1, 2000)
allow { x := xs[_]; y := xs[_]; z := xs[_]; x + y + z < 0 }`

// slowCall is answered with an allow, but only after the given time.
func slowCall(after time.Duration) []byte {
	params := regoParams("slow", looping)
	params.EvaluationTimeout = durationpb.New(after)
	params.Failure = &configpb.Failure{Timeout: configpb.Failure_OPEN}
	return mixertest.Call(params, "")
}

type answered struct {
	result *v1beta1.CheckResult
	err    error
}

// sendAside makes a call and returns when it is being evaluated; its answer comes over the channel.
func (s *service) sendAside(t *testing.T, call []byte) <-chan answered {
	t.Helper()
	answer := make(chan answered, 1)
	send := func() {
		result, err := mixertest.Send(context.Background(), s.connection, call)
		answer <- answered{result, err}
	}
	go send()
	require.Eventually(t, func() bool {
		_, stacks := s.get(t, "/debug/pprof/goroutine?debug=1")
		if strings.Contains(stacks, "policy/rego.(*check).Evaluate") {
			return true
		}
		select {
		case <-answer: // it was over before anybody looked
			go send()
		default:
		}
		return false
	}, patience, time.Millisecond)
	return answer
}

// requireClosed demands that nobody is let in any more. To connect would not tell: another process may have the ports by now.
func requireClosed(t *testing.T, a *Adapter) {
	t.Helper()
	for _, listener := range []net.Listener{a.listener, a.adminListener} {
		require.ErrorIs(t, listener.Close(), net.ErrClosed)
	}
}

func TestShutdownServesOnWhileItDrains(t *testing.T) {
	before := goroutines()
	const drain = 4 * time.Second
	asked, over := make(chan time.Duration, 1), make(chan time.Time)
	s := start(t, func(s *settings.Settings) { s.Shutdown.Drain = drain }, func(a *Adapter) {
		a.after = func(d time.Duration) <-chan time.Time {
			asked <- d
			return over
		}
	})
	call := mixertest.Call(keyParams("key", "abc"), "abc")
	require.Zero(t, s.send(t, call).Status.Code)
	s.cancel()
	require.Eventually(t, func() bool { return s.health(t, "") == healthpb.HealthCheckResponse_NOT_SERVING }, patience, time.Millisecond)
	assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, s.health(t, "authorization.HandleAuthorizationService"))
	code, _ := s.get(t, "/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	code, _ = s.get(t, "/healthz")
	assert.Equal(t, http.StatusOK, code, "who is draining is alive")

	// Callers that have not noticed yet are served, over old connections and new ones.
	assert.Zero(t, s.send(t, call).Status.Code)
	latecomer := dial(t, s.Address())
	result, err := mixertest.Send(t.Context(), latecomer, call)
	require.NoError(t, err)
	assert.Zero(t, result.Status.Code)
	select {
	case <-s.ended:
		t.Fatal("it ended before the drain time was over")
	default:
	}

	assert.Equal(t, drain, <-asked)
	close(over)
	require.NoError(t, s.wait(t))
	requireClosed(t, s.Adapter)
	latecomer.Close()
	s.connection.Close()
	requireNoMoreGoroutines(t, before)
}

func TestShutdownLetsCallsFinish(t *testing.T) {
	before := goroutines()
	s := start(t, func(s *settings.Settings) { s.Shutdown.Timeout = patience })
	answer := s.sendAside(t, slowCall(3*time.Second))
	require.NoError(t, s.end(t))
	got := <-answer
	require.NoError(t, got.err)
	assert.Zero(t, got.result.Status.Code)
	assert.NotContains(t, s.log.String(), "cut off")
	s.connection.Close()
	requireNoMoreGoroutines(t, before)
}

func TestShutdownCutsOffWhatTakesTooLong(t *testing.T) {
	before := goroutines()
	s := start(t, func(s *settings.Settings) { s.Shutdown.Timeout = 50 * time.Millisecond })
	answer := s.sendAside(t, slowCall(time.Minute))
	require.NoError(t, s.end(t))
	got := <-answer
	require.Error(t, got.err)
	assert.Contains(t, s.log.String(), "cut off")
	s.connection.Close()
	// The policy was told, too: nothing goes on evaluating for callers who are gone.
	requireNoMoreGoroutines(t, before)
}

// A watcher of the health service waits for as long as there is something to watch. Shutdown must not wait for it.
func TestShutdownEndsHealthWatchers(t *testing.T) {
	s := start(t, func(s *settings.Settings) { s.Shutdown.Timeout = time.Hour })
	watch, err := healthpb.NewHealthClient(s.connection).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	response, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, response.GetStatus())
	require.NoError(t, s.end(t))
	for err == nil {
		if response, err = watch.Recv(); err == nil {
			assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, response.GetStatus())
		}
	}
	assert.NotContains(t, s.log.String(), "cut off")
}

func TestRunReturnsWhyAListenerDied(t *testing.T) {
	for name, c := range map[string]struct {
		kill func(a *Adapter)
		want string
	}{
		"listen": {func(a *Adapter) { _ = a.listener.Close() }, "listen: "},
		"admin":  {func(a *Adapter) { _ = a.adminListener.Close() }, "admin: "},
	} {
		t.Run(name, func(t *testing.T) {
			before := goroutines()
			s := start(t, func(s *settings.Settings) { s.Shutdown.Drain = time.Hour })
			require.Zero(t, s.send(t, mixertest.Call(keyParams("key", "abc"), "abc")).Status.Code)
			c.kill(s.Adapter)
			require.ErrorContains(t, s.wait(t), c.want)
			requireClosed(t, s.Adapter)
			s.connection.Close()
			requireNoMoreGoroutines(t, before)
		})
	}
}

// Whoever asks to end before the service has begun wants an orderly end as well.
func TestRunWithAContextThatIsDone(t *testing.T) {
	for range 20 {
		before := goroutines()
		s := settings.Default()
		s.Listen, s.Admin = "127.0.0.1:0", "127.0.0.1:0"
		logger, err := observe.NewLogger(&logtest.Buffer{}, "info", "json")
		require.NoError(t, err)
		a, err := New(t.Context(), s, "test", logger)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, a.Run(ctx))
		requireClosed(t, a)
		requireNoMoreGoroutines(t, before)
	}
}
