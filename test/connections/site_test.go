// Package connections tests what becomes of connections that mean no good: the real binary, as a process, over real TLS.
package connections

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
	"github.com/tollgate-mesh/tollgate/bench/servers"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// patience is how long something may take that has to happen. It bounds a test that fails and is no measure.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a Tollgate that takes calls from everybody, so that nothing but the bounds of connections stands before it.
type site struct {
	*servers.Server

	client *tls.Config // nil for plaintext
}

func newSite(t *testing.T, encrypted bool, settings string) *site {
	t.Helper()
	if !encrypted {
		return &site{Server: servers.Tollgate(t, settings)}
	}
	authority, err := testca.New()
	require.NoError(t, err)
	root, err := authority.Pair()
	require.NoError(t, err)
	leaf, err := authority.Issue(testca.Leaf{Names: []string{"127.0.0.1"}, NotAfter: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	directory := t.TempDir()
	cert, key := filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key")
	require.NoError(t, os.WriteFile(cert, leaf.Cert, 0o600))
	require.NoError(t, os.WriteFile(key, leaf.Key, 0o600))
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(root.Cert))
	return &site{
		Server: servers.Tollgate(t, fmt.Sprintf("tls: {cert: %q, key: %q}\n%s", cert, key, settings)),
		client: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1)},
	}
}

// caller returns a connection of somebody who means well, and tries again where a busy machine was too late for a handshake.
func (s *site) caller(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c := insecure.NewCredentials()
	if s.client != nil {
		c = credentials.NewTLS(s.client)
	}
	connection, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(c), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

// checkCall is a call that is allowed.
func checkCall() []byte {
	key := "abc"
	return mixertest.Call(&configpb.Params{Name: "good", AuthKey: &key}, key)
}

// raw opens a TCP connection from one of the loopback addresses, which a caller has many of.
func (s *site) raw(ctx context.Context, from int) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+from/250), byte(1+from%250))}}
	connection, err := dialer.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = connection.Close() })
	return connection, nil
}

// secure opens a TLS connection, or a plain one where the site has no TLS.
func (s *site) secure(ctx context.Context, from int) (net.Conn, error) {
	connection, err := s.raw(ctx, from)
	if err != nil || s.client == nil {
		return connection, err
	}
	secured := tls.Client(connection, s.client)
	return secured, secured.HandshakeContext(ctx)
}

// secureInTime is secure for a site with a hasty handshake: it tries again where a busy machine was too late for it.
func (s *site) secureInTime(ctx context.Context, from int) (net.Conn, error) {
	for {
		connection, err := s.secure(ctx, from)
		if err == nil || ctx.Err() != nil {
			return connection, err
		}
		if connection != nil {
			_ = connection.Close()
		}
	}
}

// session is an HTTP/2 connection that is used frame by frame.
type session struct {
	net.Conn
	*http2.Framer

	fields  bytes.Buffer
	encoder *hpack.Encoder
}

// session opens one, as far as the first settings of both sides.
func (s *site) session(ctx context.Context, from int, settings ...http2.Setting) (*session, error) {
	connection, err := s.secure(ctx, from)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		return nil, err
	}
	h := &session{Conn: connection, Framer: http2.NewFramer(connection, connection)}
	h.encoder = hpack.NewEncoder(&h.fields)
	if err := h.WriteSettings(settings...); err != nil {
		return nil, err
	}
	_, err = h.ReadFrame()
	return h, err
}

// header encodes the headers of a call of Mixer's authorization template, and further ones.
func (h *session) header(path string, more ...hpack.HeaderField) []byte {
	h.fields.Reset()
	for _, field := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "tollgate"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}, more...) {
		_ = h.encoder.WriteField(field) // to memory
	}
	return bytes.Clone(h.fields.Bytes())
}

// open begins a call and leaves it open.
func (h *session) open(stream uint32, path string) error {
	return h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.header(path), EndHeaders: true})
}

// drain reads and drops what comes until the connection ends, and reports whether the server ended it.
func drain(connection net.Conn) error {
	_, err := io.Copy(io.Discard, connection)
	if errors.Is(err, net.ErrClosed) {
		return errors.New("the server did not end it")
	}
	return nil
}

// pause reports whether the time passed before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
