package settings_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	bundle := func(change func(b *settings.Bundle)) map[string]settings.PolicySource {
		b := &settings.Bundle{URL: "https://b.example.com/shop.tar.gz", Keys: map[string]settings.BundleKey{"k": {File: "/k"}}}
		change(b)
		return map[string]settings.PolicySource{"p": {Bundle: b}}
	}
	for name, c := range map[string]struct {
		policies map[string]settings.PolicySource
		problem  string
	}{
		"names":    {map[string]settings.PolicySource{"A b": {Directory: "/p"}}, `policies has "A b"; name a source with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends`},
		"no place": {map[string]settings.PolicySource{"p": {}}, "policies.p.directory is missing; name a directory with Rego modules, or a bundle"},
		"two": {
			map[string]settings.PolicySource{"p": {Directory: "/p", Bundle: &settings.Bundle{URL: "https://b/c", Unsigned: true}}},
			"policies.p.directory stands beside bundle; keep the one that the policies come from",
		},
		"language": {map[string]settings.PolicySource{"p": {Directory: "/p", RegoVersion: "V1"}}, `policies.p.rego_version is "V1"; use v1, or v0 for the syntax before OPA 1.0`},
		"bounds": {
			map[string]settings.PolicySource{"p": {Directory: "/p", MaxBytes: 1, MaxStale: 1}, "q": {Directory: "/q", MaxBytes: 1 << 31, MaxStale: 721 * time.Hour}},
			"policies.p.max_bytes is 1; use 1024 to 1073741824\npolicies.p.max_stale is 1ns; use 1m0s to 720h0m0s\n" +
				"policies.q.max_bytes is 2147483648; use 1024 to 1073741824\npolicies.q.max_stale is 721h0m0s; use 1m0s to 720h0m0s",
		},
		"nobody's bundle": {
			bundle(func(b *settings.Bundle) { b.Keys = nil }),
			"policies.p.bundle.keys is missing, and who can give you a bundle decides who may pass; name the keys that sign it, or set unsigned: true",
		},
		"signed or not": {bundle(func(b *settings.Bundle) { b.Unsigned = true }), "policies.p.bundle.unsigned is true and stands beside keys; remove it"},
		"scope":         {bundle(func(b *settings.Bundle) { b.Keys, b.Unsigned, b.Scope = nil, true, "read" }), `policies.p.bundle.scope is "read", but there are no keys whose signatures could have it; remove it`},
		"a key without a file": {
			bundle(func(b *settings.Bundle) { b.Keys["k"] = settings.BundleKey{} }), `policies.p.bundle.keys has "k" without a file; give every key an id and a file`,
		},
		"algorithm": {
			bundle(func(b *settings.Bundle) { b.Keys["k"] = settings.BundleKey{File: "/k", Algorithm: "none"} }),
			`policies.p.bundle.keys.k.algorithm is "none"; use one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, HS256, HS384, HS512`,
		},
		"fractions": {
			bundle(func(b *settings.Bundle) { b.MinRefresh, b.MaxRefresh = 1500*time.Millisecond, 2*time.Second }),
			"policies.p.bundle.min_refresh and max_refresh are 1.5s and 2s; use whole seconds",
		},
		"durations": {
			bundle(func(b *settings.Bundle) {
				b.MinRefresh, b.MaxRefresh, b.Timeout = 25*time.Hour, time.Second, time.Millisecond
			}),
			"policies.p.bundle.min_refresh is 25h0m0s; use 1s to 24h0m0s\npolicies.p.bundle.max_refresh is 1s; use 25h0m0s to 24h0m0s\npolicies.p.bundle.timeout is 1ms; use 100ms to 10m0s",
		},
		"no URL":    {bundle(func(b *settings.Bundle) { b.URL = "" }), "policies.p.bundle.url is missing; write the bundle's, such as https://bundles.example.com/shop.tar.gz"},
		"none":      {bundle(func(b *settings.Bundle) { b.URL = "planted" }), "policies.p.bundle.url is none; write one such as https://bundles.example.com/shop.tar.gz"},
		"no path":   {bundle(func(b *settings.Bundle) { b.URL = "https://planted/" }), "policies.p.bundle.url names a server and no bundle on it; write one such as https://bundles.example.com/shop.tar.gz"},
		"user":      {bundle(func(b *settings.Bundle) { b.URL = "https://planted:planted@b/c" }), "policies.p.bundle.url has a user or a password, which would be in logs; remove it"},
		"plaintext": {bundle(func(b *settings.Bundle) { b.URL = "http://planted/c" }), "policies.p.bundle.url must begin with https://, or others could see your policies; http:// is for this machine alone, such as http://127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			s.Policies = c.policies
			err := s.Validate()
			require.EqualError(t, err, c.problem)
			assert.NotContains(t, err.Error(), "planted")
		})
	}
	for _, p := range []settings.PolicySource{
		{Directory: "/p", RegoVersion: "v0", MaxStale: time.Hour},
		{Bundle: &settings.Bundle{URL: "http://127.0.0.1:1/b?x=y", Unsigned: true}},
		{Bundle: &settings.Bundle{URL: "https://b/c/d", CA: "/ca", MinRefresh: time.Minute, Scope: "read", Persist: "/p", Keys: map[string]settings.BundleKey{"k": {File: "/k", Algorithm: "ES256"}}}},
	} {
		s := settings.Default()
		s.Policies = map[string]settings.PolicySource{"p": p}
		assert.NoError(t, s.Validate())
	}
}

func TestRego(t *testing.T) {
	t.Parallel()
	for host, problem := range map[string]string{
		"authz": "", "authz.shop:8080": "", "10.0.0.1": "", "10.0.0.1:80": "",
		"":                  `rego.allow_hosts has ""; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"http://authz":      `rego.allow_hosts has "http://authz"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"*.example.com":     `rego.allow_hosts has "*.example.com"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"[::1]:80":          `rego.allow_hosts has "[::1]:80"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"::1":               `rego.allow_hosts has "::1"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"authz:0":           `rego.allow_hosts has "authz:0"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"authz:http":        `rego.allow_hosts has "authz:http"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
		"authz.shop/orders": `rego.allow_hosts has "authz.shop/orders"; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080`,
	} {
		s := settings.Default()
		s.Rego = settings.Rego{AllowHosts: []string{host}, CA: "/ca", Print: true}
		if err := s.Validate(); problem == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, problem)
		}
	}
	s := settings.Default()
	s.Rego.CA = "/ca"
	assert.EqualError(t, s.Validate(), "rego.ca is set, but rego.allow_hosts allows no host that it could verify; remove it")
}
