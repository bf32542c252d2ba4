package jwt_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
)

// Nothing passes but what was signed here.
func FuzzEvaluate(f *testing.F) {
	check := compile(f, idp(f), cache(), shop())
	signed := map[string]bool{}
	for algorithm := range signers {
		token := spec{algorithm: algorithm}.token(f)
		signed[token] = !strings.HasPrefix(algorithm, "HS")
		f.Add("Bearer " + token)
		f.Add(token)
		f.Add(tamper(token, 0, func(string) string { return b64([]byte(`{"alg":"none"}`)) }))
		f.Add(tamper(token, 1, func(string) string {
			return b64([]byte(`{"iss":"https://idp.example.com","aud":"shop","exp":4102444800}`))
		}))
		f.Add(tamper(token, 2, func(string) string { return "" }))
	}
	f.Add("")
	f.Add("..")
	f.Add(spec{header: map[string]any{"crit": []string{"x"}, "jwk": with("stranger").jwk()}}.token(f))
	f.Fuzz(func(t *testing.T, presented string) {
		v := check.Evaluate(t.Context(), presenting(presented))
		require.Nil(t, v.Failure)
		require.NotEmpty(t, v.Reason)
		if v.Result == policy.Passed {
			require.True(t, signed[presented[strings.LastIndexByte(presented, ' ')+1:]], "passes: %q", presented)
			require.Equal(t, "alice", v.Claims["sub"])
			return
		}
		require.Equal(t, policy.Denied, v.Result)
		require.NotNil(t, v.Denial)
		require.Nil(t, v.Claims)
	})
}

// Whatever a server of keys answers, nothing panics, and no more keys come of it than may.
func FuzzParseKeys(f *testing.F) {
	for id := range generate() {
		f.Add(set(with(id).jwk()))
	}
	f.Add([]byte(`{"keys":[null,{"kty":"RSA","n":"","e":""},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP"},{"kty":"oct"}]}`))
	token := good(f)
	f.Fuzz(func(t *testing.T, document []byte) {
		for _, symmetric := range []bool{false, true} {
			keys, err := jwt.ParseKeys(document, symmetric)
			if err != nil {
				require.Nil(t, keys)
				continue
			}
			require.LessOrEqual(t, keys.Len()+keys.Unusable(), jwt.MaxKeys)
			s := &keySet{symmetric: symmetric}
			s.keys.Store(keys)
			compile(t, s, nil, shop()).Evaluate(t.Context(), presenting(token))
		}
	})
}
