package list_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/config"
)

// sources are named lists that a test holds.
type sources map[string]*source

func (s sources) Source(name string) (list.Source, bool) {
	found, ok := s[name]
	return found, ok
}

type source struct {
	entryType config.EntryType
	list      *list.List
	err       error
}

func (s *source) Type() config.EntryType       { return s.entryType }
func (s *source) Current() (*list.List, error) { return s.list, s.err }

func compile(tb testing.TB, s sources, check config.ListCheck) policy.Check {
	tb.Helper()
	checks, problems := list.Kind{Sources: s}.Compile(&config.Handler{Lists: []config.ListCheck{check}})
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	return checks[0]
}

func about(v attribute.Value) *policy.Request { return &policy.Request{Value: &v} }

func TestVerdicts(t *testing.T) {
	t.Parallel()
	absent := &policy.Request{}
	for name, c := range map[string]struct {
		request        *policy.Request
		allows, denies policy.Verdict
	}{
		"listed":           {about(text("a")), policy.Pass("listed"), policy.Deny("listed")},
		"not listed":       {about(text("b")), policy.Deny("not_listed"), policy.Pass("not_listed")},
		"absent":           {absent, policy.Deny("list_value_missing"), policy.Deny("list_value_missing")},
		"empty":            {about(text("")), policy.Deny("list_value_missing"), policy.Deny("list_value_missing")},
		"of another kind":  {about(attribute.OfInt64(1)), policy.Deny("list_value_unreadable"), policy.Deny("list_value_unreadable")},
		"of unknown kind":  {about(attribute.Value{}), policy.Deny("list_value_unreadable"), policy.Deny("list_value_unreadable")},
		"only a property":  {&policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Value: text("a")}}}}, policy.Deny("list_value_missing"), policy.Deny("list_value_missing")},
		"only an API call": {&policy.Request{API: &policy.API{Name: "a", Key: "a"}}, policy.Deny("list_value_missing"), policy.Deny("list_value_missing")},
	} {
		allows := compile(t, nil, config.ListCheck{Name: "l", Entries: []string{"a"}})
		denies := compile(t, nil, config.ListCheck{Name: "l", Entries: []string{"a"}, DeniesListed: true})
		assert.Equal(t, c.allows, allows.Evaluate(t.Context(), c.request), name)
		assert.Equal(t, c.denies, denies.Evaluate(t.Context(), c.request), name)
		assert.Equal(t, "list/l", allows.Name())
		assert.Equal(t, policy.Instant, allows.Cost())
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	properties := attribute.Map{{Name: "p", Value: text("a")}}
	subject, action := &policy.Request{Subject: &policy.Subject{Properties: properties}}, &policy.Request{Action: &policy.Action{Properties: properties}}
	value := text("a")
	for _, request := range []*policy.Request{subject, action} {
		request.Value = &value // is not asked about
		for _, named := range []config.Property{{Name: "p"}, {Name: "p", Action: true}, {Name: "q"}} {
			v := compile(t, nil, config.ListCheck{Property: named, Entries: []string{"a"}}).Evaluate(t.Context(), request)
			right := named.Name == "p" && named.Action == (request == action)
			assert.Equal(t, right, v.Result == policy.Passed, "%v", named)
		}
	}
}

// The lifetime bounds the time of whatever the check says, and no other thing.
func TestLifetime(t *testing.T) {
	t.Parallel()
	check := compile(t, nil, config.ListCheck{Entries: []string{"a"}, Lifetime: time.Second})
	for _, value := range []string{"a", "b"} {
		assert.Equal(t, config.Lifetime{Duration: time.Second, Uses: math.MaxInt32}, check.Evaluate(t.Context(), about(text(value))).Lifetime)
	}
	for allow, want := range map[config.Lifetime]config.Lifetime{
		{Duration: 5 * time.Second, Uses: 100}:      {Duration: time.Second, Uses: 100},
		{Duration: 10 * time.Millisecond, Uses: 10}: {Duration: 10 * time.Millisecond, Uses: 10},
		config.SingleUse: config.SingleUse,
	} {
		handler := &config.Handler{Lists: []config.ListCheck{{Entries: []string{"a"}, Lifetime: time.Second}}, Allow: allow}
		p := (&policy.Compiler{Kinds: []policy.Kind{list.Kind{}}}).Compile(handler, nil)
		assert.Equal(t, want, p.Evaluate(t.Context(), about(text("a"))).Lifetime)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	s := sources{"offices": {entryType: config.IPAddresses, err: list.ErrNotLoaded}}
	check := compile(t, s, config.ListCheck{Name: "l", Source: "offices", DeniesListed: true})
	failure := func(request *policy.Request) string {
		v := check.Evaluate(t.Context(), request)
		if v.Failure == nil {
			return ""
		}
		return v.Failure.Error()
	}
	assert.Equal(t, "policy_not_loaded: list/l: the list is not loaded yet", failure(about(address("10.0.0.1"))))
	assert.Empty(t, failure(&policy.Request{}), "nothing is not on any list")
	s["offices"].err = errors.New("it is away")
	assert.Equal(t, "dependency_down: list/l: it is away", failure(about(address("10.0.0.1"))))
	s["offices"].err, s["offices"].list = nil, parse(t, config.IPAddresses, "10.0.0.0/8")
	assert.Equal(t, policy.Deny("listed"), check.Evaluate(t.Context(), about(address("10.0.0.1"))))
	assert.Equal(t, policy.Pass("not_listed"), check.Evaluate(t.Context(), about(address("11.0.0.1"))))
	s["offices"].list = parse(t, config.IPAddresses, "11.0.0.0/8")
	assert.Equal(t, policy.Pass("not_listed"), check.Evaluate(t.Context(), about(address("10.0.0.1"))))

	_, problems := list.Kind{Sources: s}.Compile(&config.Handler{Lists: []config.ListCheck{{Entries: []string{"a"}}, {Source: "office"}}})
	assert.Equal(t, config.Problems{{Field: "lists[1].source", Text: `names "office", which the adapter's settings do not define; add it under lists or correct the name`}}, problems)
	checks, problems := list.Kind{}.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)
}

// Patterns get a deadline; an answer that it cut short is no answer.
func TestPatternsTakeTime(t *testing.T) {
	t.Parallel()
	inline := compile(t, nil, config.ListCheck{Name: "l", Type: config.Regex, Entries: []string{"a"}, DeniesListed: true})
	named := compile(t, sources{"s": {entryType: config.Regex, list: parse(t, config.Regex, "a")}}, config.ListCheck{Name: "l", Source: "s", DeniesListed: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, check := range []policy.Check{inline, named} {
		assert.Equal(t, policy.Compute, check.Cost())
		v := check.Evaluate(ctx, about(text("b")))
		require.NotNil(t, v.Failure)
		assert.Equal(t, "timeout: list/l was still comparing at its deadline", v.Failure.Error())
	}
}

// What config did not look at is a problem, and never an entry left out.
func TestEntriesThatAreNone(t *testing.T) {
	t.Parallel()
	checks, problems := list.Kind{}.Compile(&config.Handler{Lists: []config.ListCheck{{Type: config.IPAddresses, Entries: []string{"10.0.0.0/8", "x"}}}})
	require.Len(t, problems, 1)
	assert.Equal(t, "lists[0].entries[1]", problems[0].Field)
	assert.Len(t, checks, 1)
}

func BenchmarkEvaluate(b *testing.B) {
	check := compile(b, nil, config.ListCheck{Type: config.IPAddresses, Entries: []string{"10.0.0.0/8"}, Property: config.Property{Name: "ip"}})
	request := &policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Name: "ip", Value: address("10.1.2.3")}}}}
	b.ReportAllocs()
	for b.Loop() {
		check.Evaluate(b.Context(), request)
	}
}
