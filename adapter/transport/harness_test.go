package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of the tests
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
)

// patience is how long tests wait for what ought to happen soon.
const patience = 30 * time.Second

// running is a transport with a server of two services: health, which is open to all, and one that tells callers who they are.
type running struct {
	*Transport
	log     *logtest.Buffer
	address string
	server  *grpc.Server
	// release ends calls that wait.
	release chan struct{}

	mu       sync.Mutex
	refusals []Refusal
}

// Refused keeps refusals.
func (r *running) Refused(refusal Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusals = append(r.refusals, refusal)
}

// refused returns the refusals since the last call.
func (r *running) refused() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.refusals
	r.refusals = nil
	return all
}

func (r *running) reasons() (reasons []Reason) {
	for _, refusal := range r.refused() {
		reasons = append(reasons, refusal.Reason)
	}
	return reasons
}

// start runs a transport until the test ends, with the secrets' values in files.
func start(t *testing.T, change func(s *settings.Settings), secrets map[string]string) *running {
	t.Helper()
	s := settings.Default()
	s.Listen = "127.0.0.1:0"
	s.Secrets.Files = map[string]string{}
	directory := t.TempDir()
	for name, values := range secrets {
		s.Secrets.Files[name] = filepath.Join(directory, name)
		put(t, s.Secrets.Files[name], []byte(values))
	}
	change(&s)
	limits := s.Limits // a test may want less than a service
	s.Limits = settings.Default().Limits
	require.NoError(t, s.Validate())
	s.Limits = limits

	r := &running{log: &logtest.Buffer{}, release: make(chan struct{})}
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	store, err := secret.Open(secret.Sources{Files: s.Secrets.Files}, logger)
	require.NoError(t, err)
	r.Transport, err = New(t.Context(), s, store, r, logger)
	require.NoError(t, err)
	r.server = r.NewServer(encoding.GetCodecV2("proto"))
	healthpb.RegisterHealthServer(r.server, fragile{release: r.release})
	r.server.RegisterService(&whoami, nil)
	listener, err := r.Listen(t.Context())
	require.NoError(t, err)
	r.address = listener.Addr().String()

	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	begun := make(chan struct{})
	parts.Go(func() { r.Run(ctx, func() { close(begun) }) })
	parts.Go(func() { assert.NoError(t, store.Watch(ctx)) })
	parts.Go(func() {
		// It says that it was stopped where the test ends before it has begun.
		if err := r.server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
			assert.NoError(t, err)
		}
	})
	<-begun
	t.Cleanup(func() {
		r.server.Stop()
		cancel()
		parts.Wait()
	})
	return r
}

const whoamiMethod = "/whoami.WhoAmI/Ask"

// whoami answers with the caller.
var whoami = grpc.ServiceDesc{
	ServiceName: "whoami.WhoAmI", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Ask", Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		return intercept(ctx, nil, &grpc.UnaryServerInfo{FullMethod: whoamiMethod}, func(ctx context.Context, _ any) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := decode(in); err != nil {
				return nil, err
			}
			return wrapperspb.String(Caller(ctx)), nil
		})
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		return stream.SendMsg(wrapperspb.String(Caller(stream.Context())))
	}}},
}

// retry says how long a connection waits after an attempt that failed.
func retry(pause time.Duration) grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: pause, Multiplier: 1, MaxDelay: pause}, MinConnectTimeout: patience})
}

// dial returns a connection that tries again quickly, unless an option says otherwise.
func (r *running) dial(t *testing.T, c credentials.TransportCredentials, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{grpc.WithTransportCredentials(c), retry(10 * time.Millisecond)}, options...)
	target := "passthrough:///" + r.address
	if filepath.IsAbs(r.address) {
		target = "unix://" + r.address
	}
	connection, err := grpc.NewClient(target, options...)
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

// ask returns who the server says calls.
func ask(ctx context.Context, connection *grpc.ClientConn) (string, error) {
	out := &wrapperspb.StringValue{}
	err := connection.Invoke(ctx, whoamiMethod, wrapperspb.String("question"), out)
	return out.GetValue(), err
}

// header is a credential in a header.
type header [2]string

// GetRequestMetadata returns the header.
func (h header) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{h[0]: h[1]}, nil
}

// RequireTransportSecurity returns false: tests send credentials in the clear as well.
func (header) RequireTransportSecurity() bool { return false }

// put replaces a file as a whole.
func put(tb testing.TB, path string, content []byte) {
	tb.Helper()
	temporary := path + ".new"
	require.NoError(tb, os.WriteFile(temporary, content, 0o600))
	require.NoError(tb, os.Rename(temporary, path))
}

// pki is an authority with a directory.
type pki struct {
	*testca.Authority
	directory string
}

func newPKI(t *testing.T) pki {
	t.Helper()
	authority, err := testca.New()
	require.NoError(t, err)
	p := pki{authority, t.TempDir()}
	own, err := authority.Pair()
	require.NoError(t, err)
	put(t, p.path("ca.crt"), own.Cert)
	p.install(t, p.issue(t, time.Hour, "127.0.0.1"))
	return p
}

func (p pki) path(name string) string { return filepath.Join(p.directory, name) }

func (p pki) issue(t *testing.T, validFor time.Duration, names ...string) testca.Pair {
	t.Helper()
	pair, err := p.Issue(testca.Leaf{Names: names, NotAfter: time.Now().Add(validFor)})
	require.NoError(t, err)
	return pair
}

// install makes a pair the server's.
func (p pki) install(t *testing.T, pair testca.Pair) {
	t.Helper()
	put(t, p.path("tls.key"), pair.Key)
	put(t, p.path("tls.crt"), pair.Cert)
}

func (p pki) settings() settings.TLS {
	return settings.TLS{Cert: p.path("tls.crt"), Key: p.path("tls.key"), MinVersion: "1.2"}
}

// client returns what a client needs that believes the authority and shows the pairs' certificates.
func (p pki) client(t *testing.T, pairs ...testca.Pair) *tls.Config {
	t.Helper()
	own, err := p.Pair()
	require.NoError(t, err)
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	require.True(t, config.RootCAs.AppendCertsFromPEM(own.Cert))
	for _, pair := range pairs {
		certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
		require.NoError(t, err)
		// Also where the server says that it does not believe its authority.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return config
}

func dialRaw(t *testing.T, address string) net.Conn {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	require.NoError(t, connection.SetDeadline(time.Now().Add(patience)))
	return connection
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, patience, 5*time.Millisecond, fmt.Sprint(what))
}

// counter counts the connections that it makes.
type counter struct{ n atomic.Int64 }

func (c *counter) dial(ctx context.Context, address string) (net.Conn, error) {
	c.n.Add(1)
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func pemOf(certificate []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}
