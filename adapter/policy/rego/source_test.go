package rego_test

import (
	"fmt"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

type sources map[string]*rego.Source

func (s sources) Source(name string) (*rego.Source, bool) {
	source, ok := s[name]
	return source, ok
}

func newSource(maxStale time.Duration) *rego.Source {
	return rego.NewSource("shop", rego.NewEnvironment(rego.Options{}), maxStale)
}

// content has one module in today's language.
func content(revision, module string) rego.Content {
	return rego.Content{
		Modules: map[string]rego.Module{"shop/shop.rego": {Text: module, Version: config.RegoV1}}, Revision: revision, Version: config.RegoV1,
	}
}

func activate(t *testing.T, source *rego.Source, c rego.Content) map[string]config.Problems {
	t.Helper()
	generation, err := source.Compile(c)
	require.NoError(t, err)
	assert.Equal(t, c.Revision, generation.Revision())
	return source.Activate(generation)
}

// from makes the check of a handler whose policy comes from a source.
func from(t *testing.T, source *rego.Source, decision string) (policy.Check, config.Problems) {
	t.Helper()
	return fromKind(t, rego.Kind{Sources: sources{"shop": source}}, decision)
}

func fromKind(t *testing.T, kind rego.Kind, decision string) (policy.Check, config.Problems) {
	t.Helper()
	h := handler(config.RegoV0, decision)
	h.Name = "checkout"
	h.Rego.Source = "shop"
	checks, problems := kind.Compile(h)
	if len(problems) > 0 {
		assert.Empty(t, checks)
		return nil, problems
	}
	require.Len(t, checks, 1)
	assert.Equal(t, policy.Compute, checks[0].Cost())
	return checks[0], nil
}

func TestSource(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	assert.Zero(t, source.Stats())
	check, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems, "a policy may come later than the handler")
	assert.Equal(t, "rego/shop.allow", check.Name())
	v := check.Evaluate(t.Context(), &policy.Request{})
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.PolicyNotLoaded, v.Failure.Class)
	assert.Empty(t, v.Revision)

	assert.Empty(t, activate(t, source, content("1", "package shop\nallow := true")))
	v = check.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, policy.Passed, v.Result, "%v", v.Failure)
	assert.Equal(t, "shop@1", v.Revision)
	assert.Empty(t, activate(t, source, content("2", "package shop\nallow := false")))
	v = check.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, policy.Denied, v.Result)
	assert.Equal(t, "shop@2", v.Revision)

	behind := activate(t, source, content("3", "package shop\npermit := true"))
	require.Contains(t, behind, "data.shop.allow")
	assert.Contains(t, behind["data.shop.allow"].Error(), "names no rule of the policy")
	v = check.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, policy.Denied, v.Result, "the last policy that has the rule goes on")
	assert.Equal(t, "shop@2", v.Revision)
	stats := source.Stats()
	assert.Equal(t, []int{1, 1}, []int{stats.Rules, stats.Behind})
	assert.Equal(t, "3", stats.Revision)
	other, problems := from(t, source, "data.shop.permit")
	require.Empty(t, problems)
	assert.Equal(t, "shop@3", other.Evaluate(t.Context(), &policy.Request{}).Revision)
	_, problems = from(t, source, "data.shop.nothing")
	assert.Contains(t, problems.Error(), "names no rule of the policy")
	same, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems, "a handler that comes now decides as the others do")
	assert.Equal(t, "shop@2", same.Evaluate(t.Context(), &policy.Request{}).Revision)

	assert.Contains(t, activate(t, source, content("4", "package shop\nallow if input.subjct")), "data.shop.allow")
	v = check.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, "shop@2", v.Revision)
	behind = activate(t, source, content("1", "package shop\nallow := true"))
	assert.Equal(t, []string{"data.shop.permit"}, slicesOf(behind))
	v = check.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, policy.Passed, v.Result)
	assert.Equal(t, "shop@1", v.Revision, "a rollback is an earlier revision again")

	runtime.KeepAlive(other) // else the source may forget its rule
	source.Reject(assert.AnError)
	stats = source.Stats()
	assert.Equal(t, assert.AnError, stats.Err)
	assert.EqualValues(t, 1, stats.Rejected)
	source.Confirm()
	require.NoError(t, source.Stats().Err)
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{}).Result)
}

func slicesOf(m map[string]config.Problems) (keys []string) {
	for key := range maps.Keys(m) {
		keys = append(keys, key)
	}
	return keys
}

// A handler that came before its policy, which has no rule for it.
func TestSourceWithoutTheRule(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	check, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems)
	assert.Contains(t, activate(t, source, content("1", "package shop\npermit := true")), "data.shop.allow")
	v := check.Evaluate(t.Context(), &policy.Request{})
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.ConfigurationFailure, v.Failure.Class)
	assert.Contains(t, v.Failure.Detail, "policy_source shop: check_method: \"data.shop.allow\" names no rule")
	_, problems = from(t, source, "data.shop.allow")
	assert.NotEmpty(t, problems)
	assert.Empty(t, activate(t, source, content("2", "package shop\nallow := true")))
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{}).Result)
}

func TestUnknownSource(t *testing.T) {
	t.Parallel()
	for _, kind := range []rego.Kind{{}, {Sources: sources{"other": newSource(0)}}} {
		h := handler(config.RegoV0, "data.shop.allow")
		h.Rego.Source = "shop"
		checks, problems := kind.Compile(h)
		assert.Empty(t, checks)
		assert.Equal(t, `policy_source: is "shop", and the adapter's settings define no such source; add it to policies there`, problems.Error())
	}
}

func TestContentThatDoesNotCompile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content rego.Content
		want    string
	}{
		"nothing":      {rego.Content{Data: map[string]any{"a": 1}}, "no Rego module"},
		"syntax":       {content("1", "package shop\nallow := "), "shop/shop.rego:2:"},
		"two errors":   {content("1", "package shop\nallow := x\nb := y"), "shop/shop.rego:3:6: rego_unsafe_var_error"},
		"older syntax": {content("1", "package shop\nallow { true }"), "shop/shop.rego:2:1: rego_parse_error"},
		"network":      {content("1", `package shop`+"\n"+`allow if http.send({"method": "get", "url": "http://127.0.0.1"})`), "shop/shop.rego:2:10: rego_type_error: undefined function http.send"},
		"constants":    {content("1", "package shop\nallow := \"hunter2\" + 1"), "shop/shop.rego:2:"},
		"data in the place of a package": {
			func() rego.Content {
				c := content("1", "package shop.rules\nallow := true")
				c.Data = map[string]any{"shop": map[string]any{"rules": map[string]any{"allow": true}}}
				return c
			}(), "conflicting rule for data path shop/rules/allow",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := newSource(0)
			generation, err := source.Compile(c.content)
			assert.Nil(t, generation)
			require.ErrorContains(t, err, c.want)
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestSourceWithData(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	c := content("1", `package shop
allow if input.subject.user in data.shop.staff
limit if data.limits.most == 3`)
	c.Data = map[string]any{"shop": map[string]any{"staff": []any{"alice"}}, "limits": map[string]any{"most": 3}}
	assert.Empty(t, activate(t, source, c))
	check, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems)
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "alice"}}).Result)
	assert.Equal(t, config.UndefinedResult, check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "bob"}}).Failure.Class)
	c.Data["shop"] = map[string]any{"staff": []any{"bob"}}
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "alice"}}).Result, "data is copied")
	c.Revision = "2"
	assert.Empty(t, activate(t, source, c))
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "bob"}}).Result)
}

// In the older language addresses look as they do to Mixer's adapter, and an error in a built-in ends the evaluation.
func TestSourceInTheOlderLanguage(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	c := rego.Content{Modules: map[string]rego.Module{"a.rego": {Text: "package shop\nallow { not 1 / 0 }", Version: config.RegoV0}}, Revision: "1", Version: config.RegoV0}
	activate(t, source, c)
	check, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems)
	assert.Equal(t, config.EvaluationError, check.Evaluate(t.Context(), &policy.Request{}).Failure.Class)
	c.Version = config.RegoV1
	activate(t, source, c)
	assert.Equal(t, policy.Passed, check.Evaluate(t.Context(), &policy.Request{}).Result)
}

func TestMaxStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := newSource(time.Hour)
		check, problems := from(t, source, "data.shop.allow")
		require.Empty(t, problems)
		class := func() string {
			v := check.Evaluate(t.Context(), &policy.Request{})
			if v.Failure != nil {
				return v.Failure.Class.String()
			}
			return v.Revision
		}
		source.Confirm()
		assert.Equal(t, "policy_not_loaded", class(), "nothing is confirmed before there is something")
		activate(t, source, content("1", "package shop\nallow := true"))
		time.Sleep(time.Hour)
		assert.Equal(t, "shop@1", class())
		source.Reject(assert.AnError)
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "dependency_down", class())
		source.Confirm()
		assert.Equal(t, "shop@1", class())
		time.Sleep(time.Minute)
		activate(t, source, content("2", "package shop\npermit := true"))
		time.Sleep(time.Minute)
		activate(t, source, content("3", "package shop\npermit := true"))
		time.Sleep(59 * time.Minute)
		assert.Equal(t, "shop@1", class())
		source.Confirm()
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "dependency_down", class(), "a rule that was left behind counts from then on, whatever is confirmed")
		activate(t, source, content("4", "package shop\nallow := true"))
		assert.Equal(t, "shop@4", class())
	})
}

// A source forgets the rules of handlers that are gone.
func TestForgottenRules(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	activate(t, source, content("1", "package shop\nallow := true"))
	for i := range 100 {
		_, problems := from(t, source, fmt.Sprintf("data.shop.allow%d", i))
		require.NotEmpty(t, problems)
	}
	assert.Zero(t, source.Stats().Rules)
	check, problems := from(t, source, "data.shop.allow")
	require.Empty(t, problems)
	assert.Equal(t, 1, source.Stats().Rules)
	runtime.KeepAlive(check)
	check = nil
	_ = check
	require.Eventually(t, func() bool { runtime.GC(); return source.Stats().Rules == 0 }, 2*time.Minute, time.Millisecond)
	assert.Empty(t, activate(t, source, content("2", "package shop\npermit := true")))
}

// What a candidate keeps alive is not there for a handler: a rule that a policy was taken from decides for none that comes later.
func TestRulesOfCandidates(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	activate(t, source, content("1", "package shop\nallow := true"))
	candidate, problems := fromKind(t, rego.Kind{Sources: sources{"shop": source}, Candidates: true}, "data.shop.allow")
	require.Empty(t, problems)
	assert.Contains(t, activate(t, source, content("2", "package shop\npermit := true")), "data.shop.allow")

	handlers, problems := from(t, source, "data.shop.allow")
	assert.Nil(t, handlers)
	assert.NotEmpty(t, problems, "as if there were no candidate")
	verdict := candidate.Evaluate(t.Context(), &policy.Request{})
	assert.Equal(t, policy.Passed, verdict.Result)
	assert.Equal(t, "shop@1", verdict.Revision)

	// Both follow.
	assert.Empty(t, activate(t, source, content("3", "package shop\nallow := true")))
	handlers, problems = from(t, source, "data.shop.allow")
	require.Empty(t, problems)
	activate(t, source, content("4", "package shop\nallow := false"))
	for _, check := range []policy.Check{candidate, handlers} {
		verdict := check.Evaluate(t.Context(), &policy.Request{})
		assert.Equal(t, policy.Denied, verdict.Result)
		assert.Equal(t, "shop@4", verdict.Revision)
	}
}

// No decision comes of two generations: each gives all its rules one answer, and the answers never go back.
func TestGenerationsUnderLoad(t *testing.T) {
	t.Parallel()
	source := newSource(0)
	generation := func(n int) rego.Content {
		c := content(strconv.Itoa(n), fmt.Sprintf(`package shop
allow := {"allow": false, "reason": sprintf("%%d %%d %%s", [code, data.code, helper(input.subject.user)])}
code := %d
helper(user) := sprintf("%%s-%%d", [user, data.other[_].code])`, n))
		c.Data = map[string]any{"code": n, "other": []any{map[string]any{"code": n}}}
		return c
	}
	activate(t, source, generation(0))
	const generations, callers = 40, 4
	var newest atomic.Int64
	var group sync.WaitGroup
	stop := make(chan struct{})
	for caller := range callers {
		check, problems := from(t, source, "data.shop.allow")
		require.Empty(t, problems)
		group.Go(func() {
			request := &policy.Request{Subject: &policy.Subject{User: fmt.Sprint("u", caller)}}
			last := int64(0)
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n > 0 {
						return
					}
				default:
				}
				v := check.Evaluate(t.Context(), request)
				now := int64(-1)
				_, _ = fmt.Sscan(strings.TrimPrefix(v.Revision, "shop@"), &now)
				ok := assert.Equal(t, policy.Denied, v.Result, "%v", v.Failure) &&
					assert.Equal(t, fmt.Sprintf("%d %d u%d-%d", now, now, caller, now), v.Reason) &&
					assert.GreaterOrEqual(t, now, last) && assert.LessOrEqual(t, now, newest.Load())
				if !ok {
					return
				}
				last = now
			}
		})
	}
	for n := 1; n <= generations; n++ {
		newest.Store(int64(n))
		activate(t, source, generation(n))
	}
	close(stop)
	group.Wait()
}
