package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// Bounds of a key set.
const (
	// MaxKeySetBytes is far more than MaxKeys need.
	MaxKeySetBytes = 1 << 20
	// MaxKeys is how many keys a set may have.
	MaxKeys = 100
	// MinRSABits and MaxRSABits bound RSA keys: smaller ones are weak, larger ones take too long.
	MinRSABits = 2048
	MaxRSABits = 8192
	// minRSAExponent is the smallest that hides anything. The library has bounds of its own, which OPA takes away for the whole process.
	minRSAExponent = 3
)

// KeySetTypes are the media types of key sets.
const KeySetTypes = "application/jwk-set+json, application/json"

// Keys is one revision of a key set. It is immutable.
type Keys struct {
	revision [sha256.Size]byte
	keys     []key
	unusable int
	secrets  []string
}

// key is one that signatures can be verified with.
type key struct {
	id string
	// algorithms are those that the key is for.
	algorithms []jwa.SignatureAlgorithm
	// material is an *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or []byte in a symmetric set.
	material any
}

// ParseKeys reads a JWK Set (RFC 7517). Of private keys it takes the public half. Keys that are not for signatures, that are of an
// unknown type or too weak, and those of the other kind (symmetric or not) are left out: no error, since a set may have keys for others.
// A set without any key for us is valid, and knows no key. Errors show nothing of a key.
func ParseKeys(document []byte, symmetric bool) (*Keys, error) {
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil || set.Keys == nil {
		return nil, errors.New("it is no JWK Set; it must be a JSON object with an array of keys")
	}
	if len(*set.Keys) > MaxKeys {
		return nil, fmt.Errorf("it has %d keys; use at most %d", len(*set.Keys), MaxKeys)
	}
	keys := &Keys{revision: sha256.Sum256(document)}
	for _, entry := range *set.Keys {
		parsed, err := jwk.ParseKey(entry)
		if err != nil {
			keys.unusable++
			continue
		}
		if private, err := jwk.IsPrivateKey(parsed); err == nil && private || parsed.KeyType() == jwa.OctetSeq() {
			id, _ := parsed.KeyID()
			keys.secrets = append(keys.secrets, id)
		}
		if k, ok := usable(parsed, symmetric); ok {
			keys.keys = append(keys.keys, k)
		} else {
			keys.unusable++
		}
	}
	return keys, nil
}

// Len returns how many keys there are to verify with.
func (k *Keys) Len() int { return len(k.keys) }

// Unusable returns how many keys of the set were left out.
func (k *Keys) Unusable() int { return k.unusable }

// Secrets returns the ids of the keys, usable or not, that whoever publishes a set ought not to have put in: private and shared ones.
func (k *Keys) Secrets() []string { return k.secrets }

func usable(parsed jwk.Key, symmetric bool) (key, bool) {
	// The type is asked for first: exported, a public Ed25519 key would pass for the bytes of a secret.
	if (parsed.KeyType() == jwa.OctetSeq()) != symmetric {
		return key{}, false
	}
	if use, ok := parsed.KeyUsage(); ok && use != "sig" {
		return key{}, false
	}
	if operations, ok := parsed.KeyOps(); ok && !slices.Contains(operations, jwk.KeyOpVerify) {
		return key{}, false
	}
	var (
		k   key
		err error
	)
	k.id, _ = parsed.KeyID()
	if symmetric {
		var secret []byte
		err = jwk.Export(parsed, &secret)
		k.material = secret
	} else {
		k.material, err = jwk.PublicRawKeyOf(parsed)
	}
	if err != nil {
		return key{}, false
	}
	k.algorithms = algorithmsOf(k.material)
	if stated, ok := parsed.Algorithm(); ok {
		name := stated.String()
		if name == jwa.EdDSAEd25519().String() { // RFC 9864's name for the same
			name = jwa.EdDSA().String()
		}
		k.algorithms = slices.DeleteFunc(k.algorithms, func(a jwa.SignatureAlgorithm) bool { return a.String() != name })
	}
	return k, len(k.algorithms) > 0
}

// algorithmsOf returns what a key can verify; nothing for one that is too weak or unknown. Each curve has one algorithm (RFC 7518, 3.4).
func algorithmsOf(material any) []jwa.SignatureAlgorithm {
	switch m := material.(type) {
	case *rsa.PublicKey:
		if bits := m.N.BitLen(); bits >= MinRSABits && bits <= MaxRSABits && m.E >= minRSAExponent {
			return []jwa.SignatureAlgorithm{jwa.RS256(), jwa.RS384(), jwa.RS512(), jwa.PS256(), jwa.PS384(), jwa.PS512()}
		}
	case *ecdsa.PublicKey:
		switch m.Curve.Params().Name {
		case "P-256":
			return []jwa.SignatureAlgorithm{jwa.ES256()}
		case "P-384":
			return []jwa.SignatureAlgorithm{jwa.ES384()}
		case "P-521":
			return []jwa.SignatureAlgorithm{jwa.ES512()}
		}
	case ed25519.PublicKey:
		return []jwa.SignatureAlgorithm{jwa.EdDSA()}
	case []byte:
		// A secret has to be as long as the hash (RFC 7518, 3.2).
		var all []jwa.SignatureAlgorithm
		for _, hmac := range []struct {
			algorithm jwa.SignatureAlgorithm
			least     int
		}{{jwa.HS256(), 32}, {jwa.HS384(), 48}, {jwa.HS512(), 64}} {
			if len(m) >= hmac.least {
				all = append(all, hmac.algorithm)
			}
		}
		return all
	}
	return nil
}

// Verify looks for a key that made the token's signature. A token that names a key is verified with keys of that id alone, and one
// that names none with all that suit. It returns why none of them did; empty where one did.
func (k *Keys) Verify(t *Token) (reason string) {
	reason = ReasonUnknownKey
	for i := range k.keys {
		candidate := &k.keys[i]
		if t.KeyID != "" && candidate.id != t.KeyID {
			continue
		}
		algorithm := slices.IndexFunc(candidate.algorithms, func(a jwa.SignatureAlgorithm) bool { return a.String() == t.Algorithm })
		if algorithm < 0 {
			if t.KeyID != "" && reason == ReasonUnknownKey {
				reason = ReasonAlgorithm
			}
			continue
		}
		payload, err := jws.VerifyCompactFast(candidate.material, []byte(t.text), candidate.algorithms[algorithm])
		if err == nil && bytes.Equal(payload, t.payload) {
			return ""
		}
		reason = ReasonBadSignature
	}
	return reason
}
