package jwt_test

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// A policy sees the claims of the first token, and of it alone, and only where it was verified.
func TestPoliciesSeeClaims(t *testing.T) {
	t.Parallel()
	second := shop()
	second.Name, second.Property = "second", config.Property{Name: "other"}
	both := func(first, other string) *policy.Request {
		r := presenting(first)
		r.Subject.Properties = append(r.Subject.Properties, presenting(other).Subject.Properties...)
		r.Subject.Properties[1].Name = "other"
		return r
	}
	// The answer names what decided: a denial under all, and under any whoever lets the request pass.
	const shows = `package p
default decision = {"allow": ALLOW, "reason": "no token"}
decision = {"allow": ALLOW, "reason": json.marshal({"sub": input.token.sub, "roles": input.token.realm_access.roles, "level": input.token.level + 1})}`
	const seen = `{"level":4,"roles":["customer","editor"],"sub":"alice"}`
	bob := spec{claims: map[string]any{"sub": "bob"}}.token(t)
	down := &keySet{err: errors.New("away")}
	for name, c := range map[string]struct {
		require config.Require
		checks  []config.JWTCheck
		keys    *keySet
		request *policy.Request
		modes   config.Modes
		outcome string
		reason  string
	}{
		"verified":                     {checks: []config.JWTCheck{shop()}, request: presenting(good(t)), outcome: "deny", reason: seen},
		"none configured":              {request: presenting(good(t)), outcome: "deny", reason: "no token"},
		"denied":                       {checks: []config.JWTCheck{shop()}, request: presenting(""), outcome: "deny", reason: jwt.ReasonAbsent},
		"the first of two":             {checks: []config.JWTCheck{shop(), second}, request: both(good(t), bob), outcome: "deny", reason: seen},
		"any, the token is enough":     {require: config.Any, checks: []config.JWTCheck{shop()}, request: presenting(good(t)), outcome: "allow", reason: jwt.ReasonValid},
		"any, a token that is wrong":   {require: config.Any, checks: []config.JWTCheck{shop()}, request: presenting("x"), outcome: "allow", reason: "no token"},
		"keys away, closed":            {checks: []config.JWTCheck{shop()}, keys: down, request: presenting(good(t)), outcome: "deny", reason: "no token"},
		"keys away, opened":            {checks: []config.JWTCheck{shop()}, keys: down, request: presenting(good(t)), modes: config.Modes{}.With(config.DependencyDown, config.Open), outcome: "deny", reason: "no token"},
		"keys away, opened, no token":  {checks: []config.JWTCheck{shop()}, keys: down, request: presenting(""), modes: config.Modes{}.With(config.DependencyDown, config.Open), outcome: "deny", reason: jwt.ReasonAbsent},
		"any, keys away, policy alone": {require: config.Any, checks: []config.JWTCheck{shop()}, keys: down, request: presenting(good(t)), outcome: "allow", reason: "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys := c.keys
			if keys == nil {
				keys = idp(t)
			}
			compiler := policy.Compiler{
				Kinds:   []policy.Kind{jwt.Kind{KeySets: keySets{"idp": keys}, Cache: cache()}, rego.Kind{}},
				Timeout: time.Minute, Gate: policy.NewGate(8, time.Minute),
			}
			p := compiler.Compile(&config.Handler{
				Require: c.require, JWT: c.checks, Modes: c.modes, Allow: config.Lifetime{Duration: time.Minute, Uses: 7},
				Rego: &config.RegoPolicy{Modules: []string{strings.ReplaceAll(shows, "ALLOW", strconv.FormatBool(c.require == config.Any))}, Decision: "data.p.decision"},
			}, nil)
			require.Empty(t, p.Problems())
			for range 2 {
				d := p.Evaluate(t.Context(), c.request)
				assert.Equal(t, c.outcome, d.Outcome())
				assert.Equal(t, c.reason, d.Reason)
				assert.Nil(t, c.request.Claims, "the request is not changed")
			}
		})
	}
}

// The answer of a handler lasts no longer than any of what bounds it.
func TestLifetimeOfTheDecision(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for name, c := range map[string]struct {
		allow, deny config.Lifetime
		token       func() spec // what is made when it is presented: the table may be old by then
		module      string
		longest     time.Duration
		uses        int32
	}{
		"the handler is shorter":  {allow: config.Lifetime{Duration: minute, Uses: 7}, longest: minute, uses: 7},
		"the token is shorter":    {allow: config.Lifetime{Duration: 2 * time.Hour, Uses: 7}, longest: time.Hour, uses: 7},
		"the policy is shorter":   {allow: config.Lifetime{Duration: 2 * time.Hour, Uses: 7}, module: `{"allow": true, "lifetime": {"duration": "5s", "uses": 3}}`, longest: 5 * time.Second, uses: 3},
		"the policy asks for all": {allow: config.Lifetime{Duration: 2 * time.Hour, Uses: 7}, module: `{"allow": true, "lifetime": {"duration": "24h"}}`, longest: time.Hour, uses: 7},
		"the token is ending":     {allow: config.Lifetime{Duration: minute, Uses: 7}, token: func() spec { return spec{claims: map[string]any{"exp": time.Now().Unix()}} }, longest: config.SingleUse.Duration, uses: 1},
		"single use":              {allow: config.SingleUse, longest: config.SingleUse.Duration, uses: 1},
		"deny":                    {deny: config.Lifetime{Duration: minute, Uses: 7}, token: func() spec { return spec{claims: map[string]any{"iss": "x"}} }, longest: minute, uses: 7},
		"deny, unknown key":       {deny: config.Lifetime{Duration: minute, Uses: 7}, token: func() spec { return spec{header: map[string]any{"kid": "x"}} }},
		"deny, not yet valid": {deny: config.Lifetime{Duration: 2 * time.Hour, Uses: 7}, token: func() spec {
			return spec{claims: map[string]any{"nbf": time.Now().Add(30*minute + 30*time.Second).Unix()}}
		}, longest: 30 * minute, uses: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compiler := policy.Compiler{
				Kinds:   []policy.Kind{jwt.Kind{KeySets: keySets{"idp": idp(t)}, Cache: cache()}, rego.Kind{}},
				Timeout: minute, Gate: policy.NewGate(8, minute),
			}
			handler := &config.Handler{JWT: []config.JWTCheck{shop()}, Allow: c.allow, Deny: c.deny}
			if c.module != "" {
				handler.Rego = &config.RegoPolicy{Modules: []string{"package p\ndecision = " + c.module}, Decision: "data.p.decision"}
			}
			token := good(t)
			if c.token != nil {
				token = c.token().token(t)
			}
			d := compiler.Compile(handler, nil).Evaluate(t.Context(), presenting(token))
			require.Nil(t, d.Failure)
			assert.Equal(t, c.uses, d.Lifetime.Uses)
			assert.LessOrEqual(t, d.Lifetime.Duration, c.longest)
			assert.Greater(t, d.Lifetime.Duration, c.longest-minute-time.Second)
			assert.Equal(t, c.longest > 0, d.Lifetime.Duration > 0)
		})
	}
}

// Many ask while the keys change. Once a key is gone nothing that it signed passes.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	keys := holding(t, "p256", "ed")
	check := compile(t, keys, cache(), shop())
	stays, goes := presenting(spec{algorithm: "EdDSA"}.token(t)), presenting(good(t))
	var gone atomic.Bool
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				before := gone.Load()
				v := check.Evaluate(t.Context(), goes)
				if before {
					assert.Equal(t, jwt.ReasonUnknownKey, v.Reason)
				}
				assert.Equal(t, jwt.ReasonValid, check.Evaluate(t.Context(), stays).Reason)
			}
		})
	}
	all.Go(func() {
		for range 50 {
			keys.has(t, with("p256").jwk(), with("ed").jwk())
			keys.has(t, with("ed").jwk(), with("p256").jwk())
		}
		keys.has(t, with("ed").jwk())
		gone.Store(true)
	})
	all.Wait()
	assert.Equal(t, jwt.ReasonUnknownKey, check.Evaluate(t.Context(), goes).Reason)
}
