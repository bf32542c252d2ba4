package transport

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
)

const mixer = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"

// Who gets in with which certificate, and what is said of those who do not.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	p, foreign := newPKI(t), newPKI(t)
	r := start(t, func(s *settings.Settings) {
		s.TLS = p.settings()
		s.TLS.ClientCA = p.path("ca.crt")
		s.TLS.ClientNames = []string{"spiffe://cluster.local/ns/istio-system/sa/*", "*.example.org"}
	}, nil)
	for name, c := range map[string]struct {
		pairs  []testca.Pair
		caller string
		code   codes.Code
		reason Reason
		detail string
	}{
		"SPIFFE id":      {pairs: []testca.Pair{p.issue(t, time.Hour, mixer)}, caller: mixer},
		"DNS name":       {pairs: []testca.Pair{p.issue(t, time.Hour, "other", "Mixer.example.org")}, caller: "dns:mixer.example.org"},
		"another name":   {pairs: []testca.Pair{p.issue(t, time.Hour, "spiffe://cluster.local/ns/default/sa/a")}, code: codes.Unauthenticated, reason: CertificateName, detail: `"spiffe://cluster.local/ns/default/sa/a"`},
		"two ids":        {pairs: []testca.Pair{p.issue(t, time.Hour, mixer, mixer+"2")}, code: codes.Unauthenticated, reason: CertificateName, detail: mixer},
		"no certificate": {code: codes.Unauthenticated, reason: NoCredential, detail: "neither a client certificate of tls.client_ca nor a credential"},
		"expired":        {pairs: []testca.Pair{p.issue(t, -time.Minute, mixer)}, code: codes.Unavailable, reason: CertificateExpired, detail: "has expired"},
		"foreign":        {pairs: []testca.Pair{foreign.issue(t, time.Hour, mixer)}, code: codes.Unavailable, reason: CertificateAuthority, detail: "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				config := p.client(t, c.pairs...)
				config.MinVersion, config.MaxVersion = version, version
				// One attempt: the next would be under way when the connection is closed, and be refused at any time after that, for whatever reason.
				connection := r.dial(t, credentials.NewTLS(config), retry(time.Hour))
				caller, err := ask(t.Context(), connection)
				assert.Equal(t, c.code, status.Code(err), "%v", err)
				assert.Equal(t, c.caller, caller)
				connection.Close()
				if c.code == codes.OK {
					assert.Empty(t, r.refused())
					continue
				}
				var refused []Refusal
				eventually(t, "the refusal", func() bool {
					refused = r.refused()
					return len(refused) > 0
				})
				require.Len(t, refused, 1)
				refusal := refused[0]
				assert.Equal(t, c.reason, refusal.Reason, "%v", refusal)
				assert.Contains(t, refusal.Detail, c.detail)
				assert.Contains(t, refusal.Peer, "127.0.0.1:")
				if c.code == codes.Unauthenticated {
					assert.Equal(t, whoamiMethod, refusal.Method)
					assert.Equal(t, "the caller is not authenticated", status.Convert(err).Message())
				}
				eventually(t, "no connection", func() bool { return r.Connections() == 0 })
			}
		})
	}
}

func TestHealthIsOpenToAll(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	r := start(t, func(s *settings.Settings) {
		s.TLS = p.settings()
		s.TLS.ClientCA, s.TLS.ClientNames = p.path("ca.crt"), []string{"mixer"}
		s.Callers = map[string]settings.Caller{"mixer": {Bearer: "token"}}
	}, map[string]string{"token": "t"})
	connection := r.dial(t, credentials.NewTLS(p.client(t)))
	client := healthpb.NewHealthClient(connection)
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	for _, method := range []string{whoamiMethod, "/whoami.WhoAmI/Watch"} {
		assert.Equal(t, codes.Unauthenticated, status.Code(connection.Invoke(t.Context(), method, &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{})), method)
	}
	assert.Equal(t, []Reason{NoCredential, NoCredential}, r.reasons())
}

// What is no TLS, or not ours, is closed and told.
func TestFailedHandshakes(t *testing.T) {
	t.Parallel()
	p, foreign := newPKI(t), newPKI(t)
	within := func(timeout time.Duration) *running {
		return start(t, func(s *settings.Settings) {
			s.TLS = p.settings()
			s.TLS.MinVersion = "1.3"
			s.Connections.HandshakeTimeout = timeout
		}, nil)
	}
	r := within(2 * time.Minute) // none of these is to be late
	told := func(want Reason) {
		t.Helper()
		// A connection that was closed while it tried again may be told of as well.
		eventually(t, string(want), func() bool { return slices.Contains(r.reasons(), want) })
		eventually(t, "no connection", func() bool { return r.Connections() == 0 })
		r.refused()
	}

	plaintext := r.dial(t, insecure.NewCredentials())
	_, err := ask(t.Context(), plaintext)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	plaintext.Close()
	told(NotTLS)

	_, err = fmt.Fprint(dialRaw(t, r.address), strings.Repeat("garbage ", 100))
	require.NoError(t, err)
	told(NotTLS)

	dialRaw(t, r.address).Close()
	told(HandshakeAborted)

	for name, c := range map[string]struct {
		change func(*tls.Config)
		reason Reason
	}{
		"the client believes another authority": {func(config *tls.Config) { config.RootCAs = foreign.client(t).RootCAs }, ServerRefused},
		"the client wants another name":         {func(config *tls.Config) { config.ServerName = "tollgate" }, ServerRefused},
		"the client knows old TLS only":         {func(config *tls.Config) { config.MaxVersion = tls.VersionTLS12 }, Handshake},
		"the client does not speak HTTP/2":      {func(config *tls.Config) { config.NextProtos = []string{"http/1.1"} }, Handshake},
	} {
		config := p.client(t)
		config.NextProtos = []string{"h2"}
		c.change(config)
		connection, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.address, config)
		if err == nil { // it is the server that closes
			connection.Close()
		}
		t.Logf("%s: %v", name, err)
		told(c.reason)
	}
	_, err = ask(t.Context(), r.dial(t, credentials.NewTLS(p.client(t))))
	require.NoError(t, err, "the server lives on")

	r = within(200 * time.Millisecond)
	silent := dialRaw(t, r.address)
	_, err = io.ReadAll(silent)
	require.NoError(t, err, "it is closed before the test's own patience ends")
	told(HandshakeTimeout)
}

// Certificates and authorities change while calls are under way, by replaced files and by swapped symbolic links; no call fails, and
// connections stay.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	for name, swap := range map[string]func(t *testing.T, p pki, pair testca.Pair){
		"files": func(t *testing.T, p pki, pair testca.Pair) { p.install(t, pair) },
		"links": swapLinks,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPKI(t)
			if name == "links" {
				require.NoError(t, os.Remove(p.path("tls.crt")))
				require.NoError(t, os.Remove(p.path("tls.key")))
				swapLinks(t, p, p.issue(t, time.Hour, "127.0.0.1"))
				require.NoError(t, os.Symlink("..data/tls.crt", p.path("tls.crt")))
				require.NoError(t, os.Symlink("..data/tls.key", p.path("tls.key")))
			}
			r := start(t, func(s *settings.Settings) {
				s.TLS = p.settings()
				s.TLS.ClientCA, s.TLS.ClientNames = p.path("ca.crt"), []string{mixer}
			}, nil)
			config := p.client(t, p.issue(t, time.Hour, mixer))
			var stop atomic.Bool
			var load sync.WaitGroup
			var calls atomic.Int64
			steady := r.dial(t, credentials.NewTLS(config))
			load.Go(func() {
				for !stop.Load() {
					if _, err := ask(t.Context(), steady); err != nil {
						t.Error(err)
					}
					calls.Add(1)
				}
			})
			load.Go(func() {
				for !stop.Load() {
					fresh := r.dial(t, credentials.NewTLS(config))
					if _, err := ask(t.Context(), fresh); err != nil {
						t.Error(err)
					}
					fresh.Close()
					calls.Add(1)
				}
			})
			const rotations = 3
			for i := range rotations {
				expires := time.Duration(i+2) * time.Hour
				swap(t, p, p.issue(t, expires, "127.0.0.1"))
				eventually(t, "the new certificate", func() bool { return serves(t, r, config, expires) })
			}
			stop.Store(true)
			load.Wait()
			assert.Positive(t, calls.Load())
			assert.Empty(t, r.reasons())
			for _, file := range r.Files() {
				assert.False(t, file.Expires.IsZero())
			}
			assert.Contains(t, r.log.String(), `msg="a file was read anew" setting=tls.cert expires=`)
		})
	}
}

// swapLinks does what a kubelet does.
func swapLinks(t *testing.T, p pki, pair testca.Pair) {
	t.Helper()
	directory, err := os.MkdirTemp(p.directory, "..version") //nolint:usetesting // the link is to what is beside it
	require.NoError(t, err)
	put(t, filepath.Join(directory, "tls.crt"), pair.Cert)
	put(t, filepath.Join(directory, "tls.key"), pair.Key)
	require.NoError(t, os.Symlink(filepath.Base(directory), p.path("..data_tmp")))
	require.NoError(t, os.Rename(p.path("..data_tmp"), p.path("..data")))
}

// serves reports whether the server shows a certificate that expires about then.
func serves(t *testing.T, r *running, config *tls.Config, expires time.Duration) bool {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	connection, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.address, config)
	require.NoError(t, err)
	defer connection.Close()
	left := time.Until(connection.ConnectionState().PeerCertificates[0].NotAfter)
	return left > expires-10*time.Minute && left < expires+10*time.Minute
}

// A new file that is no good changes nothing, and is told once.
func TestBrokenFilesChangeNothing(t *testing.T) {
	t.Parallel()
	p, other := newPKI(t), newPKI(t)
	good := p.issue(t, time.Hour, "127.0.0.1")
	p.install(t, good)
	r := start(t, func(s *settings.Settings) {
		s.TLS = p.settings()
		s.TLS.ClientCA, s.TLS.ClientNames = p.path("ca.crt"), []string{mixer}
	}, nil)
	config := p.client(t, p.issue(t, time.Hour, mixer))
	ca, err := os.ReadFile(p.path("ca.crt"))
	require.NoError(t, err)
	otherCA, err := os.ReadFile(other.path("ca.crt"))
	require.NoError(t, err)
	failures := map[string]uint64{}
	for _, c := range []struct {
		name, setting, file string
		content             []byte
		problem             string
	}{
		{"half a certificate", "tls.cert", "tls.crt", good.Cert[:len(good.Cert)/2], "failed to find any PEM data"},
		{"an empty certificate", "tls.cert", "tls.crt", nil, "failed to find any PEM data"},
		{"another's certificate", "tls.cert", "tls.crt", p.issue(t, time.Hour, "127.0.0.1").Cert, "private key does not match public key"},
		{"an expired certificate", "tls.cert", "tls.crt", nil, "expired on"},
		{"half a bundle", "tls.client_ca", "ca.crt", append(append([]byte{}, otherCA...), ca[:len(ca)/2]...), "has 2 certificates that begin and 1 that can be read"},
		{"an empty bundle", "tls.client_ca", "ca.crt", nil, "holds no certificate in PEM"},
		{"a missing bundle", "tls.client_ca", "ca.crt", nil, "does not exist"},
	} {
		before, err := os.ReadFile(p.path(c.file))
		require.NoError(t, err)
		switch c.name {
		case "an expired certificate":
			p.install(t, p.issue(t, -time.Minute, "127.0.0.1"))
		case "a missing bundle":
			require.NoError(t, os.Remove(p.path(c.file)))
		default:
			put(t, p.path(c.file), c.content)
		}
		failures[c.setting]++
		eventually(t, c.name, func() bool { return counted(r, c.setting) >= failures[c.setting] })
		if c.name == "an expired certificate" {
			// Certificate and key are two files; between them a look may have seen one of each.
			eventually(t, c.name, func() bool { return strings.Contains(r.log.String(), c.problem) })
			failures[c.setting] = counted(r, c.setting)
			put(t, p.path("tls.key"), good.Key)
		}
		eventually(t, c.name, func() bool { return strings.Contains(r.log.String(), c.problem) })
		caller, err := ask(t.Context(), r.dial(t, credentials.NewTLS(config)))
		require.NoError(t, err, c.name)
		assert.Equal(t, mixer, caller)
		logged := strings.Count(r.log.String(), "was read anew")
		put(t, p.path(c.file), before)
		eventually(t, "good again", func() bool { return strings.Count(r.log.String(), "was read anew") > logged })
		failures[c.setting] = counted(r, c.setting)
	}
	assert.Equal(t, uint64(3), failures["tls.client_ca"])
}

func counted(r *running, setting string) uint64 {
	for _, file := range r.Files() {
		if file.Setting == setting {
			return file.Failures
		}
	}
	return 0
}

// A new authority is believed beside the old one, and the old one no more when it is gone.
func TestAuthoritiesRotate(t *testing.T) {
	t.Parallel()
	p, next := newPKI(t), newPKI(t)
	r := start(t, func(s *settings.Settings) {
		s.TLS = p.settings()
		s.TLS.ClientCA, s.TLS.ClientNames = p.path("ca.crt"), []string{mixer}
	}, nil)
	of := func(authority pki) error {
		connection := r.dial(t, credentials.NewTLS(p.client(t, authority.issue(t, time.Hour, mixer))))
		defer connection.Close()
		_, err := ask(t.Context(), connection)
		return err
	}
	require.NoError(t, of(p))
	require.Error(t, of(next))
	held := r.dial(t, credentials.NewTLS(p.client(t, p.issue(t, time.Hour, mixer))))
	_, err := ask(t.Context(), held)
	require.NoError(t, err)

	old, err := os.ReadFile(p.path("ca.crt"))
	require.NoError(t, err)
	newer, err := os.ReadFile(next.path("ca.crt"))
	require.NoError(t, err)
	put(t, p.path("ca.crt"), append(append([]byte{}, old...), newer...))
	eventually(t, "both", func() bool { return of(next) == nil && of(p) == nil })
	put(t, p.path("ca.crt"), newer)
	eventually(t, "the new one alone", func() bool { return of(p) != nil })
	require.NoError(t, of(next))
	_, err = ask(t.Context(), held)
	require.NoError(t, err, "a connection is not dropped")
}

// What stays broken is told once, and so is what stays good.
func TestChangesAreToldOnce(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	c, err := openCertificates(p.settings())
	require.NoError(t, err)
	put(t, p.path("tls.key"), nil)
	for _, want := range []bool{true, false, false} {
		changed, err := c.pair.look()
		assert.Equal(t, want, changed)
		assert.Equal(t, want, err != nil)
	}
	assert.EqualValues(t, 1, c.pair.file().Failures)
	require.NoError(t, os.Remove(p.path("tls.key")))
	for _, want := range []bool{true, false} {
		changed, _ := c.pair.look()
		assert.Equal(t, want, changed)
	}
	p.install(t, p.issue(t, time.Hour, "a"))
	for _, want := range []bool{true, false} {
		changed, err := c.pair.look()
		assert.Equal(t, want, changed)
		require.NoError(t, err)
	}
}

// Nobody comes back on the strength of a certificate that was shown on another connection.
func TestSessionsAreNotResumed(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	r := start(t, func(s *settings.Settings) { s.TLS = p.settings() }, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := p.client(t)
		config.NextProtos, config.ClientSessionCache = []string{"h2"}, tls.NewLRUClientSessionCache(1)
		config.MinVersion, config.MaxVersion = version, version
		for range 2 {
			connection, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.address, config)
			require.NoError(t, err)
			assert.False(t, connection.ConnectionState().DidResume)
			_, err = connection.Read(make([]byte, 1)) // the ticket would come before the server's settings
			require.NoError(t, err)
			connection.Close()
		}
	}
}

// To start with files that cannot be used would be to serve nobody.
func TestStartNeedsGoodFiles(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	expired := p.issue(t, -time.Minute, "a")
	put(t, p.path("expired.crt"), expired.Cert)
	put(t, p.path("expired.key"), expired.Key)
	put(t, p.path("text"), []byte("no PEM"))
	for name, c := range map[string]struct {
		change  func(s *settings.TLS)
		problem string
	}{
		"no certificate": {func(s *settings.TLS) { s.Cert = p.path("away") }, "tls.cert: the file " + p.path("away") + " does not exist"},
		"no key":         {func(s *settings.TLS) { s.Key = p.path("away") }, "tls.cert: the file " + p.path("away") + " does not exist"},
		"a directory":    {func(s *settings.TLS) { s.Key = p.directory }, "tls.cert: " + p.directory + " is no regular file"},
		"not the key":    {func(s *settings.TLS) { s.Key = p.path("expired.key") }, "tls.cert: " + p.path("tls.crt") + ", " + p.path("expired.key") + ": certificate and key: tls: private key does not match public key"},
		"expired":        {func(s *settings.TLS) { s.Cert, s.Key = p.path("expired.crt"), p.path("expired.key") }, p.path("expired.key") + ": the certificate or one of its chain expired on "},
		"no authorities": {func(s *settings.TLS) { s.ClientCA = p.path("text") }, "tls.client_ca: " + p.path("text") + ": holds no certificate in PEM"},
	} {
		s := settings.Default()
		s.TLS = p.settings()
		c.change(&s.TLS)
		_, err := New(t.Context(), s, nil, nil, nil)
		assert.ErrorContains(t, err, c.problem, name)
	}
}
