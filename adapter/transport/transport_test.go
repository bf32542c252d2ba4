package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Who else than this machine can reach an address? What is not sure to be loopback needs consent.
func TestListenWantsConsent(t *testing.T) {
	t.Parallel()
	for address, private := range map[string]bool{
		"127.0.0.1:0":          true,
		"127.8.9.10:0":         true,
		"127.255.255.254:0":    true,
		"[::1]:0":              true,
		"[::ffff:127.0.0.1]:0": true,
		"localhost:0":          true,
		"unix:///run/tollgate": true,

		":0":                  false,
		"0.0.0.0:0":           false,
		"[::]:0":              false,
		"[::ffff:0.0.0.0]:0":  false,
		"[::1%lo]:0":          false,
		"192.0.2.1:0":         false,
		"10.0.0.1:0":          false,
		"128.0.0.1:0":         false,
		"[fe80::1]:0":         false,
		"[2001:db8::1]:0":     false,
		"example.org:0":       false,
		"localhost.:0":        false,
		"LOCALHOST:0":         false,
		"localhost.example:0": false,
		"127.0.0.1.example:0": false,
		"127.1:0":             false,
		"0x7f000001:0":        false,
		"2130706433:0":        false,
		"127.0.0.01:0":        false,
		"":                    false,
		"127.0.0.1":           false,
		"localhost":           false,
		"::1":                 false,
		"::1:44225":           false,
		"unix://run/tollgate": false,
		"\t127.0.0.1:0":       false,
	} {
		assert.Equal(t, private, Loopback(address), "%q", address)
		if private {
			continue
		}
		written := &logtest.Buffer{}
		_, err := Listen(t.Context(), "listen", address, false, slog.New(slog.NewTextHandler(written, nil)))
		require.EqualError(t, err, "listen: "+address+" is reachable from other machines, and what is said there would cross the network in the clear; "+
			"set tls.cert and tls.key, listen on 127.0.0.1, or consent with --allow-plaintext (settings: allow_plaintext: true)")
		assert.Empty(t, written.String())
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	for address, warns := range map[string]bool{"127.0.0.1:0": false, "localhost:0": false, "0.0.0.0:0": true, ":0": true} {
		for _, consent := range []bool{false, true} {
			if warns && !consent {
				continue
			}
			written := &logtest.Buffer{}
			listener, err := Listen(t.Context(), "admin", address, consent, slog.New(slog.NewTextHandler(written, nil)))
			require.NoError(t, err, address)
			bound, ok := listener.Addr().(*net.TCPAddr)
			require.True(t, ok)
			assert.Equal(t, !warns, bound.IP.IsLoopback(), address)
			require.NoError(t, listener.Close())
			if warns {
				assert.Contains(t, written.String(), "level=WARN msg=\"listening without encryption where other machines can connect\" listener=admin address="+address)
			} else {
				assert.Empty(t, written.String())
			}
		}
	}
}

func TestListenErrorsNameTheListener(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, err = Listen(t.Context(), "admin", taken.Addr().String(), false, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "admin: "+taken.Addr().String())
	_, err = Listen(t.Context(), "admin", "0.0.0.0:0", false, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "in the clear; listen on 127.0.0.1, or consent", "it has no TLS")
	// An address that is for documentation is nobody's.
	_, err = Listen(t.Context(), "listen", "192.0.2.1:0", true, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "listen: 192.0.2.1:0 is no address of this machine; use one of its own, or 0.0.0.0 for all of them: ")
}

// fragile is a service whose methods do as they are told by the name they are asked for.
type fragile struct {
	healthpb.UnimplementedHealthServer

	release <-chan struct{}
}

// request stands for what a service holds while it panics.
type request struct{ text string }

func (f fragile) do(service string) error {
	switch service {
	case "wait":
		<-f.release
	case "text":
		panic("planted credential")
	case "error":
		panic(errors.New("planted credential"))
	case "value":
		panic(&request{"planted credential"})
	case "nil":
		panic(nil) //nolint:govet // the runtime makes an error of it
	case "index":
		return status.Error(codes.OK, strings.Split(service, "")[len(service)])
	case "refused":
		return status.Error(codes.NotFound, "not here")
	}
	return nil
}

func (f fragile) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, f.do(r.GetService())
}

func (f fragile) Watch(r *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	return f.do(r.GetService())
}

// serve runs a server with a fragile service, and returns a client of it.
func serve(t *testing.T, maxMessageBytes int) (healthpb.HealthClient, *logtest.Buffer) {
	t.Helper()
	r := start(t, func(s *settings.Settings) { s.Limits.MessageBytes = maxMessageBytes }, nil)
	return healthpb.NewHealthClient(r.dial(t, insecure.NewCredentials())), r.log
}

func TestPanicsAreAnswered(t *testing.T) {
	t.Parallel()
	client, written := serve(t, 1<<20)
	watch := func(service string) error {
		stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			return err
		}
		for {
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
	}
	panics := 0
	for _, service := range []string{"text", "error", "value", "nil", "index"} {
		_, unary := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		for _, err := range []error{unary, watch(service)} {
			panics++
			// Not Internal, nor Unknown, which the proxy may turn into an allow.
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", service, err)
			assert.Equal(t, "the call could not be answered", status.Convert(err).Message())
		}
		_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
		require.NoError(t, err, "the server lives on")
	}
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "refused"})
	assert.Equal(t, codes.NotFound, status.Code(err), "an error is no panic")

	output := written.String()
	assert.Equal(t, panics, strings.Count(output, `level=ERROR msg="a call panicked"`))
	assert.NotContains(t, output, "planted")
	for _, want := range []string{
		"method=/grpc.health.v1.Health/Check panic=string", "method=/grpc.health.v1.Health/Watch panic=string", "panic=*errors.errorString",
		"panic=*transport.request", "panic=*runtime.PanicNilError", "panic=runtime.boundsError", "transport_test.go:",
	} {
		assert.Contains(t, output, want)
	}
}

func TestMessageSizeIsLimited(t *testing.T) {
	t.Parallel()
	// Above gRPC's own limit of 4 MiB, which would hide a limit that is not set.
	const limit = 5 << 20
	client, _ := serve(t, limit)
	const overhead = 1 + 4 // the field's tag and length
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("s", limit-overhead)})
	require.NoError(t, err)
	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("s", limit-overhead+1)})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err, "the connection lives on")
}
