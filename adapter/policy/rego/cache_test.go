package rego

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func user(name string) *policy.Request {
	return &policy.Request{Subject: &policy.Subject{User: name}}
}

func TestRemembersByWhatIsRead(t *testing.T) {
	t.Parallel()
	cache := NewCache(1<<20, 1<<20)
	c := newCheck("", load(t, ast.RegoV1, "package p\ndefault allow := false\nallow if input.subject.user == \"a\""), config.Denial{}, cache)
	ask := func(r *policy.Request) (policy.Result, bool) {
		v, ok := c.Recall(r)
		return v.Result, ok
	}
	_, ok := ask(user("a"))
	assert.False(t, ok, "nothing was asked yet")
	require.Equal(t, policy.Passed, c.Evaluate(t.Context(), user("a")).Result)
	require.Equal(t, policy.Denied, c.Evaluate(t.Context(), user("b")).Result)
	require.Equal(t, policy.Denied, c.Evaluate(t.Context(), &policy.Request{}).Result)
	for _, test := range []struct {
		request *policy.Request
		want    policy.Result
		ok      bool
	}{
		{user("a"), policy.Passed, true},
		{&policy.Request{Instance: "i", Subject: &policy.Subject{User: "a", Groups: "g"}, Action: &policy.Action{Path: "/"}, Identity: "k"}, policy.Passed, true},
		{user("b"), policy.Denied, true},
		{user(""), policy.Denied, true},
		{&policy.Request{Action: &policy.Action{Path: "/"}}, policy.Denied, true},
		{user("c"), policy.Failed, false},
		// What cannot be read is a failure whether the policy looks at it or not.
		{&policy.Request{Subject: &policy.Subject{User: "a", Properties: attribute.Map{{Name: "x"}}}}, policy.Failed, false},
	} {
		result, ok := ask(test.request)
		assert.Equal(t, test.ok, ok)
		assert.Equal(t, test.want, result)
	}
	stats := cache.Stats()
	assert.Equal(t, 3, stats.Entries)
	assert.Equal(t, CacheStats{Hits: 5, Misses: 2, Entries: 3, Bytes: stats.Bytes}, stats)
	assert.Positive(t, stats.Bytes)
	runtime.KeepAlive(c) // else the cache may have forgotten it by then
}

func TestFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	for _, module := range []string{"allow = true { input.value == 1 }", "allow = 7", "allow = true { to_number(input.key) }", "allow = {\"allow\": 1}"} {
		c := newCheck("", load(t, ast.RegoV0, "package p\n"+module), config.Denial{}, NewCache(1<<20, 1<<20))
		require.NotNil(t, c.memory)
		request := &policy.Request{Identity: "x"}
		require.Equal(t, policy.Failed, c.Evaluate(t.Context(), request).Result, module)
		_, ok := c.Recall(request)
		assert.False(t, ok, module)
	}
}

func TestWithoutACacheNothingIsRemembered(t *testing.T) {
	t.Parallel()
	assert.Nil(t, NewCache(0, 1))
	assert.Nil(t, NewCache(1, 0))
	assert.Zero(t, NewCache(0, 0).Stats())
	c := newCheck("", load(t, ast.RegoV1, "package p\nallow := true"), config.Denial{}, nil)
	c.Evaluate(t.Context(), user("a"))
	_, ok := c.Recall(user("a"))
	assert.False(t, ok)
}

// Neither the keys nor the answers keep the call alive or change with its memory.
func TestNothingAliasesTheCall(t *testing.T) {
	t.Parallel()
	p := load(t, ast.RegoV1, `package p
allow := {"allow": false, "reason": input.subject.user, "message": input.action.path, "headers": {input.action.method: input.action.path}, "body": input.action.service}`)
	c := newCheck("", p, config.Denial{Code: config.PermissionDenied}, NewCache(1<<20, 1<<20))
	call := strings.Clone("alice/path/header-name/body")
	request := &policy.Request{Subject: &policy.Subject{User: call[:5]}, Action: &policy.Action{Path: call[5:10], Method: call[11:22], Service: call[23:]}}
	require.Equal(t, policy.Denied, c.Evaluate(t.Context(), request).Result)
	v, ok := c.Recall(request)
	require.True(t, ok)
	assert.Equal(t, "alice", v.Reason)
	assert.Equal(t, "/path", v.Denial.Message)
	begin := uintptr(unsafe.Pointer(unsafe.StringData(call)))
	texts := []string{v.Reason, v.Denial.Message, v.Denial.HTTP.Body}
	for name, value := range v.Denial.HTTP.Headers {
		texts = append(texts, name, value)
	}
	for _, text := range texts {
		at := uintptr(unsafe.Pointer(unsafe.StringData(text)))
		assert.False(t, begin <= at && at < begin+uintptr(len(call)), "%q is a part of the call", text)
	}
	assert.Len(t, texts, 5)
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	const all, each = 40_000, 15_000
	cache := NewCache(all, each)
	var handlers []*answers
	for range 4 {
		handlers = append(handlers, cache.newAnswers())
	}
	for i := range 1000 {
		for _, a := range handlers {
			key := fmt.Sprintf("key %d", i)
			a.add(key, policy.Pass("because"))
			_, ok := a.get(key)
			assert.True(t, ok, "the newest is there")
			assert.LessOrEqual(t, a.bytes, each)
			assert.LessOrEqual(t, cache.Stats().Bytes, all)
		}
	}
	total := 0
	for _, a := range handlers {
		total += a.bytes
	}
	stats := cache.Stats()
	assert.Equal(t, total, stats.Bytes)
	assert.Equal(t, uint64(4000-stats.Entries), stats.Evictions)

	one := cache.newAnswers()
	one.add(strings.Repeat("x", each), policy.Pass(""))
	assert.Zero(t, one.lru.Len(), "what is larger than the bound is not kept")
	for i := range 1000 {
		one.add(strconv.Itoa(i), policy.Pass(""))
	}
	assert.Greater(t, one.bytes, each-1000, "those who ask get the room of those who do not")
	assert.LessOrEqual(t, cache.Stats().Bytes, all)
	for _, a := range append(handlers, one) {
		a.forget()
	}
	assert.Zero(t, cache.Stats().Bytes)
	assert.Zero(t, cache.Stats().Entries)
}

func TestCacheTakesManyAtOnce(t *testing.T) {
	t.Parallel()
	cache := NewCache(20_000, 10_000)
	var group sync.WaitGroup
	for i := range 4 {
		a := cache.newAnswers()
		for range 2 {
			group.Go(func() {
				for n := range 500 {
					key := strconv.Itoa(n % 37)
					a.add(key, policy.Pass(key))
					if v, ok := a.get(key); ok {
						assert.Equal(t, key, v.Reason)
					}
					cache.Stats()
				}
				if i == 0 {
					a.forget()
				}
			})
		}
	}
	group.Wait()
	assert.LessOrEqual(t, cache.Stats().Bytes, 20_000)
}

// When a program is gone its memory is given back, by and by.
func TestAProgramThatIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	cache := NewCache(1<<20, 1<<20)
	func() {
		c := newCheck("", load(t, ast.RegoV1, "package p\nallow := true"), config.Denial{}, cache)
		c.Evaluate(t.Context(), user("a"))
		require.Equal(t, 1, cache.Stats().Entries)
		runtime.KeepAlive(c)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return cache.Stats().Bytes == 0
	}, 2*time.Minute, time.Millisecond)
}

// Each of these pairs would be one to a careless key.
func TestKeysTellApart(t *testing.T) {
	t.Parallel()
	text := func(s string) attribute.Value { return attribute.OfText(attribute.String, s) }
	two := func(a, b string) *policy.Request {
		return &policy.Request{Subject: &policy.Subject{User: a, Groups: b}}
	}
	with := func(entries ...attribute.Entry) *policy.Request {
		return &policy.Request{Subject: &policy.Subject{Properties: entries}}
	}
	claims := func(v any) *policy.Request { return &policy.Request{Claims: map[string]any{"c": v}} }
	requests := []*policy.Request{
		{},
		two("ab", "c"), two("a", "bc"), two("abc", ""), two("", "abc"),
		with(attribute.Entry{Name: "x", Value: text("")}), with(attribute.Entry{Name: "x", Value: text("1")}), with(attribute.Entry{Name: "x", Value: attribute.OfInt64(1)}),
		with(attribute.Entry{Name: "x", Value: attribute.OfBool(true)}), with(attribute.Entry{Name: "x", Value: attribute.OfText(attribute.URI, "1")}),
		with(attribute.Entry{Name: "", Value: text("x")}), with(attribute.Entry{Name: "x", Value: text("a")}, attribute.Entry{Name: "y", Value: text("b")}),
		with(attribute.Entry{Name: "x", Value: attribute.OfTimestamp(1, 0)}), with(attribute.Entry{Name: "x", Value: attribute.OfTimestamp(1, 1)}),
		{Claims: map[string]any{}},
		claims(nil), claims(""), claims("1"), claims(true), claims(false), claims([]any{}), claims([]any{nil}), claims(map[string]any{}),
		claims([]any{"a", "b"}), claims([]any{"ab"}), claims(map[string]any{"a": "b"}),
		{Action: &policy.Action{Properties: attribute.Map{{Name: "x", Value: text("1")}}}},
		{Value: &[]attribute.Value{text("")}[0]},
		{API: &policy.API{}},
		{API: &policy.API{Name: "a"}},
		{API: &policy.API{Version: "a"}},
		{Identity: "a"},
	}
	everything := newProjection(inputForm{}, []Path{{}})
	seen := map[string]int{}
	for i, r := range requests {
		key, ok := everything.appendKey(nil, r)
		require.True(t, ok)
		if other, there := seen[string(key)]; there {
			t.Errorf("requests %d and %d have one key", other, i)
		}
		seen[string(key)] = i
	}
	same := [][2]*policy.Request{
		{{}, {Subject: &policy.Subject{}, Action: &policy.Action{}}},
		{with(attribute.Entry{Name: "x", Value: text("1")}, attribute.Entry{Name: "y", Value: text("2")}), with(attribute.Entry{Name: "y", Value: text("2")}, attribute.Entry{Name: "x", Value: text("1")})},
		{with(attribute.Entry{Name: "x", Value: text("1")}, attribute.Entry{Name: "x", Value: text("2")}), with(attribute.Entry{Name: "x", Value: text("2")})},
		{{Instance: "a"}, {Instance: "b"}},
	}
	for _, pair := range same {
		a, _ := everything.appendKey(nil, pair[0])
		b, _ := everything.appendKey(nil, pair[1])
		assert.Equal(t, a, b)
	}
	_, ok := everything.appendKey(nil, with(attribute.Entry{Name: "\xff", Value: text("1")}))
	assert.False(t, ok, "which of two such names is there cannot be told")
}

// sourced makes the check of a handler by a source of one rule, and a function that brings a new generation.
func sourced(t *testing.T, cache *Cache) (*sourcedCheck, func() weak.Pointer[ast.Compiler]) {
	t.Helper()
	source := NewSource("shop", NewEnvironment(Options{}), 0)
	n := 0
	next := func() weak.Pointer[ast.Compiler] {
		n++
		generation, err := source.Compile(Content{
			Modules: map[string]Module{"p.rego": {Text: fmt.Sprintf("package p\nallow := {\"allow\": false, \"reason\": \"%d\"}", n), Version: config.RegoV1}},
			Version: config.RegoV1, Revision: strconv.Itoa(n),
		})
		require.NoError(t, err)
		require.Empty(t, source.Activate(generation))
		return weak.Make(generation.library.compiler)
	}
	r, problems := source.rule(ast.MustParseRef("data.p.allow"), false)
	require.Empty(t, problems)
	return &sourcedCheck{rule: r, cache: cache}, next
}

// A clock that is set back must not make policies count for longer than max_stale, nor one that is set forward end them at once.
func TestMaxStaleGoesByNoClockThatIsSet(t *testing.T) {
	t.Parallel()
	c, next := sourced(t, nil)
	next()
	for range 2 {
		confirmed := *c.rule.source.confirmed.Load()
		assert.NotEqual(t, confirmed.Round(0), confirmed, "it has a reading of the monotonic clock")
		c.rule.source.Confirm()
	}
}

// A handler that nobody asks any more holds no generation that was replaced, nor its data.
func TestAnIdleHandlerHoldsNoOldGeneration(t *testing.T) {
	t.Parallel()
	for _, cache := range []*Cache{nil, NewCache(1<<20, 1<<20)} {
		idle, next := sourced(t, cache)
		first := next()
		require.Equal(t, "1", idle.Evaluate(t.Context(), user("a")).Reason)
		next()
		require.Eventually(t, func() bool { runtime.GC(); return first.Value() == nil }, 2*time.Minute, time.Millisecond)
		require.Equal(t, "2", idle.Evaluate(t.Context(), user("a")).Reason)
	}
}

// A call that began under the generation before neither sees what is remembered of the one now, nor makes it forgotten.
func TestALateCallLeavesTheMemoryAlone(t *testing.T) {
	t.Parallel()
	c, next := sourced(t, NewCache(1<<20, 1<<20))
	next()
	before := c.rule.state.Load().program
	next()
	require.Equal(t, "2", c.Evaluate(t.Context(), user("a")).Reason)
	late := c.by(before)
	_, ok := late.Recall(user("a"))
	require.False(t, ok)
	require.Equal(t, "1", late.Evaluate(t.Context(), user("a")).Reason)
	v, ok := c.Recall(user("a"))
	require.True(t, ok)
	require.Equal(t, "2", v.Reason)
	require.Equal(t, "shop@2", v.Revision)
}

// A source without policies keeps no names of rules that handlers asked for: whoever may send handlers could make it grow for ever.
func TestASourceForgetsNames(t *testing.T) {
	t.Parallel()
	source := NewSource("shop", NewEnvironment(Options{}), 0)
	for i := range 100 {
		_, problems := source.rule(ast.MustParseRef(fmt.Sprintf("data.p.allow%d", i)), false)
		require.Empty(t, problems)
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		source.mu.Lock()
		defer source.mu.Unlock()
		return len(source.rules) == 0
	}, 2*time.Minute, time.Millisecond)
}
