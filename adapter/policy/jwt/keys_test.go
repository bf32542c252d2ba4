package jwt_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
)

// Which keys of a set count, for sets of key pairs and for symmetric ones.
func TestParseKeys(t *testing.T) {
	t.Parallel()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	plain := func(id string) map[string]any { return with(id).jwk() }
	private := with("rsa").private.(*rsa.PrivateKey)
	for name, c := range map[string]struct {
		key             map[string]any
		pair, symmetric bool
	}{
		"RSA":                             {plain("rsa"), true, false},
		"RSA with everything":             {change(plain("rsa"), map[string]any{"use": "sig", "alg": "PS256", "key_ops": []string{"verify"}, "own": 1}), true, false},
		"RSA, private":                    {change(plain("rsa"), map[string]any{"d": b64(private.D.Bytes()), "p": b64(private.Primes[0].Bytes()), "q": b64(private.Primes[1].Bytes())}), true, false},
		"RSA for encryption":              {change(plain("rsa"), map[string]any{"use": "enc"}), false, false},
		"RSA for another use":             {change(plain("rsa"), map[string]any{"use": "x"}), false, false},
		"RSA to wrap keys":                {change(plain("rsa"), map[string]any{"key_ops": []string{"wrapKey"}}), false, false},
		"RSA for another algorithm":       {change(plain("rsa"), map[string]any{"alg": "RSA-OAEP"}), false, false},
		"RSA for HS256":                   {change(plain("rsa"), map[string]any{"alg": "HS256"}), false, false},
		"RSA for none":                    {change(plain("rsa"), map[string]any{"alg": "none"}), false, false},
		"RSA, weak":                       {(&signer{"weak", weak}).jwk(), false, false},
		"RSA, even exponent":              {change(plain("rsa"), map[string]any{"e": "Ag"}), false, false},
		"RSA, exponent one":               {change(plain("rsa"), map[string]any{"e": "AQ"}), false, false},
		"RSA, enormous":                   {change(plain("rsa"), map[string]any{"n": strings.Repeat("_", 1400)}), false, false},
		"RSA in part":                     {change(plain("rsa"), map[string]any{"n": nil}), false, false},
		"P-256":                           {plain("p256"), true, false},
		"P-384":                           {plain("p384"), true, false},
		"P-521":                           {plain("p521"), true, false},
		"P-256 for ES384":                 {change(plain("p256"), map[string]any{"alg": "ES384"}), false, false},
		"a point beside the curve":        {change(plain("p256"), map[string]any{"y": b64(make([]byte, 32))}), false, false},
		"an unknown curve":                {change(plain("p256"), map[string]any{"crv": "P-192"}), false, false},
		"another curve":                   {change(plain("p256"), map[string]any{"crv": "secp256k1"}), false, false},
		"Ed25519":                         {plain("ed"), true, false},
		"Ed25519 by its new name":         {change(plain("ed"), map[string]any{"alg": "Ed25519"}), true, false},
		"Ed25519, short":                  {change(plain("ed"), map[string]any{"x": "AAAA"}), false, false},
		"X25519":                          {change(plain("ed"), map[string]any{"crv": "X25519"}), false, false},
		"secret":                          {plain("secret"), false, true},
		"secret for one algorithm":        {change(plain("secret"), map[string]any{"alg": "HS384"}), false, true},
		"secret for signing alone":        {change(plain("secret"), map[string]any{"key_ops": []string{"sign"}}), false, false},
		"secret of 32 bytes":              {change(plain("secret"), map[string]any{"k": b64(make([]byte, 32))}), false, true},
		"secret of 32 bytes for more":     {change(plain("secret"), map[string]any{"k": b64(make([]byte, 32)), "alg": "HS512"}), false, false},
		"secret of 31 bytes":              {change(plain("secret"), map[string]any{"k": b64(make([]byte, 31))}), false, false},
		"secret of nothing":               {change(plain("secret"), map[string]any{"k": ""}), false, false},
		"a kind to come":                  {map[string]any{"kty": "AKP", "alg": "ML-DSA-65", "pub": "AAAA"}, false, false},
		"no kind":                         {map[string]any{"kid": "a"}, false, false},
		"an empty key":                    {map[string]any{}, false, false},
		"a public key as a shared secret": {change(plain("rsa"), map[string]any{"kty": "oct"}), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, symmetric := range []bool{false, true} {
				keys, err := jwt.ParseKeys(set(c.key, map[string]any{"kty": "x"}), symmetric)
				require.NoError(t, err)
				want := 0
				if symmetric && c.symmetric || !symmetric && c.pair {
					want = 1
				}
				assert.Equal(t, want, keys.Len(), "symmetric: %t", symmetric)
				assert.Equal(t, 2-want, keys.Unusable())
			}
		})
	}
}

func TestWhatIsNoKeySet(t *testing.T) {
	t.Parallel()
	for _, document := range []string{
		"", "planted", "{}", "[]", "null", `{"keys":null}`, `{"keys":{}}`, `{"keys":"planted"}`, marshal(t, with("secret").jwk()), `{"keys":[]} planted`, `{"keys":[]`, "<html>planted</html>",
	} {
		_, err := jwt.ParseKeys([]byte(document), false)
		require.EqualError(t, err, "it is no JWK Set; it must be a JSON object with an array of keys", document)
	}
	keys, err := jwt.ParseKeys([]byte(`{"keys":[null,1,"x",[],{}]}`), false)
	require.NoError(t, err)
	assert.Equal(t, 5, keys.Unusable())

	many := make([]json.RawMessage, jwt.MaxKeys+1)
	for i := range many {
		many[i] = json.RawMessage("{}")
	}
	_, err = jwt.ParseKeys([]byte(marshal(t, map[string]any{"keys": many[1:]})), false)
	require.NoError(t, err)
	_, err = jwt.ParseKeys([]byte(marshal(t, map[string]any{"keys": many})), false)
	require.EqualError(t, err, "it has 101 keys; use at most 100")
}

// Whoever publishes a secret has made a mistake, whether we could use it or not.
func TestSecretKeys(t *testing.T) {
	t.Parallel()
	private := map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "private", "use": "enc", "x": b64(make([]byte, 32)), "d": b64(make([]byte, 32))}
	for _, symmetric := range []bool{false, true} {
		keys, err := jwt.ParseKeys(set(with("p256").jwk(), private, with("secret").jwk()), symmetric)
		require.NoError(t, err)
		assert.Equal(t, []string{"private", "secret"}, keys.Secrets())
	}
}

// Several keys may share a name, as while one replaces another, or have none.
func TestKeysOfOneName(t *testing.T) {
	t.Parallel()
	named := func(id string) map[string]any { return change(with(id).jwk(), map[string]any{"kid": "k"}) }
	signed := func(algorithm, id string, kid any) string {
		return spec{algorithm: algorithm, header: map[string]any{"kid": kid}, private: with(id).private}.token(t)
	}
	check := compile(t, (&keySet{}).has(t, named("rsa2"), named("p256"), named("rsa")), cache(), shop())
	for want, token := range map[string]string{
		jwt.ReasonValid:        signed("RS256", "rsa", "k"),
		jwt.ReasonBadSignature: signed("RS256", "stranger", "k"),
		jwt.ReasonAlgorithm:    signed("ES384", "p384", "k"),
		jwt.ReasonUnknownKey:   signed("RS256", "rsa", "rsa"),
	} {
		assert.Equal(t, want, reasonOf(t, check, presenting(token)))
	}
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, presenting(signed("ES256", "p256", "k"))))
	assert.Equal(t, jwt.ReasonUnknownKey, reasonOf(t, check, presenting(signed("ES384", "p384", nil))), "no key is for that, but one may come")

	nameless := compile(t, (&keySet{}).has(t, change(with("rsa").jwk(), map[string]any{"kid": nil})), cache(), shop())
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, nameless, presenting(signed("RS256", "rsa", nil))))
	assert.Equal(t, jwt.ReasonUnknownKey, reasonOf(t, nameless, presenting(signed("RS256", "rsa", "k"))))
}

// A key that says what it is for is for nothing else.
func TestKeyForOneAlgorithm(t *testing.T) {
	t.Parallel()
	check := compile(t, (&keySet{}).has(t, change(with("rsa").jwk(), map[string]any{"alg": "PS256"})), cache(), shop())
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, presenting(spec{algorithm: "PS256"}.token(t))))
	assert.Equal(t, jwt.ReasonAlgorithm, reasonOf(t, check, presenting(spec{algorithm: "RS256"}.token(t))))
}
