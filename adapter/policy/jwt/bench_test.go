package jwt_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// BenchmarkEvaluate is the check alone, for a token that comes for the first time and for one that was verified before.
func BenchmarkEvaluate(b *testing.B) {
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		request := presenting("Bearer " + spec{algorithm: algorithm}.token(b))
		for name, kept := range map[string]*jwt.Cache{"first": nil, "repeated": cache()} {
			check := compile(b, idp(b), kept, shop())
			b.Run(algorithm+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if check.Evaluate(b.Context(), request).Result != policy.Passed {
						b.Fatal("did not pass")
					}
				}
			})
		}
	}
	for name, token := range map[string]string{"malformed": "x.y.z", "unknown key": spec{header: map[string]any{"kid": "x"}}.token(b)} {
		check, request := compile(b, idp(b), cache(), shop()), presenting(token)
		b.Run("denied/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if check.Evaluate(b.Context(), request).Result != policy.Denied {
					b.Fatal("was not denied")
				}
			}
		})
	}
}

// BenchmarkPolicy adds the combination, and a policy that reads the claims.
func BenchmarkPolicy(b *testing.B) {
	request := presenting("Bearer " + good(b))
	for name, module := range map[string]string{"jwt": "", "jwt and rego": "package p\nallow { input.token.sub == \"alice\"; input.token.realm_access.roles[_] == \"editor\" }"} {
		compiler := policy.Compiler{
			Kinds:   []policy.Kind{jwt.Kind{KeySets: keySets{"idp": idp(b)}, Cache: cache()}, rego.Kind{}},
			Timeout: time.Minute, Gate: policy.NewGate(8, 0),
		}
		handler := &config.Handler{JWT: []config.JWTCheck{shop()}, Allow: config.Lifetime{Duration: time.Second, Uses: 100}}
		if module != "" {
			handler.Rego = &config.RegoPolicy{Modules: []string{module}, Decision: "data.p.allow"}
		}
		p := compiler.Compile(handler, nil)
		require.Empty(b, p.Problems())
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Evaluate(b.Context(), request).Allowed() {
					b.Fatal("did not pass")
				}
			}
		})
	}
}
