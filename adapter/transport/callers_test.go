package transport

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// Every form in which Mixer presents a credential, and what comes near.
func TestCredentials(t *testing.T) {
	t.Parallel()
	r := start(t, func(s *settings.Settings) {
		s.Callers = map[string]settings.Caller{
			"bearer": {Bearer: "tokens"},
			"plain":  {Authorization: "plain"},
			"key":    {Header: &settings.HeaderCredential{Name: "x-api-key", Secret: "keys"}},
			"away":   {Header: &settings.HeaderCredential{Name: "x-away", Secret: "away"}},
		}
	}, map[string]string{"tokens": "planted-old\nplanted-new\n", "plain": "planted-plain", "keys": "planted-key", "away": "\n"})
	connection := r.dial(t, insecure.NewCredentials())
	for name, c := range map[string]struct {
		headers []string
		caller  string
		reason  Reason
	}{
		"bearer":                    {headers: []string{"authorization", "Bearer planted-old"}, caller: "bearer"},
		"the other valid one":       {headers: []string{"authorization", "Bearer planted-new"}, caller: "bearer"},
		"scheme in another case":    {headers: []string{"authorization", "bEARER planted-new"}, caller: "bearer"},
		"plain":                     {headers: []string{"authorization", "planted-plain"}, caller: "plain"},
		"header":                    {headers: []string{"x-api-key", "planted-key"}, caller: "key"},
		"header beside a wrong one": {headers: []string{"x-api-key", "planted-key", "authorization", "Bearer x"}, caller: "key"},

		"nothing":                      {reason: NoCredential},
		"an empty value":               {headers: []string{"authorization", ""}, reason: NoCredential},
		"an empty bearer":              {headers: []string{"authorization", "Bearer "}, reason: WrongCredential},
		"wrong bearer":                 {headers: []string{"authorization", "Bearer planted-older"}, reason: WrongCredential},
		"both values":                  {headers: []string{"authorization", "Bearer planted-old planted-new"}, reason: WrongCredential},
		"bearer without its scheme":    {headers: []string{"authorization", "planted-new"}, reason: WrongCredential},
		"another scheme":               {headers: []string{"authorization", "Basic planted-new"}, reason: WrongCredential},
		"plain as bearer":              {headers: []string{"authorization", "Bearer planted-plain"}, reason: WrongCredential},
		"in another case":              {headers: []string{"authorization", "PLANTED-PLAIN"}, reason: WrongCredential},
		"wrong key":                    {headers: []string{"x-api-key", "planted-ke"}, reason: WrongCredential},
		"key in another header":        {headers: []string{"x-api-keys", "planted-key"}, reason: NoCredential},
		"two values, one of them good": {headers: []string{"x-api-key", "planted-key", "x-api-key", "other"}, reason: NoCredential},
		"the same value twice":         {headers: []string{"x-api-key", "planted-key", "x-api-key", "planted-key"}, reason: NoCredential},
		"a secret without a value":     {headers: []string{"x-away", "planted"}, reason: SecretUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), c.headers...)
			caller, err := ask(ctx, connection)
			assert.Equal(t, c.caller, caller)
			refused := r.refused()
			if c.reason == "" {
				require.NoError(t, err)
				assert.Empty(t, refused)
				return
			}
			require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
			require.Len(t, refused, 1)
			assert.Equal(t, c.reason, refused[0].Reason, "%v", refused[0])
			assert.NotContains(t, refused[0].Detail+err.Error(), "planted")
		})
	}
	assert.NotContains(t, r.log.String(), "planted")
}

// The names of secrets that no file has are no reason to let anybody in.
func TestUnknownSecrets(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	r := start(t, func(s *settings.Settings) {
		s.Secrets.Directory = directory
		s.Callers = map[string]settings.Caller{"mixer": {Bearer: "comes-later"}}
	}, nil)
	connection := r.dial(t, insecure.NewCredentials(), grpc.WithPerRPCCredentials(header{"authorization", "Bearer t"}))
	_, err := ask(t.Context(), connection)
	assert.Equal(t, codes.Unauthenticated, status.Code(err))
	assert.Equal(t, []Reason{SecretUnavailable}, r.reasons())
}

// Tokens are replaced while a caller moves from one to the other, and no call fails.
func TestCredentialsRotate(t *testing.T) {
	t.Parallel()
	var file string
	r := start(t, func(s *settings.Settings) {
		file = s.Secrets.Files["tokens"]
		s.Callers = map[string]settings.Caller{"mixer": {Bearer: "tokens"}}
	}, map[string]string{"tokens": "old"})
	with := func(token string) error {
		_, err := ask(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), r.dial(t, insecure.NewCredentials()))
		return err
	}
	require.NoError(t, with("old"))
	require.Error(t, with("new"))
	put(t, file, []byte("old\nnew"))
	eventually(t, "both", func() bool { err := with("old"); require.NoError(t, err); return with("new") == nil })
	put(t, file, []byte("new"))
	eventually(t, "the new one alone", func() bool { err := with("new"); require.NoError(t, err); return with("old") != nil })
}

// A certificate that may not call does not keep a credential that may from doing so, and the other way round.
func TestEitherIsEnough(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	r := start(t, func(s *settings.Settings) {
		s.TLS = p.settings()
		s.TLS.ClientCA, s.TLS.ClientNames = p.path("ca.crt"), []string{mixer}
		s.Callers = map[string]settings.Caller{"token": {Bearer: "tokens"}}
	}, map[string]string{"tokens": "t"})
	listed := credentials.NewTLS(p.client(t, p.issue(t, time.Hour, mixer)))
	other := credentials.NewTLS(p.client(t, p.issue(t, time.Hour, "other")))
	for _, c := range []struct {
		security      credentials.TransportCredentials
		token, caller string
		reasons       []Reason
	}{
		{listed, "", mixer, nil},
		{listed, "wrong", mixer, nil},
		{listed, "t", mixer, nil},
		{other, "t", "token", nil},
		{other, "", "", []Reason{CertificateName}},
		{other, "wrong", "", []Reason{WrongCredential}},
	} {
		ctx := t.Context()
		if c.token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
		}
		caller, _ := ask(ctx, r.dial(t, c.security))
		assert.Equal(t, c.caller, caller)
		assert.Equal(t, c.reasons, r.reasons())
	}
}

// Without callers in the settings everybody may call, and nobody has a name.
func TestNoCallers(t *testing.T) {
	t.Parallel()
	r := start(t, func(*settings.Settings) {}, nil)
	caller, err := ask(t.Context(), r.dial(t, insecure.NewCredentials(), grpc.WithPerRPCCredentials(header{"authorization", "Bearer t"})))
	require.NoError(t, err)
	assert.Empty(t, caller)
	assert.NotContains(t, r.log.String(), "whoever can connect")

	open := start(t, func(s *settings.Settings) { s.Listen, s.AllowPlaintext = "0.0.0.0:0", true }, nil)
	assert.Equal(t, 1, strings.Count(open.log.String(), "whoever can connect may call"))
	named := start(t, func(s *settings.Settings) {
		s.Listen, s.AllowPlaintext = "0.0.0.0:0", true
		s.Callers = map[string]settings.Caller{"mixer": {Bearer: "t"}}
	}, map[string]string{"t": "t"})
	assert.NotContains(t, named.log.String(), "whoever can connect")
}
