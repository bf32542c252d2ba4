package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxTokenBytes is the largest token that is looked at.
const MaxTokenBytes = 16 << 10

// Token is a JWS in compact form, decoded. It is not verified.
type Token struct {
	// Algorithm is the header's alg; KeyID is its kid, empty where it has none.
	Algorithm, KeyID string
	// Issuer is iss, and Audiences are aud, where the claims have them.
	Issuer    string
	Audiences []string
	// Expires, NotBefore and Issued are exp, nbf and iat; zero where the claims do not have them.
	Expires, NotBefore, Issued time.Time
	// Claims are all there are, as encoding/json decodes them with numbers as json.Number.
	Claims map[string]any

	text    string
	payload []byte
	// size is the length of the payload, where that is not kept.
	size int
}

// bearer returns what a property presents: what comes after "Bearer", in whatever case, or all of it where it is a single word;
// empty for nothing, and for credentials of another scheme.
func bearer(value string) string {
	const scheme = "bearer"
	first, rest, several := strings.Cut(value, " ")
	switch {
	case strings.EqualFold(first, scheme):
		return strings.TrimLeft(rest, " ")
	case several:
		return ""
	default:
		return value
	}
}

// encoding is strict, so that a token has one form only.
var encoding = base64.RawURLEncoding.Strict()

// What is wrong with a text that cannot be a token which is taken.
var (
	errNoJWT  = errors.New("is no signed JWT")
	errHeader = errors.New("has critical headers; none are known here")
	errClaims = errors.New("has claims that cannot be read")
)

// Parse decodes a token. Its errors continue "the token", and show nothing of it.
func Parse(text string) (*Token, error) {
	// The decoder of base64 would pass over line breaks.
	if len(text) > MaxTokenBytes || strings.ContainsAny(text, "\r\n") || strings.Count(text, ".") != 2 {
		return nil, errNoJWT
	}
	t := &Token{text: text}
	protected, rest, _ := strings.Cut(text, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if err := t.readHeader(protected); err != nil {
		return nil, err
	}
	var err error
	if t.payload, err = encoding.DecodeString(payload); err != nil {
		return nil, errNoJWT
	}
	if _, err = encoding.DecodeString(signature); err != nil {
		return nil, errNoJWT
	}
	if err = t.readClaims(); err != nil {
		return nil, errClaims
	}
	return t, nil
}

// readHeader takes nothing but the algorithm and the key's id. Above all no key, and no address of one.
func (t *Token) readHeader(segment string) error {
	document, err := encoding.DecodeString(segment)
	if err != nil {
		return errNoJWT
	}
	header, err := decodeObject(document)
	if err != nil {
		return errNoJWT
	}
	// What must be understood is not; nor are payloads that are not encoded, and what is encrypted or compressed.
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, ok := header[name]; ok {
			return errHeader
		}
	}
	if t.Algorithm, err = optional[string](header, "alg"); err != nil || t.Algorithm == "" {
		return errNoJWT
	}
	if t.KeyID, err = optional[string](header, "kid"); err != nil {
		return errNoJWT
	}
	return nil
}

func (t *Token) readClaims() (err error) {
	if t.Claims, err = decodeObject(t.payload); err != nil {
		return err
	}
	if t.Issuer, err = optional[string](t.Claims, "iss"); err != nil {
		return err
	}
	switch audience := t.Claims["aud"].(type) {
	case nil:
		if _, ok := t.Claims["aud"]; ok {
			return errClaims
		}
	case string:
		t.Audiences = []string{audience}
	case []any:
		for _, one := range audience {
			text, ok := one.(string)
			if !ok {
				return errClaims
			}
			t.Audiences = append(t.Audiences, text)
		}
	default:
		return errClaims
	}
	for name, field := range map[string]*time.Time{"exp": &t.Expires, "nbf": &t.NotBefore, "iat": &t.Issued} {
		if *field, err = numericDate(t.Claims, name); err != nil {
			return err
		}
	}
	return nil
}

// optional returns a member of the type, or its zero value where there is none.
func optional[T any](object map[string]any, name string) (value T, err error) {
	member, ok := object[name]
	if !ok {
		return value, nil
	}
	if value, ok = member.(T); !ok {
		return value, errClaims
	}
	return value, nil
}

// lastSecond is the end of the year 9999. What is later was meant in milliseconds, or to be for ever.
const lastSecond = 253_402_300_799

// numericDate reads seconds since 1970, which may have a fraction; zero where there is none.
func numericDate(claims map[string]any, name string) (time.Time, error) {
	if _, ok := claims[name]; !ok {
		return time.Time{}, nil
	}
	number, err := optional[json.Number](claims, name)
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := number.Float64()
	if err != nil || math.Abs(seconds) > lastSecond {
		return time.Time{}, errClaims
	}
	// What was before 1970 is over, and so is the year 1, which would read as no date at all.
	whole, fraction := math.Modf(max(seconds, 0))
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), nil
}

// maxDepth is how deep claims may nest.
const maxDepth = 32

// decodeObject decodes a JSON object, with numbers as json.Number. It refuses what readers could take differently: a name twice in
// an object, text that is not UTF-8, numbers beyond a float64, and anything after the object.
func decodeObject(document []byte) (map[string]any, error) {
	if !utf8.Valid(document) || !json.Valid(document) {
		return nil, errClaims
	}
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	value, err := decodeValue(d, maxDepth)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errClaims
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	next, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch next := next.(type) {
	case json.Delim:
		if depth == 0 {
			return nil, errClaims
		}
		if next == '{' {
			return decodeMembers(d, depth-1)
		}
		return decodeElements(d, depth-1)
	case json.Number:
		if _, err := strconv.ParseFloat(next.String(), 64); err != nil {
			return nil, errClaims
		}
	}
	return next, nil
}

func decodeMembers(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		next, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := next.(string)
		if _, twice := object[name]; twice || !ok {
			return nil, errClaims
		}
		if object[name], err = decodeValue(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

func decodeElements(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		element, err := decodeValue(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, element)
	}
	_, err := d.Token()
	return array, err
}
