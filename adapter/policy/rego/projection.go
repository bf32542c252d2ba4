package rego

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

// projection is the parts of a request that a program sees. It makes both the program's input and the key under which its answer is
// remembered, part by part from the same place, so that an answer is a function of its key whatever the analysis overlooks.
type projection struct {
	form  inputForm
	parts []part
}

// part is one part of a request, and its place in the input.
type part struct {
	// path is where Rego finds it; section and key say the same to the builder.
	path    Path
	section section
	key     *ast.Term
	// One of these is set: what the request has there, and in which form.
	text       func(*policy.Request) string // empty is the same as absent
	list       func(*policy.Request) string // as text, in an array of one
	value      func(*policy.Request) *attribute.Value
	properties func(*policy.Request) attribute.Map
	claims     func(*policy.Request) map[string]any
	present    func(*policy.Request) bool // an object that is there even if it is empty

	// within is the name of the one property that is seen, or the way to the claim; empty for all.
	within Path
}

// members are all parts of the input. They are in the order of their paths, so that an object comes before what is in it.
var members = []part{
	{path: Path{"action", "method"}, section: inAction, key: keyMethod, text: func(r *policy.Request) string { return action(r).Method }},
	{path: Path{"action", "namespace"}, section: inAction, key: keyNamespace, text: func(r *policy.Request) string { return action(r).Namespace }},
	{path: Path{"action", "path"}, section: inAction, key: keyPath, text: func(r *policy.Request) string { return action(r).Path }},
	{path: Path{"action", "properties"}, section: inActionProperties, properties: func(r *policy.Request) attribute.Map { return action(r).Properties }},
	{path: Path{"action", "service"}, section: inAction, key: keyService, text: func(r *policy.Request) string { return action(r).Service }},
	{path: Path{"api"}, section: inAPI, present: func(r *policy.Request) bool { return r.API != nil }},
	{path: Path{"api", "key"}, section: inAPI, key: keyKey, text: func(r *policy.Request) string { return api(r).Key }},
	{path: Path{"api", "name"}, section: inAPI, key: keyName, text: func(r *policy.Request) string { return api(r).Name }},
	{path: Path{"api", "operation"}, section: inAPI, key: keyOperation, text: func(r *policy.Request) string { return api(r).Operation }},
	{path: Path{"api", "timestamp"}, section: inAPI, key: keyTimestamp, value: func(r *policy.Request) *attribute.Value { return api(r).Time }},
	{path: Path{"api", "version"}, section: inAPI, key: keyVersion, text: func(r *policy.Request) string { return api(r).Version }},
	{path: Path{"key"}, section: inInput, key: keyKey, text: func(r *policy.Request) string { return r.Identity }},
	{path: Path{"subject", "groups"}, section: inSubject, key: keyGroups, list: func(r *policy.Request) string { return subject(r).Groups }},
	{path: Path{"subject", "properties"}, section: inSubjectProperties, properties: func(r *policy.Request) attribute.Map { return subject(r).Properties }},
	{path: Path{"subject", "user"}, section: inSubject, key: keyUser, text: func(r *policy.Request) string { return subject(r).User }},
	{path: Path{"token"}, section: inInput, key: keyToken, claims: func(r *policy.Request) map[string]any { return r.Claims }},
	{path: Path{"value"}, section: inInput, key: keyValue, value: func(r *policy.Request) *attribute.Value { return r.Value }},
}

// What stands for a message that the request has not: absent and empty are the same in the input.
var (
	noSubject policy.Subject
	noAction  policy.Action
	noAPI     policy.API
)

func subject(r *policy.Request) *policy.Subject {
	if r.Subject == nil {
		return &noSubject
	}
	return r.Subject
}

func action(r *policy.Request) *policy.Action {
	if r.Action == nil {
		return &noAction
	}
	return r.Action
}

func api(r *policy.Request) *policy.API {
	if r.API == nil {
		return &noAPI
	}
	return r.API
}

// newProjection makes the projection to the given paths, sorted and none within another.
func newProjection(form inputForm, reads []Path) *projection {
	p := &projection{form: form}
	for _, member := range members {
		for _, read := range reads {
			if read.covers(member.path) {
				p.parts = append(p.parts, member)
				break
			}
			if !member.path.covers(read) || member.present != nil {
				continue // it is about another part, or about one in the object
			}
			seen := member
			switch {
			case member.claims != nil:
				seen.within = read[len(member.path):]
			case member.properties != nil && !strings.ContainsRune(read[len(member.path)], utf8.RuneError):
				seen.within = read[len(member.path) : len(member.path)+1]
			default:
				// Nothing is below a text. And several names can become U+FFFD, so that all properties are seen for one that has it.
			}
			if n := len(p.parts); n == 0 || !slices.Equal(p.parts[n-1].path, member.path) || !slices.Equal(p.parts[n-1].within, seen.within) {
				p.parts = append(p.parts, seen)
			}
		}
	}
	return p
}

// property returns the property that a part is, of several the last, as protobuf reads a map.
func (p *part) property(r *policy.Request) (attribute.Value, bool) {
	return p.properties(r).Get(p.within[0])
}

// claim returns the claim that a part is, or all.
func (p *part) claim(r *policy.Request) (any, bool) {
	all := p.claims(r)
	if all == nil {
		return nil, false
	}
	var at any = all
	for _, name := range p.within {
		object, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = object[name]; !ok {
			return nil, false
		}
	}
	return at, true
}

// appendKey appends the parts of a request, each as it is and told from one that is absent, so that two requests have the same key only
// if the program sees the same. It is false where a part has no such form: then the answer is not remembered.
func (p *projection) appendKey(dst []byte, r *policy.Request) (_ []byte, ok bool) {
	for i := range p.parts {
		if dst, ok = p.parts[i].appendKey(dst, r); !ok {
			return dst, false
		}
	}
	return dst, true
}

func (p *part) appendKey(dst []byte, r *policy.Request) (_ []byte, ok bool) {
	switch {
	case p.text != nil:
		dst = appendText(dst, p.text(r))
	case p.list != nil:
		dst = appendText(dst, p.list(r))
	case p.value != nil:
		v := p.value(r)
		if dst = appendBool(dst, v != nil); v != nil {
			dst = v.AppendKey(dst)
		}
	case p.properties != nil && p.within != nil:
		v, there := p.property(r)
		if dst = appendBool(dst, there); there {
			dst = v.AppendKey(dst)
		}
	case p.properties != nil:
		return appendProperties(dst, p.properties(r))
	case p.claims != nil:
		claim, there := p.claim(r)
		if dst = appendBool(dst, there); there {
			return appendJSON(dst, claim)
		}
	default:
		dst = appendBool(dst, p.present(r))
	}
	return dst, true
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// appendProperties appends properties by name, of several with one name the last. It is false for a name that is not UTF-8: in the input
// it is another name, which a second one may have become as well.
func appendProperties(dst []byte, properties attribute.Map) ([]byte, bool) {
	var few [32]int
	order := few[:0]
	for i := range properties {
		if !utf8.ValidString(properties[i].Name) {
			return dst, false
		}
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(properties[a].Name, properties[b].Name) })
	for n, i := range order {
		if n+1 < len(order) && properties[order[n+1]].Name == properties[i].Name {
			continue
		}
		dst = appendText(append(dst, 1), properties[i].Name)
		dst = properties[i].Value.AppendKey(dst)
	}
	return append(dst, 0), true
}

// What a claim begins with in a key.
const (
	jsonNull byte = iota
	jsonFalse
	jsonTrue
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

// appendJSON appends a value as encoding/json decodes it, with numbers as json.Number. It is false for anything else.
func appendJSON(dst []byte, v any) (_ []byte, ok bool) {
	switch v := v.(type) {
	case nil:
		return append(dst, jsonNull), true
	case bool:
		if v {
			return append(dst, jsonTrue), true
		}
		return append(dst, jsonFalse), true
	case json.Number:
		return appendText(append(dst, jsonNumber), string(v)), true
	case string:
		return appendText(append(dst, jsonString), v), true
	case []any:
		dst = binary.AppendUvarint(append(dst, jsonArray), uint64(len(v)))
		for _, element := range v {
			if dst, ok = appendJSON(dst, element); !ok {
				return dst, false
			}
		}
		return dst, true
	case map[string]any:
		dst = binary.AppendUvarint(append(dst, jsonObject), uint64(len(v)))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if dst, ok = appendJSON(appendText(dst, name), v[name]); !ok {
				return dst, false
			}
		}
		return dst, true
	default:
		return dst, false
	}
}
