package jwt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Tokens are made by hand and with the standard library, so that they do not share the mistakes of what is tested.

// signer is a key pair, or a secret, by the name that the key set gives it.
type signer struct {
	id      string
	private any
}

var generate = sync.OnceValue(func() map[string]*signer {
	must := func(key any, err error) any {
		if err != nil {
			panic(err)
		}
		return key
	}
	ec := func(curve elliptic.Curve) any {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		return must(key, err)
	}
	rs := func(bits int) any { key, err := rsa.GenerateKey(rand.Reader, bits); return must(key, err) }
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	_, other, otherErr := ed25519.GenerateKey(rand.Reader)
	secret := make([]byte, 64)
	_, secretErr := rand.Read(secret)
	all := map[string]*signer{
		"rsa": {"", rs(2048)}, "p256": {"", ec(elliptic.P256())}, "p384": {"", ec(elliptic.P384())}, "p521": {"", ec(elliptic.P521())},
		"ed": {"", must(ed, err)}, "other": {"", must(other, otherErr)}, "secret": {"", must(secret, secretErr)}, "stranger": {"", rs(2048)},
		"rsa2": {"", rs(2048)},
	}
	for id, s := range all {
		s.id = id
	}
	return all
})

// with returns the named key.
func with(id string) *signer { return generate()[id] }

// signers by algorithm.
var signers = map[string]string{
	"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
	"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed", "HS256": "secret", "HS384": "secret", "HS512": "secret",
}

func b64(content []byte) string { return base64.RawURLEncoding.EncodeToString(content) }

// jwk returns the public key as it stands in a JWK Set.
func (s *signer) jwk() map[string]any {
	size := func(curve elliptic.Curve) int { return (curve.Params().BitSize + 7) / 8 }
	switch k := s.private.(type) {
	case *rsa.PrivateKey:
		return map[string]any{"kty": "RSA", "kid": s.id, "n": b64(k.N.Bytes()), "e": "AQAB"}
	case *ecdsa.PrivateKey:
		return map[string]any{
			"kty": "EC", "kid": s.id, "crv": k.Curve.Params().Name,
			"x": b64(k.X.FillBytes(make([]byte, size(k.Curve)))), "y": b64(k.Y.FillBytes(make([]byte, size(k.Curve)))),
		}
	case ed25519.PrivateKey:
		return map[string]any{"kty": "OKP", "kid": s.id, "crv": "Ed25519", "x": b64(k.Public().(ed25519.PublicKey))}
	default:
		return map[string]any{"kty": "oct", "kid": s.id, "k": b64(s.private.([]byte))}
	}
}

// change returns a copy of the object with members replaced; those that are nil are removed.
func change(object, members map[string]any) map[string]any {
	object = maps.Clone(object)
	for name, value := range members {
		object[name] = value
		if value == nil {
			delete(object, name)
		}
	}
	return object
}

func set(keys ...map[string]any) []byte {
	document, err := json.Marshal(map[string]any{"keys": append([]map[string]any{}, keys...)})
	if err != nil {
		panic(err)
	}
	return document
}

// signature signs with the algorithm, whatever suits it or not.
func signature(tb testing.TB, algorithm string, private any, input string) []byte {
	tb.Helper()
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[algorithm[len(algorithm)-3:]]
	var sum []byte
	if hash != 0 {
		h := hash.New()
		h.Write([]byte(input))
		sum = h.Sum(nil)
	}
	switch algorithm[:2] {
	case "RS":
		made, err := rsa.SignPKCS1v15(nil, private.(*rsa.PrivateKey), hash, sum)
		require.NoError(tb, err)
		return made
	case "PS":
		made, err := rsa.SignPSS(rand.Reader, private.(*rsa.PrivateKey), hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		require.NoError(tb, err)
		return made
	case "ES":
		k := private.(*ecdsa.PrivateKey)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		require.NoError(tb, err)
		size := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case "Ed":
		return ed25519.Sign(private.(ed25519.PrivateKey), []byte(input))
	case "HS":
		mac := hmac.New(hash.New, private.([]byte))
		mac.Write([]byte(input))
		return mac.Sum(nil)
	}
	tb.Fatalf("no algorithm %q", algorithm)
	return nil
}

// raw signs a header and a payload as they are.
func raw(tb testing.TB, algorithm string, private any, header, payload string) string {
	tb.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(signature(tb, algorithm, private, input))
}

func marshal(tb testing.TB, value any) string {
	tb.Helper()
	document, err := json.Marshal(value)
	require.NoError(tb, err)
	return string(document)
}

// spec says what token to make.
type spec struct {
	algorithm string
	// header and claims change what a good token has; nil removes a member.
	header, claims map[string]any
	// private signs in place of the key that the header names.
	private any
}

// claims are those of a good token.
func claims() map[string]any {
	return map[string]any{
		"iss": "https://idp.example.com", "aud": "shop", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
		"realm_access": map[string]any{"roles": []string{"customer", "editor"}}, "email_verified": true, "level": 3,
	}
}

func (s spec) token(tb testing.TB) string {
	tb.Helper()
	algorithm := s.algorithm
	if algorithm == "" {
		algorithm = "ES256"
	}
	k := with(signers[algorithm])
	private := s.private
	if private == nil {
		private = k.private
	}
	header := change(map[string]any{"alg": algorithm, "kid": k.id, "typ": "JWT"}, s.header)
	return raw(tb, algorithm, private, marshal(tb, header), marshal(tb, change(claims(), s.claims)))
}

// good makes a token that passes.
func good(tb testing.TB) string { tb.Helper(); return spec{}.token(tb) }

// tamper changes a segment of a token.
func tamper(token string, segment int, edit func(string) string) string {
	parts := strings.Split(token, ".")
	parts[segment] = edit(parts[segment])
	return strings.Join(parts, ".")
}
