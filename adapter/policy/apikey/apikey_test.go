package apikey_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/apikey"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/config"
)

// secrets are named secrets that a test holds.
type secrets map[string]*secret

func (s secrets) Secret(name string) (credential.Secret, bool) {
	found, ok := s[name]
	return found, ok
}

type secret struct {
	digests []config.Digest
	err     error
}

func (s *secret) Digests() ([]config.Digest, error) { return s.digests, s.err }

func digest(key string) config.Digest { return sha256.Sum256([]byte(key)) }

func holds(keys ...string) *secret {
	s := &secret{}
	for _, key := range keys {
		s.digests = append(s.digests, digest(key))
	}
	return s
}

var errAway = errors.New("the file is away")

func compile(tb testing.TB, s secrets, check config.APIKeyCheck) policy.Check {
	tb.Helper()
	checks, problems := apikey.Kind{Secrets: s}.Compile(&config.Handler{APIKeys: []config.APIKeyCheck{check}})
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	return checks[0]
}

func presenting(key string) *policy.Request { return &policy.Request{API: &policy.API{Key: key}} }

func known(identity string) policy.Verdict {
	return policy.Verdict{Result: policy.Passed, Reason: "api_key_known", Identity: identity}
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	check := compile(t, secrets{"team-c": holds("c1", "c2"), "team-d": holds("d")}, config.APIKeyCheck{
		Name:    "k",
		Keys:    []config.APIKey{{Identity: "a", Digest: digest("key-a")}, {Identity: "b", Digest: digest("key-b")}, {Identity: "b", Digest: digest("key-b2")}},
		Secrets: []string{"team-c", "team-d"},
	})
	assert.Equal(t, "apikey/k", check.Name())
	assert.Equal(t, policy.Instant, check.Cost())
	property := attribute.Map{{Name: "", Value: attribute.OfText(attribute.String, "key-a")}}
	for name, c := range map[string]struct {
		request *policy.Request
		want    policy.Verdict
	}{
		"first":               {presenting("key-a"), known("a")},
		"second":              {presenting("key-b"), known("b")},
		"another of the same": {presenting("key-b2"), known("b")},
		"a secret's":          {presenting("c1"), known("team-c")},
		"its second":          {presenting("c2"), known("team-c")},
		"another secret's":    {presenting("d"), known("team-d")},
		"unknown":             {presenting("key-c"), policy.Deny("api_key_unknown")},
		"other case":          {presenting("KEY-A"), policy.Deny("api_key_unknown")},
		"a part":              {presenting("key-"), policy.Deny("api_key_unknown")},
		"more":                {presenting("key-a "), policy.Deny("api_key_unknown")},
		"white space":         {presenting(" "), policy.Deny("api_key_unknown")},
		"a digest":            {presenting(fmt.Sprintf("%x", digest("key-a"))), policy.Deny("api_key_unknown")},
		"empty":               {presenting(""), policy.Deny("api_key_missing")},
		"no API call":         {&policy.Request{}, policy.Deny("api_key_missing")},
		"only a property":     {&policy.Request{Subject: &policy.Subject{Properties: property}}, policy.Deny("api_key_missing")},
		"only a value":        {&policy.Request{Value: &property[0].Value}, policy.Deny("api_key_missing")},
	} {
		assert.Equal(t, c.want, check.Evaluate(t.Context(), c.request), name)
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for _, action := range []bool{false, true} {
		check := compile(t, nil, config.APIKeyCheck{
			Property: config.Property{Action: action, Name: "token"}, Keys: []config.APIKey{{Identity: "a", Digest: digest("key-a")}},
		})
		for name, c := range map[string]struct {
			value attribute.Value
			want  policy.Verdict
		}{
			"right":  {attribute.OfText(attribute.String, "key-a"), known("a")},
			"wrong":  {attribute.OfText(attribute.String, "key-b"), policy.Deny("api_key_unknown")},
			"empty":  {attribute.OfText(attribute.String, ""), policy.Deny("api_key_missing")},
			"number": {attribute.OfInt64(1), policy.Deny("api_key_missing")},
			"none":   {attribute.Value{}, policy.Deny("api_key_missing")},
		} {
			properties := attribute.Map{{Name: "token", Value: c.value}}
			right, wrong := &policy.Request{Subject: &policy.Subject{Properties: properties}}, &policy.Request{Action: &policy.Action{Properties: properties}}
			if action {
				right, wrong = wrong, right
			}
			assert.Equal(t, c.want, check.Evaluate(t.Context(), right), name)
			wrong.API = &policy.API{Key: "key-a"}
			assert.Equal(t, policy.Deny("api_key_missing"), check.Evaluate(t.Context(), wrong), name)
		}
	}
}

// A key that is known by its digest, or from a secret that is there, needs no other secret.
func TestSecretAway(t *testing.T) {
	t.Parallel()
	s := secrets{"away": {err: errAway}, "here": holds("key-h")}
	check := compile(t, s, config.APIKeyCheck{Keys: []config.APIKey{{Identity: "a", Digest: digest("key-a")}}, Secrets: []string{"away", "here"}})
	assert.Equal(t, known("a"), check.Evaluate(t.Context(), presenting("key-a")))
	assert.Equal(t, known("here"), check.Evaluate(t.Context(), presenting("key-h")))
	assert.Equal(t, policy.Deny("api_key_missing"), check.Evaluate(t.Context(), presenting("")), "nobody's key is not away")
	v := check.Evaluate(t.Context(), presenting("key-x"))
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.DependencyDown, v.Failure.Class)
	assert.Equal(t, `secret "away": the file is away`, v.Failure.Detail)

	// Revoked is revoked at the next check.
	s["here"].digests = holds("key-new").digests
	s["away"].err, s["away"].digests = nil, holds("key-w").digests
	assert.Equal(t, policy.Deny("api_key_unknown"), check.Evaluate(t.Context(), presenting("key-h")))
	assert.Equal(t, known("here"), check.Evaluate(t.Context(), presenting("key-new")))
	assert.Equal(t, known("away"), check.Evaluate(t.Context(), presenting("key-w")))
}

func TestNoKeyKnowsNobody(t *testing.T) {
	t.Parallel()
	check := compile(t, nil, config.APIKeyCheck{})
	for _, key := range []string{"", "a"} {
		assert.Equal(t, policy.Denied, check.Evaluate(t.Context(), presenting(key)).Result)
	}
}

func TestUnknownSecrets(t *testing.T) {
	t.Parallel()
	_, problems := apikey.Kind{Secrets: secrets{"b": holds("x")}}.Compile(&config.Handler{APIKeys: []config.APIKeyCheck{{}, {Secrets: []string{"a", "b", "c"}}}})
	assert.Equal(t, config.Problems{
		{Field: "api_keys[1].secrets", Text: `names "a", which the adapter's settings do not define; add it under secrets or correct the name`},
		{Field: "api_keys[1].secrets", Text: `names "c", which the adapter's settings do not define; add it under secrets or correct the name`},
	}, problems)
	checks, problems := apikey.Kind{}.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)
}

func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		check := config.APIKeyCheck{}
		for i := range n {
			check.Keys = append(check.Keys, config.APIKey{Identity: "i", Digest: digest(strconv.Itoa(i))})
		}
		compiled := compile(b, nil, check)
		for name, request := range map[string]*policy.Request{"known": presenting("0"), "unknown": presenting("x")} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					compiled.Evaluate(b.Context(), request)
				}
			})
		}
	}
}
