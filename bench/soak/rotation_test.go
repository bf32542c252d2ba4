package soak

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
)

const (
	// settled is how long a new file may take to hold. Tollgate says a second; the machine may be busy. A call ends within it.
	settled = 6 * time.Second
	// rest is the time between two rotations of one value.
	rest = 10 * time.Second
)

// rotation is a value that Tollgate knows from a file, and that is replaced again and again as an operator would: the next one is added,
// callers move to it, the old one is taken away.
type rotation struct {
	name    string
	publish func(values ...string) error

	mu               sync.Mutex // guards what follows
	current, retired string
	rotated          int
}

// newRotation publishes the first value.
func newRotation(t *testing.T, name string, publish func(values ...string) error) *rotation {
	t.Helper()
	r := &rotation{name: name, publish: publish, current: name + "-0", retired: name + "-never"}
	require.NoError(t, publish(r.current))
	return r
}

// good is a value that holds.
func (r *rotation) good() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// bad is one that does not hold any more.
func (r *rotation) bad() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retired
}

func (r *rotation) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rotated
}

// run rotates until ctx is done.
func (r *rotation) run(ctx context.Context) error {
	for n := 1; pause(ctx, rest); n++ {
		old, next := r.good(), fmt.Sprintf("%s-%d", r.name, n)
		if err := r.publish(old, next); err != nil {
			return err
		}
		if !pause(ctx, settled) {
			return nil
		}
		r.mu.Lock()
		r.current = next
		r.mu.Unlock()
		if !pause(ctx, settled) {
			return nil
		}
		if err := r.publish(next); err != nil {
			return err
		}
		if !pause(ctx, settled) {
			return nil
		}
		r.mu.Lock()
		r.retired, r.rotated = old, r.rotated+1
		r.mu.Unlock()
	}
	return nil
}

// pause reports whether the time passed before ctx was done. It is a sum of short ones: time in which the machine stood still hardly counts.
func pause(ctx context.Context, d time.Duration) bool {
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		timer := time.NewTimer(min(d, step))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
	return ctx.Err() == nil
}

// replace writes a file whole.
func replace(path string, content []byte) error {
	made := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(made, content, 0o600); err != nil {
		return err
	}
	return os.Rename(made, path)
}

// lineFile publishes values as the lines of a file.
func lineFile(path string) func(values ...string) error {
	return func(values ...string) error { return replace(path, []byte(strings.Join(values, "\n")+"\n")) }
}

// keyFile publishes a JWK Set with a key for each value, which is its id.
func keyFile(path string) func(values ...string) error {
	return func(values ...string) error {
		type key struct {
			Type  string `json:"kty"`
			Curve string `json:"crv"`
			ID    string `json:"kid"`
			X     string `json:"x"`
		}
		var set struct {
			Keys []key `json:"keys"`
		}
		for _, id := range values {
			public, _ := signingKey(id).Public().(ed25519.PublicKey)
			set.Keys = append(set.Keys, key{"OKP", "Ed25519", id, base64.RawURLEncoding.EncodeToString(public)})
		}
		content, err := json.Marshal(set)
		if err != nil {
			return err
		}
		return replace(path, content)
	}
}

func signingKey(id string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(id))
	return ed25519.NewKeyFromSeed(seed[:])
}

// token makes a JWT that is signed with the key of that id.
func token(keyID string, claims map[string]any) string {
	part := func(v any) string {
		content, err := json.Marshal(v)
		if err != nil {
			panic(err) // only what this package makes up
		}
		return base64.RawURLEncoding.EncodeToString(content)
	}
	signed := part(map[string]string{"alg": "EdDSA", "kid": keyID}) + "." + part(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(signingKey(keyID), []byte(signed)))
}

// certificates are those of the server, which are replaced as well, and of its clients.
type certificates struct {
	authority *testca.Authority
	roots     *x509.CertPool
	client    tls.Certificate
	directory string

	mu      sync.Mutex // guards what follows
	shown   map[string]bool
	rotated int
}

const spiffeID = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	authority, err := testca.New()
	require.NoError(t, err)
	pair, err := authority.Pair()
	require.NoError(t, err)
	c := &certificates{authority: authority, roots: x509.NewCertPool(), directory: t.TempDir(), shown: map[string]bool{}}
	require.True(t, c.roots.AppendCertsFromPEM(pair.Cert))
	require.NoError(t, os.WriteFile(c.file("ca.crt"), pair.Cert, 0o600))
	client, err := authority.Issue(testca.Leaf{Names: []string{spiffeID}, NotAfter: time.Now().Add(24 * time.Hour)})
	require.NoError(t, err)
	c.client, err = tls.X509KeyPair(client.Cert, client.Key)
	require.NoError(t, err)
	_, err = c.issue()
	require.NoError(t, err)
	return c
}

func (c *certificates) file(name string) string { return filepath.Join(c.directory, name) }

// issue gives the server another certificate, and returns its serial number. The key comes first, and does not belong to the
// certificate for a moment.
func (c *certificates) issue() (serial string, err error) {
	pair, err := c.authority.Issue(testca.Leaf{Names: []string{"127.0.0.1"}, NotAfter: time.Now().Add(24 * time.Hour)})
	if err != nil {
		return "", err
	}
	parsed, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return "", err
	}
	serial = parsed.Leaf.SerialNumber.String()
	c.mu.Lock()
	c.shown[serial] = true
	c.mu.Unlock()
	if err := replace(c.file("tls.key"), pair.Key); err != nil {
		return "", err
	}
	return serial, replace(c.file("tls.crt"), pair.Cert)
}

// run replaces the server's certificate until ctx is done.
func (c *certificates) run(ctx context.Context) error {
	for pause(ctx, rest) {
		serial, err := c.issue()
		if err != nil {
			return err
		}
		if !pause(ctx, settled) {
			return nil
		}
		c.mu.Lock()
		c.shown = map[string]bool{serial: true}
		c.rotated++
		c.mu.Unlock()
	}
	return nil
}

// current reports whether new connections may be shown this certificate.
func (c *certificates) current(shown *x509.Certificate) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown[shown.SerialNumber.String()]
}

func (c *certificates) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rotated
}

// configuration is that of a client, who shows a certificate or not.
func (c *certificates) configuration(mutual bool) *tls.Config {
	configuration := &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}
	if mutual {
		configuration.Certificates = []tls.Certificate{c.client}
	}
	return configuration
}
