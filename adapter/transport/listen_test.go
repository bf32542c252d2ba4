package transport

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestTLSNeedsNoConsent(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	r := start(t, func(s *settings.Settings) { s.Listen, s.TLS = "0.0.0.0:0", p.settings() }, nil)
	assert.NotContains(t, r.log.String(), "without encryption")
	assert.Contains(t, r.log.String(), "whoever can connect may call")

	s := settings.Default()
	s.Listen = "0.0.0.0:0"
	s.Callers = map[string]settings.Caller{"mixer": {Bearer: "t"}}
	plain, err := New(t.Context(), s, nil, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = plain.Listen(t.Context())
	require.ErrorContains(t, err, "what is said there would cross the network in the clear")
}

// short returns a directory whose paths are short enough for sockets.
func short(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/tmp", "tg") //nolint:usetesting // its names are too long
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(directory)) })
	return directory
}

func TestSocket(t *testing.T) {
	t.Parallel()
	directory := short(t)
	path := filepath.Join(directory, "tollgate.sock")
	open := func() (net.Listener, error) {
		return Listen(t.Context(), "listen", "unix://"+path, false, slog.New(slog.DiscardHandler))
	}
	listener, err := open()
	require.NoError(t, err)
	assert.Equal(t, path, listener.Addr().String())
	info, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.ModeSocket|0o660, info.Mode())
	entries, err := os.ReadDir(directory)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left beside it")

	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
	}()
	_, err = open()
	require.EqualError(t, err, "listen: another process listens on "+path+"; end it or choose another path")
	require.NoError(t, listener.Close())
	require.NoError(t, listener.Close(), "any number of times")
	assert.NoFileExists(t, path)

	// One that a killed process left behind.
	stale, err := net.Listen("unix", path)
	require.NoError(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	replaced, err := open()
	require.NoError(t, err)

	// One that somebody else has put there since stays.
	require.NoError(t, os.Remove(path))
	theirs, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer theirs.Close()
	require.NoError(t, replaced.Close())
	assert.FileExists(t, path)

	for name, occupy := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("tollgate.sock", path) },
	} {
		path := filepath.Join(directory, name)
		require.NoError(t, occupy(path))
		_, err := Listen(t.Context(), "listen", "unix://"+path, false, slog.New(slog.DiscardHandler))
		require.EqualError(t, err, "listen: "+path+" exists and is no socket; remove it or choose another path")
	}
	_, err = Listen(t.Context(), "listen", "unix://"+directory+"/away/s", false, slog.New(slog.DiscardHandler))
	require.EqualError(t, err, "listen: the directory "+directory+"/away does not exist; make it, or choose another path")
}

func TestCallsOverASocket(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, useTLS := range map[string]bool{"plaintext": false, "TLS": true} {
		path := filepath.Join(short(t), "s")
		r := start(t, func(s *settings.Settings) {
			s.Listen = "unix://" + path
			s.Connections.MaxPerAddress = 1
			s.Callers = map[string]settings.Caller{"mixer": {Bearer: "t"}}
			if useTLS {
				s.TLS = p.settings()
			}
		}, map[string]string{"t": "t"})
		security := insecure.NewCredentials()
		if useTLS {
			config := p.client(t)
			config.ServerName = "127.0.0.1"
			security = credentials.NewTLS(config)
		}
		for range 3 { // a socket has no addresses to count by
			caller, err := ask(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer t"), r.dial(t, security))
			require.NoError(t, err, name)
			assert.Equal(t, "mixer", caller)
		}
		assert.Equal(t, 3, r.Connections())
		_, err := ask(t.Context(), r.dial(t, security))
		assert.Equal(t, codes.Unauthenticated, status.Code(err))
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for reason, c := range map[Reason]struct{ max, perAddress int }{TooManyConnections: {2, 10}, TooManyOfAddress: {10, 2}} {
		r := start(t, func(s *settings.Settings) {
			s.Connections.Max, s.Connections.MaxPerAddress = c.max, c.perAddress
			s.Connections.HandshakeTimeout = 2 * time.Minute // those who say nothing stay
		}, nil)
		first, second := dialRaw(t, r.address), dialRaw(t, r.address)
		eventually(t, "two", func() bool { return r.Connections() == 2 })
		third := dialRaw(t, r.address)
		_, err := third.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "it is closed at once")
		assert.Equal(t, []Reason{reason}, r.reasons())
		assert.Equal(t, 2, r.Connections())
		first.Close()
		eventually(t, "room", func() bool { return r.Connections() == 1 })
		_, err = ask(t.Context(), r.dial(t, insecure.NewCredentials()))
		require.NoError(t, err)
		second.Close()
	}
}

func TestAddressesThatCountAsOne(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1/32", "[::ffff:192.0.2.1]:1": "192.0.2.1/32", "[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
	} {
		assert.Equal(t, want, addressOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))).String())
	}
	assert.False(t, addressOf(&net.UnixAddr{Name: "@"}).IsValid())
	assert.False(t, addressOf(&net.TCPAddr{}).IsValid())
}

// A server that stops lets the calls of others finish, and does not wait for those who connect and say nothing.
func TestSilentConnectionsHoldUpNoEnd(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, c := range map[string]struct {
		tls      settings.TLS
		security credentials.TransportCredentials
	}{
		"plaintext": {settings.TLS{MinVersion: "1.2"}, insecure.NewCredentials()},
		"TLS":       {p.settings(), credentials.NewTLS(p.client(t))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(s *settings.Settings) { s.TLS, s.Connections.HandshakeTimeout = c.tls, 2*time.Minute }, nil)
			watch, err := healthpb.NewHealthClient(r.dial(t, c.security)).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "wait"})
			require.NoError(t, err)
			_, err = watch.Recv()
			require.NoError(t, err)
			silent := dialRaw(t, r.address)
			eventually(t, "both", func() bool { return r.Connections() == 2 })
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				r.server.GracefulStop()
			}()
			_, err = io.ReadAll(silent)
			require.NoError(t, err, "it is closed before the test's own patience ends")
			close(r.release)
			_, err = watch.Recv()
			require.ErrorIs(t, err, io.EOF, "the call comes to its end")
			<-stopped
			// The last connection is closed just before it is taken out of the count.
			eventually(t, "no connections", func() bool { return r.Connections() == 0 })
		})
	}
}

// Old connections are given up without a failed call, and callers come back on new ones.
func TestConnectionsAge(t *testing.T) {
	t.Parallel()
	r := start(t, func(s *settings.Settings) { s.Connections.MaxAge = 50 * time.Millisecond }, nil)
	counted := &counter{}
	connection := r.dial(t, insecure.NewCredentials(), grpc.WithContextDialer(counted.dial))
	eventually(t, "a few connections", func() bool {
		_, err := ask(t.Context(), connection)
		require.NoError(t, err)
		return counted.n.Load() > 3
	})
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	r := start(t, func(s *settings.Settings) { s.Connections.HeaderBytes = 8 << 10 }, nil)
	connection := r.dial(t, insecure.NewCredentials())
	_, err := ask(metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("h", 7<<10)), connection)
	require.NoError(t, err)
	_, err = ask(metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("h", 64<<10)), connection)
	require.Error(t, err)
	_, err = ask(t.Context(), connection)
	require.NoError(t, err)
}
