package settings_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestTLSProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tls     settings.TLS
		problem string
	}{
		"nothing":               {settings.TLS{}, ""},
		"a pair":                {settings.TLS{Cert: "c", Key: "k"}, ""},
		"with clients":          {settings.TLS{Cert: "c", Key: "k", ClientCA: "a", ClientNames: []string{"spiffe://cluster.local/ns/istio-system/sa/*"}}, ""},
		"no key":                {settings.TLS{Cert: "c"}, "tls.key is missing; tls.cert needs one"},
		"no certificate":        {settings.TLS{Key: "k"}, "tls.cert is missing; tls.key needs one"},
		"clients without TLS":   {settings.TLS{ClientCA: "a", ClientNames: []string{"n"}}, "tls.client_ca stands without tls.cert and tls.key; set them, or nobody is asked for a certificate"},
		"everybody of the mesh": {settings.TLS{Cert: "c", Key: "k", ClientCA: "a"}, "tls.client_names is missing; name who may call, since tls.client_ca may have signed for many others"},
		"names without a CA":    {settings.TLS{Cert: "c", Key: "k", ClientNames: []string{"n"}}, "tls.client_names stands without tls.client_ca; set it, or no name is believed"},
		"a name that is none": {
			settings.TLS{Cert: "c", Key: "k", ClientCA: "a", ClientNames: []string{"n", "*"}},
			`tls.client_names[1]: "*" is no name; write spiffe://TRUST-DOMAIN/PATH, which may end in /*, or a DNS name in lower case, which may begin with *. for one label`,
		},
		"an old version": {settings.TLS{MinVersion: "1.1"}, `tls.min_version is "1.1"; use "1.2" or "1.3"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			if c.tls.MinVersion == "" {
				c.tls.MinVersion = "1.3"
			}
			s.TLS = c.tls
			expect(t, s, c.problem)
		})
	}
}

func expect(t *testing.T, s settings.Settings, problem string) {
	t.Helper()
	if problem == "" {
		assert.NoError(t, s.Validate())
	} else {
		assert.EqualError(t, s.Validate(), problem)
	}
}

func TestCallerProblems(t *testing.T) {
	t.Parallel()
	jwt := func(change func(j *settings.JWT)) settings.Caller {
		j := &settings.JWT{Issuer: "i", Audiences: []string{"a"}, KeysURL: "https://i/jwks"}
		change(j)
		return settings.Caller{JWT: j}
	}
	header := func(name string) settings.Caller {
		return settings.Caller{Header: &settings.HeaderCredential{Name: name, Secret: "s"}}
	}
	const wrongHeader = `callers.c.header.name is %; use the name of a header in lower case that gRPC has no use for, such as x-api-key`
	for name, c := range map[string]struct {
		caller  settings.Caller
		problem string
	}{
		"bearer":         {settings.Caller{Bearer: "s"}, ""},
		"authorization":  {settings.Caller{Authorization: "s"}, ""},
		"header":         {header("x-api-key"), ""},
		"jwt":            {jwt(func(*settings.JWT) {}), ""},
		"nothing":        {settings.Caller{}, "callers.c.bearer is missing; give the caller one of bearer, authorization, header, jwt"},
		"two":            {settings.Caller{Bearer: "s", Header: &settings.HeaderCredential{}}, "callers.c.bearer stands beside header; a caller has one credential, so make two"},
		"unknown secret": {settings.Caller{Bearer: "x"}, `callers.c.bearer is "x", which secrets.files does not have; add it, or set secrets.directory`},

		"header in capitals": {header("X-Api-Key"), strings.ReplaceAll(wrongHeader, "%", `"X-Api-Key"`)},
		"header of gRPC":     {header("grpc-timeout"), strings.ReplaceAll(wrongHeader, "%", `"grpc-timeout"`)},
		"header in binary":   {header("x-bin"), strings.ReplaceAll(wrongHeader, "%", `"x-bin"`)},
		"pseudo header":      {header(":path"), strings.ReplaceAll(wrongHeader, "%", `":path"`)},
		"authorization once": {header("authorization"), strings.ReplaceAll(wrongHeader, "%", `"authorization"`)},
		"header without":     {settings.Caller{Header: &settings.HeaderCredential{Name: "x"}}, "callers.c.header.secret is missing; name the secret that holds the header's values"},

		"no issuer":        {jwt(func(j *settings.JWT) { j.Issuer = "" }), "callers.c.jwt.issuer is missing; name who makes the tokens"},
		"no audience":      {jwt(func(j *settings.JWT) { j.Audiences = nil }), "callers.c.jwt.audiences is []; name what tokens for Tollgate are made for, or tokens for others would do"},
		"empty audience":   {jwt(func(j *settings.JWT) { j.Audiences = []string{""} }), `callers.c.jwt.audiences is [""]; name what tokens for Tollgate are made for, or tokens for others would do`},
		"no keys":          {jwt(func(j *settings.JWT) { j.KeysURL = "" }), "callers.c.jwt.keys_file and jwt.keys_url are both set, or neither is; set one of them"},
		"keys twice":       {jwt(func(j *settings.JWT) { j.KeysFile = "f" }), "callers.c.jwt.keys_file and jwt.keys_url are both set, or neither is; set one of them"},
		"keys in clear":    {jwt(func(j *settings.JWT) { j.KeysURL = "http://i/jwks" }), "callers.c.jwt.keys_url must begin with https://, or others could give you their keys; http:// is for this machine alone, such as http://127.0.0.1"},
		"keys by password": {jwt(func(j *settings.JWT) { j.KeysURL = "https://a:planted@i/jwks" }), "callers.c.jwt.keys_url has a user or a password, which would be in logs; remove it"},
		"keys here":        {jwt(func(j *settings.JWT) { j.KeysURL = "http://127.0.0.1:1/jwks" }), ""},
		"keys of a file":   {jwt(func(j *settings.JWT) { j.KeysURL = "file:///jwks" }), "callers.c.jwt.keys_url is none; write one such as https://idp.example.com/keys"},
		"CA for nothing":   {jwt(func(j *settings.JWT) { j.KeysURL, j.KeysFile, j.KeysCA = "", "f", "c" }), "callers.c.jwt.keys_ca stands without jwt.keys_url; remove it"},
		"shared secret":    {jwt(func(j *settings.JWT) { j.Algorithms = []string{"ES256", "HS256"} }), `callers.c.jwt.algorithms has "HS256"; use some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`},
		"no signature":     {jwt(func(j *settings.JWT) { j.Algorithms = []string{"none"} }), `callers.c.jwt.algorithms has "none"; use some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`},
		"too often":        {jwt(func(j *settings.JWT) { j.KeysRefresh = time.Second }), "callers.c.jwt.keys_refresh is 1s; use 10s to 24h0m0s"},
		"too lenient":      {jwt(func(j *settings.JWT) { j.Leeway = time.Hour }), "callers.c.jwt.leeway is 1h0m0s; use 1s to 5m0s"},
		"negative leeway":  {jwt(func(j *settings.JWT) { j.Leeway = -1 }), "callers.c.jwt.leeway is -1ns; use 1s to 5m0s"},
		"all of it at max": {jwt(func(j *settings.JWT) { j.Leeway, j.KeysRefresh = 5*time.Minute, 24*time.Hour }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			s.Secrets.Files = map[string]string{"s": "/s"}
			s.Callers = map[string]settings.Caller{"c": c.caller}
			expect(t, s, c.problem)
		})
	}
	s := settings.Default()
	s.Secrets.Directory = "/secrets"
	s.Callers = map[string]settings.Caller{"spiffe://a": {Bearer: "comes-later"}}
	expect(t, s, `callers has "spiffe://a"; name a caller with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends`)
}

func TestSocketAddresses(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("p", 80)
	for address, valid := range map[string]bool{
		"unix:///run/tollgate.sock": true, "unix://" + long[:80]: true, "unix://" + long: false, "unix:///": false, "unix:///run/": false, "unix://run/tollgate.sock": false,
		"unix:/run/tollgate.sock": false, "unix:": false, "unix:44225": false,
	} {
		s := settings.Default()
		s.Listen = address
		problem := ""
		if !valid {
			problem = `listen is "` + address + `"; write unix:///PATH with a path of at most 80 bytes`
		}
		expect(t, s, problem)
		path, ok := settings.SocketPath(address)
		if valid {
			require.True(t, ok, address)
			assert.Equal(t, strings.TrimPrefix(address, "unix://"), path)
		}
	}
}
