package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

const (
	fetchTimeout = 5 * time.Second
	// renewEvery bounds how often unknown keys in tokens, which anybody can send, make us ask the issuer.
	renewEvery = 10 * time.Second
	// renewWait bounds how long a call waits for that.
	renewWait = time.Second
)

// issuerKeys are the keys of an issuer. Those that were good once hold while it is away: it has not taken them back.
type issuerKeys struct {
	setting  string
	document *follow.Document[*jwt.Keys]

	mu    sync.Mutex // guards what is below
	asked time.Time
	// answered is closed when the attempt that was asked for has ended.
	answered <-chan struct{}
}

// newIssuerKeys reads the keys of a file. Those of a URL are not there until Transport.Run.
func newIssuerKeys(ctx context.Context, setting string, s *settings.JWT, logger *slog.Logger) (*issuerKeys, error) {
	source := follow.Source{
		File: s.KeysFile, URL: s.KeysURL, CA: s.KeysCA, Accept: jwt.KeySetTypes,
		MaxBytes: jwt.MaxKeySetBytes, Refresh: s.KeysRefresh, Timeout: fetchTimeout,
	}
	k := &issuerKeys{setting: setting + ".keys_url"}
	if s.KeysFile != "" {
		k.setting = setting + ".keys_file"
	}
	k.document = follow.New(source, parseKeys, logger.With("setting", k.setting))
	if s.KeysCA != "" {
		if _, err := follow.Authorities(s.KeysCA); err != nil {
			return nil, fmt.Errorf("%s.keys_ca: %w", setting, err)
		}
	}
	if s.KeysFile != "" && !k.document.Read(ctx) {
		_, err := k.document.Current()
		return nil, fmt.Errorf("%s: %w", k.setting, err)
	}
	return k, nil
}

// parseKeys reads a JWKS. One without a key that verifies signatures, or with a private or shared key, is an error, because whoever
// publishes it has made a mistake.
func parseKeys(content []byte) (*jwt.Keys, error) {
	keys, err := jwt.ParseKeys(content, false)
	if err != nil {
		return nil, err
	}
	if secrets := keys.Secrets(); len(secrets) > 0 {
		return nil, fmt.Errorf("the JWKS has a secret key (%.100q); publish public keys only", secrets[0])
	}
	if keys.Len() == 0 {
		return nil, errors.New("the JWKS has no key that verifies signatures")
	}
	return keys, nil
}

// current returns the keys; nil where there never were any.
func (k *issuerKeys) current() *jwt.Keys {
	keys, _ := k.document.Last()
	return keys
}

// renew is for a token whose key is not known. It asks for newer keys, unless somebody did so just now, and waits a little for them.
func (k *issuerKeys) renew(ctx context.Context) {
	k.mu.Lock()
	if k.answered == nil || time.Since(k.asked) >= renewEvery {
		k.asked, k.answered = time.Now(), k.document.Next()
		k.document.Want()
	}
	answered := k.answered
	k.mu.Unlock()
	enough := time.NewTimer(renewWait)
	defer enough.Stop()
	select {
	case <-answered:
	case <-enough.C:
	case <-ctx.Done():
	}
}

func (k *issuerKeys) file() File {
	_, stats := k.document.Last()
	return File{Setting: k.setting, Failures: stats.Failed}
}
