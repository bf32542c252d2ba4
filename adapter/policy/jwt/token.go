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

// token is a JWS in compact form, decoded. It is not verified.
type token struct {
	text               string
	payload            []byte
	algorithm, keyID   string
	issuer             string
	audiences          []string
	claims             map[string]any
	expires, notBefore time.Time
	issued             time.Time
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

var errMalformed = errors.New("malformed")

// parse decodes a token, or says why it cannot be one that is taken.
func parse(text string) (t *token, reason string) {
	t = &token{text: text}
	if err := t.decode(); err != nil {
		return nil, ReasonMalformed
	}
	return t, ""
}

func (t *token) decode() error {
	// The decoder of base64 would pass over line breaks.
	if strings.ContainsAny(t.text, "\r\n") || strings.Count(t.text, ".") != 2 {
		return errMalformed
	}
	protected, rest, _ := strings.Cut(t.text, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	header, err := decodeSegment(protected)
	if err != nil {
		return err
	}
	if t.payload, err = encoding.DecodeString(payload); err != nil {
		return err
	}
	if _, err = encoding.DecodeString(signature); err != nil {
		return err
	}
	if t.claims, err = decodeObject(t.payload); err != nil {
		return err
	}
	return errors.Join(t.readHeader(header), t.readClaims())
}

func decodeSegment(segment string) (map[string]any, error) {
	document, err := encoding.DecodeString(segment)
	if err != nil {
		return nil, err
	}
	return decodeObject(document)
}

// readHeader takes nothing but the algorithm and the key's id. Above all no key, and no address of one.
func (t *token) readHeader(header map[string]any) error {
	// What must be understood is not; nor are payloads that are not encoded, and what is encrypted or compressed.
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, ok := header[name]; ok {
			return errMalformed
		}
	}
	var err error
	if t.algorithm, err = optional[string](header, "alg"); err != nil || t.algorithm == "" {
		return errMalformed
	}
	t.keyID, err = optional[string](header, "kid")
	return err
}

func (t *token) readClaims() error {
	var err error
	if t.issuer, err = optional[string](t.claims, "iss"); err != nil {
		return err
	}
	switch audience := t.claims["aud"].(type) {
	case nil:
		if _, ok := t.claims["aud"]; ok {
			return errMalformed
		}
	case string:
		t.audiences = []string{audience}
	case []any:
		for _, one := range audience {
			text, ok := one.(string)
			if !ok {
				return errMalformed
			}
			t.audiences = append(t.audiences, text)
		}
	default:
		return errMalformed
	}
	for name, field := range map[string]*time.Time{"exp": &t.expires, "nbf": &t.notBefore, "iat": &t.issued} {
		if *field, err = numericDate(t.claims, name); err != nil {
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
		return value, errMalformed
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
		return time.Time{}, errMalformed
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), nil
}

// maxDepth is how deep claims may nest.
const maxDepth = 32

// decodeObject decodes a JSON object, with numbers as json.Number. It refuses what readers could take differently: a name twice in
// an object, text that is not UTF-8, numbers beyond a float64, and anything after the object.
func decodeObject(document []byte) (map[string]any, error) {
	if !utf8.Valid(document) || !json.Valid(document) {
		return nil, errMalformed
	}
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	value, err := decodeValue(d, maxDepth)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errMalformed
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
			return nil, errMalformed
		}
		if next == '{' {
			return decodeMembers(d, depth-1)
		}
		return decodeElements(d, depth-1)
	case json.Number:
		if _, err := strconv.ParseFloat(next.String(), 64); err != nil {
			return nil, errMalformed
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
			return nil, errMalformed
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
