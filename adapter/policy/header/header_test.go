package header_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/config"
)

// secrets are named secrets that a test changes.
type secrets map[string]*secret

func (s secrets) Secret(name string) (credential.Secret, bool) {
	found, ok := s[name]
	if !ok {
		return nil, false
	}
	return found, true
}

type secret struct {
	digests []config.Digest
	err     error
}

func (s *secret) Digests() ([]config.Digest, error) { return s.digests, s.err }

func digests(values ...string) []config.Digest {
	all := make([]config.Digest, len(values))
	for i, value := range values {
		all[i] = sha256.Sum256([]byte(value))
	}
	return all
}

func holds(values ...string) *secret { return &secret{digests: digests(values...)} }

var errAway = errors.New("the file is gone")

func away() *secret { return &secret{err: errAway} }

// token is the property that most tests check.
var token = config.Property{Name: "token"}

func compile(tb testing.TB, s secrets, check config.HeaderCheck) policy.Check {
	tb.Helper()
	checks, problems := header.Kind{Secrets: s}.Compile(&config.Handler{Headers: []config.HeaderCheck{check}})
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	return checks[0]
}

func text(s string) attribute.Value { return attribute.OfText(attribute.String, s) }

// presenting is a request whose subject has the token.
func presenting(values ...attribute.Value) *policy.Request {
	subject := &policy.Subject{}
	for _, v := range values {
		subject.Properties = append(subject.Properties, attribute.Entry{Name: "token", Value: v})
	}
	return &policy.Request{Subject: subject}
}

var (
	match    = policy.Pass(header.ReasonMatch)
	mismatch = policy.Deny(header.ReasonMismatch)
	missing  = policy.Deny(header.ReasonMissing)
)

func TestEvaluate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		request *policy.Request
		want    policy.Verdict
	}{
		{"match", presenting(text("abc")), match},
		{"the other value", presenting(text("def")), match},
		{"mismatch", presenting(text("abx")), mismatch},
		{"a prefix", presenting(text("ab")), mismatch},
		{"longer", presenting(text("abcd")), mismatch},
		{"another case", presenting(text("ABC")), mismatch},
		{"white space around it", presenting(text(" abc")), mismatch},
		{"a newline after it", presenting(text("abc\n")), mismatch},
		{"a NUL after it", presenting(text("abc\x00")), mismatch},
		{"both values", presenting(text("abc,def")), mismatch},
		{"its digest", presenting(text(fmt.Sprintf("%x", sha256.Sum256([]byte("abc"))))), mismatch},
		{"its digest's bytes", presenting(text(string(digests("abc")[0][:]))), mismatch},
		{"bytes that are not UTF-8", presenting(text("abc\xff")), mismatch},
		{"very long", presenting(text(strings.Repeat("abc", 1<<20))), mismatch},
		{"empty", presenting(text("")), missing},
		{"no property", presenting(), missing},
		{"another property", &policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Name: "Token", Value: text("abc")}}}}, missing},
		{"the action's property", &policy.Request{Subject: &policy.Subject{}, Action: &policy.Action{Properties: attribute.Map{{Name: "token", Value: text("abc")}}}}, missing},
		{"another field of the subject", &policy.Request{Subject: &policy.Subject{User: "abc", Groups: "abc"}}, missing},
		{"no subject", &policy.Request{Action: &policy.Action{}}, missing},
		{"nothing at all", &policy.Request{}, missing},
		{"of several the last counts, and matches", presenting(text("abx"), text("abc")), match},
		{"of several the last counts, and does not match", presenting(text("abc"), text("abx")), mismatch},
		{"of several the last counts, and is empty", presenting(text("abc"), text("")), missing},
		{"of several the last counts, and is no text", presenting(text("abc"), attribute.OfInt64(1)), mismatch},
		{"an email address", presenting(attribute.OfText(attribute.Email, "abc")), match},
		{"a DNS name", presenting(attribute.OfText(attribute.DNSName, "abc")), match},
		{"a URI", presenting(attribute.OfText(attribute.URI, "abc")), match},
		{"an empty URI", presenting(attribute.OfText(attribute.URI, "")), missing},
		{"an unknown value", presenting(attribute.Value{}), mismatch},
		{"a number", presenting(attribute.OfInt64(0)), mismatch},
		{"a double", presenting(attribute.OfDouble(0)), mismatch},
		{"a bool", presenting(attribute.OfBool(true)), mismatch},
		{"an address", presenting(attribute.OfIP("abcd")), mismatch},
		{"a time", presenting(attribute.OfTimestamp(1, 1)), mismatch},
		{"a duration", presenting(attribute.OfDuration(1, 1)), mismatch},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for form, check := range map[string]policy.Check{
				"digests": compile(t, nil, config.HeaderCheck{Property: token, Digests: digests("abc", "def")}),
				"secrets": compile(t, secrets{"a": holds("abc"), "d": holds("x", "def")}, config.HeaderCheck{Property: token, Secrets: []string{"a", "d"}}),
				"both":    compile(t, secrets{"a": holds("abc")}, config.HeaderCheck{Property: token, Digests: digests("def"), Secrets: []string{"a"}}),
			} {
				assert.Equal(t, test.want, check.Evaluate(t.Context(), test.request), form)
			}
		})
	}
}

// What is expected as a number is text in the configuration, and a number that was presented never equals it.
func TestNumbersAreNoCredentials(t *testing.T) {
	t.Parallel()
	check := compile(t, nil, config.HeaderCheck{Property: token, Digests: digests("1", "true", "97.98.99.100", "1.5", "unknown")})
	for _, v := range []attribute.Value{attribute.OfInt64(1), attribute.OfBool(true), attribute.OfIP("abcd"), attribute.OfDouble(1.5), {}} {
		assert.Equal(t, mismatch, check.Evaluate(t.Context(), presenting(v)), v.Kind().String())
	}
}

// Not even the digest of the empty value, in whichever way it got here, lets an empty credential pass.
func TestEmptyNeverPasses(t *testing.T) {
	t.Parallel()
	check := compile(t, secrets{"s": holds("")}, config.HeaderCheck{Property: token, Digests: digests(""), Secrets: []string{"s"}})
	for _, request := range []*policy.Request{{}, presenting(), presenting(text("")), presenting(text("x"), text(""))} {
		assert.Equal(t, missing, check.Evaluate(t.Context(), request))
	}
	assert.Equal(t, mismatch, check.Evaluate(t.Context(), presenting(attribute.Value{})), "an unknown value is not the empty one")
}

func TestNothingExpected(t *testing.T) {
	t.Parallel()
	for _, check := range []policy.Check{
		compile(t, nil, config.HeaderCheck{Property: token}),
		compile(t, secrets{"s": holds()}, config.HeaderCheck{Property: token, Secrets: []string{"s"}}),
	} {
		assert.Equal(t, mismatch, check.Evaluate(t.Context(), presenting(text("abc"))))
	}
}

func TestActionProperty(t *testing.T) {
	t.Parallel()
	check := compile(t, nil, config.HeaderCheck{Property: config.Property{Action: true, Name: "token"}, Digests: digests("abc")})
	action := &policy.Action{Properties: attribute.Map{{Name: "token", Value: text("abc")}}}
	assert.Equal(t, match, check.Evaluate(t.Context(), &policy.Request{Action: action}))
	assert.Equal(t, missing, check.Evaluate(t.Context(), presenting(text("abc"))), "the subject's does not count")
}

// A secret that is away matters only where nothing else matches.
func TestSecretAway(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		secrets   secrets
		digests   []config.Digest
		presented attribute.Value
		want      policy.Result
		down      bool
	}{
		{"a plain value matches", secrets{"a": away()}, digests("abc"), text("abc"), policy.Passed, false},
		{"a secret after it matches", secrets{"a": away(), "b": holds("abc")}, nil, text("abc"), policy.Passed, false},
		{"a secret before it matches", secrets{"a": holds("abc"), "b": away()}, nil, text("abc"), policy.Passed, false},
		{"nothing matches", secrets{"a": away(), "b": holds("abc")}, digests("def"), text("xyz"), policy.Failed, true},
		{"all are away", secrets{"a": away(), "b": away()}, nil, text("abc"), policy.Failed, true},
		{"nothing was presented", secrets{"a": away()}, nil, text(""), policy.Denied, false},
		{"no text was presented", secrets{"a": away()}, nil, attribute.OfInt64(1), policy.Denied, false},
		{"an away secret's last values do not count", secrets{"a": {digests: digests("abc"), err: errAway}}, nil, text("abc"), policy.Failed, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			check := config.HeaderCheck{Property: token, Digests: test.digests}
			for _, name := range []string{"a", "b"} {
				if test.secrets[name] != nil {
					check.Secrets = append(check.Secrets, name)
				}
			}
			v := compile(t, test.secrets, check).Evaluate(t.Context(), presenting(test.presented))
			assert.Equal(t, test.want, v.Result)
			assert.Zero(t, v.Lifetime)
			if !test.down {
				assert.Nil(t, v.Failure)
				return
			}
			require.NotNil(t, v.Failure)
			assert.Equal(t, config.DependencyDown, v.Failure.Class)
			assert.Contains(t, v.Failure.Detail, errAway.Error())
			presented, _ := test.presented.Text()
			assert.NotContains(t, v.Failure.Detail, presented)
		})
	}
}

// A secret's new values count from the next request on, and its old ones no more.
func TestSecretsAreFollowed(t *testing.T) {
	t.Parallel()
	s := holds("old")
	check := compile(t, secrets{"s": s}, config.HeaderCheck{Property: token, Secrets: []string{"s"}})
	assert.Equal(t, match, check.Evaluate(t.Context(), presenting(text("old"))))
	s.digests = digests("old", "new")
	assert.Equal(t, match, check.Evaluate(t.Context(), presenting(text("old"))))
	assert.Equal(t, match, check.Evaluate(t.Context(), presenting(text("new"))))
	s.digests = digests("new")
	assert.Equal(t, mismatch, check.Evaluate(t.Context(), presenting(text("old"))))
}

func TestUnknownSecrets(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 1<<20)
	checks, problems := header.Kind{Secrets: secrets{"known": holds("x")}}.Compile(&config.Handler{Headers: []config.HeaderCheck{
		{Name: "one", Property: token, Digests: digests("abc"), Secrets: []string{"unknown", "known", "stranger"}},
		{Name: "two", Property: token, Secrets: []string{"known"}},
		{Name: "three", Property: token, Secrets: []string{long}},
	}})
	require.Len(t, problems, 3)
	for i, want := range []string{`headers.one.secrets: names "unknown"`, `headers.one.secrets: names "stranger"`, `headers.three.secrets: names "nnn`} {
		assert.True(t, strings.HasPrefix(problems[i].String(), want), problems[i].String())
	}
	assert.Less(t, len(problems.Error()), 2000, "a name of a megabyte does not fill the log")

	// Checks beside problems never decide.
	compiler := policy.Compiler{Kinds: []policy.Kind{header.Kind{Secrets: secrets{}}}}
	p := compiler.Compile(&config.Handler{Headers: []config.HeaderCheck{{Property: token, Digests: digests("abc"), Secrets: []string{"unknown"}}}}, nil)
	assert.Equal(t, "failed_closed", p.Evaluate(t.Context(), presenting(text("abc"))).Outcome())
	assert.NotEmpty(t, checks)
}

func TestCompile(t *testing.T) {
	t.Parallel()
	checks, problems := header.Kind{}.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)

	checks, problems = header.Kind{}.Compile(&config.Handler{Headers: []config.HeaderCheck{
		{Name: "auth_key", Property: token, Digests: digests("abc")},
		{Name: "other", Property: token, Digests: digests("def")},
	}})
	require.Empty(t, problems)
	require.Len(t, checks, 2)
	assert.Equal(t, "header/auth_key", checks[0].Name())
	assert.Equal(t, "header/other", checks[1].Name())
	for _, check := range checks {
		assert.Equal(t, policy.Instant, check.Cost(), "nothing here may block")
	}
}

func BenchmarkEvaluate(b *testing.B) {
	request := presenting(text("the-token-that-is-presented"))
	for name, check := range map[string]policy.Check{
		"plain":  compile(b, nil, config.HeaderCheck{Property: token, Digests: digests("the-token-that-is-presented")}),
		"secret": compile(b, secrets{"s": holds("another", "the-token-that-is-presented")}, config.HeaderCheck{Property: token, Secrets: []string{"s"}}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if check.Evaluate(b.Context(), request).Result != policy.Passed {
					b.Fatal("did not pass")
				}
			}
		})
	}
}

// BenchmarkPolicy adds the combination.
func BenchmarkPolicy(b *testing.B) {
	request := presenting(text("the-token-that-is-presented"))
	compiler := policy.Compiler{Kinds: []policy.Kind{header.Kind{}}, Timeout: time.Minute, Gate: policy.NewGate(8, 0)}
	p := compiler.Compile(&config.Handler{
		Headers: []config.HeaderCheck{{Property: token, Digests: digests("the-token-that-is-presented")}},
		Allow:   config.Lifetime{Duration: time.Second, Uses: 100},
	}, nil)
	require.Empty(b, p.Problems())
	b.ReportAllocs()
	for b.Loop() {
		if !p.Evaluate(b.Context(), request).Allowed() {
			b.Fatal("did not pass")
		}
	}
}
