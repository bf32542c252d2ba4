package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// keySet is the public keys of an issuer at one time.
type keySet struct{ keys []publicKey }

type publicKey struct {
	id string
	// algorithm is the one that the key is for; empty for all that its type allows.
	algorithm string
	key       any
}

// candidates returns the keys that may have signed a token. One that names no key may be of any.
func (s *keySet) candidates(id, algorithm string) (keys []any) {
	for _, k := range s.keys {
		if (id == "" || k.id == id) && (k.algorithm == "" || k.algorithm == algorithm) && fits(k.key, algorithm) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

func fits(key any, algorithm string) bool {
	switch key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return strings.HasPrefix(algorithm, "ES")
	case ed25519.PublicKey:
		return algorithm == jwa.EdDSA().String()
	}
	return false
}

// maxKeys bounds what a token without a key id can make us try.
const maxKeys = 64

// parseKeys reads a JWKS. Keys that cannot verify signatures, of types that are not known, or of RSA with less than 2048 bits (the library's
// own rule) are left out; a private or shared one is an error, because whoever publishes it has made a mistake.
func parseKeys(content []byte) (*keySet, error) {
	set, err := jwk.Parse(content, jwk.WithIgnoreParseError(true))
	if err != nil {
		return nil, fmt.Errorf("no JWKS: %w", err)
	}
	found := &keySet{}
	for i := range set.Len() {
		key, _ := set.Key(i)
		id, _ := key.KeyID()
		if use, ok := key.KeyUsage(); ok && use != "sig" {
			continue
		}
		if private, err := jwk.IsPrivateKey(key); err == nil && private || key.KeyType() == jwa.OctetSeq() {
			return nil, fmt.Errorf("the JWKS has a secret key (%.100q); publish public keys only", id)
		}
		var raw any
		if jwk.Export(key, &raw) != nil {
			continue // of a type that is not known
		}
		k := publicKey{id: id, key: raw}
		if algorithm, ok := key.Algorithm(); ok {
			k.algorithm = algorithm.String()
		}
		switch raw.(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
			found.keys = append(found.keys, k)
		}
	}
	switch n := len(found.keys); {
	case n == 0:
		return nil, errors.New("the JWKS has no key that verifies signatures")
	case n > maxKeys:
		return nil, fmt.Errorf("the JWKS has %d keys; use at most %d", n, maxKeys)
	}
	return found, nil
}

// keySource is where an issuer's keys come from.
type keySource interface {
	// current returns the keys; nil where there never were any.
	current() *keySet
	// renew is for a token whose key is not known. It asks for newer keys, where that can bring any, and waits a little for them.
	renew(ctx context.Context)
	// run follows the source until ctx is done. What it begins with is there when begun is closed.
	run(ctx context.Context, begun func())
	file() File
}

func newKeySource(setting string, s *settings.JWT, logger *slog.Logger) (keySource, error) {
	if s.KeysFile != "" {
		source := &keyFile{logger: logger, followed: followed[*keySet]{
			setting: setting + ".keys_file", paths: []string{s.KeysFile},
			parse: func(contents [][]byte) (*keySet, time.Time, error) {
				keys, err := parseKeys(contents[0])
				return keys, time.Time{}, err
			},
		}}
		_, err := source.look()
		return source, err
	}
	return newKeyURL(setting, s, logger)
}

// keyFile is a JWKS in a file.
type keyFile struct {
	followed[*keySet]
	logger *slog.Logger
}

func (f *keyFile) current() *keySet { return *f.value.Load() }

func (f *keyFile) renew(context.Context) {}

func (f *keyFile) run(ctx context.Context, begun func()) {
	begun()
	f.follow(ctx, f.logger)
}

const (
	fetchTimeout = 5 * time.Second
	// renewEvery bounds how often unknown keys in tokens, which anybody can send, make us ask the issuer.
	renewEvery = 10 * time.Second
	// renewWait bounds how long a call waits for that.
	renewWait = time.Second
	// retryFetch is how soon a source that never answered is asked again.
	retryFetch = 5 * time.Second
)

// keyURL is a JWKS that an issuer publishes.
type keyURL struct {
	setting string
	url     string
	refresh time.Duration
	client  *http.Client
	logger  *slog.Logger

	keys     atomic.Pointer[keySet]
	failures atomic.Uint64
	ask      chan struct{}

	mu    sync.Mutex // guards everything below
	asked time.Time
	// fetched is closed when the fetch that is under way, or else the next, has ended.
	fetched chan struct{}
}

func newKeyURL(setting string, s *settings.JWT, logger *slog.Logger) (*keyURL, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: fetchTimeout, DisableKeepAlives: true,
	}
	if s.KeysCA != "" {
		content, err := readFile(s.KeysCA)
		if err != nil {
			return nil, fmt.Errorf("%s.keys_ca: %w", setting, err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("%s.keys_ca: %s holds no certificate in PEM", setting, s.KeysCA)
		}
	}
	return &keyURL{
		setting: setting + ".keys_url", url: s.KeysURL, refresh: s.KeysRefresh, logger: logger,
		client: &http.Client{Transport: transport, Timeout: fetchTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("is redirected; name the address that it leads to")
		}},
		ask: make(chan struct{}, 1), fetched: make(chan struct{}),
	}, nil
}

func (u *keyURL) current() *keySet { return u.keys.Load() }

func (u *keyURL) file() File { return File{Setting: u.setting, Failures: u.failures.Load()} }

func (u *keyURL) renew(ctx context.Context) {
	u.mu.Lock()
	fetched := u.fetched
	due := time.Since(u.asked) >= renewEvery
	if due {
		u.asked = time.Now()
	}
	u.mu.Unlock()
	if !due {
		return
	}
	select {
	case u.ask <- struct{}{}:
	default:
	}
	enough := time.NewTimer(renewWait)
	defer enough.Stop()
	select {
	case <-fetched:
	case <-enough.C:
	case <-ctx.Done():
	}
}

func (u *keyURL) run(ctx context.Context, begun func()) {
	u.fetch(ctx)
	begun()
	for {
		pause := u.refresh
		if u.current() == nil {
			pause = min(pause, retryFetch)
		}
		timer := time.NewTimer(pause)
		select {
		case <-u.ask:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		u.fetch(ctx)
	}
}

// fetch asks once. Keys that were good stay where it fails: an issuer that is away has not taken them back.
func (u *keyURL) fetch(ctx context.Context) {
	keys, err := u.get(ctx)
	if err == nil {
		u.keys.Store(keys)
	} else if ctx.Err() == nil {
		u.failures.Add(1)
		u.logger.Error("the keys of an issuer cannot be fetched; those that it had before still hold", "setting", u.setting, "error", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.fetched)
	u.fetched = make(chan struct{})
}

func (u *keyURL) get(ctx context.Context) (*keySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.url, response.Status)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFileBytes {
		return nil, fmt.Errorf("%s answers more than %d bytes", u.url, maxFileBytes)
	}
	return parseKeys(content)
}
