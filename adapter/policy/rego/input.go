package rego

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// The keys of the input, made once.
var (
	keySubject    = ast.StringTerm("subject")
	keyAction     = ast.StringTerm("action")
	keyUser       = ast.StringTerm("user")
	keyGroups     = ast.StringTerm("groups")
	keyNamespace  = ast.StringTerm("namespace")
	keyService    = ast.StringTerm("service")
	keyMethod     = ast.StringTerm("method")
	keyPath       = ast.StringTerm("path")
	keyProperties = ast.StringTerm("properties")
	keyToken      = ast.StringTerm("token")
	keyValue      = ast.StringTerm("value")
	keyAPI        = ast.StringTerm("api")
	keyName       = ast.StringTerm("name")
	keyVersion    = ast.StringTerm("version")
	keyOperation  = ast.StringTerm("operation")
	keyTimestamp  = ast.StringTerm("timestamp")
	keyKey        = ast.StringTerm("key")
)

// section is an object of the input. One comes after the object that it is in.
type section uint8

const (
	inInput section = iota
	inAction
	inActionProperties
	inAPI
	inSubject
	inSubjectProperties
	sections
)

// places are where the objects are.
var places = [sections]struct {
	parent section
	key    *ast.Term
}{
	inAction:            {inInput, keyAction},
	inActionProperties:  {inAction, keyProperties},
	inAPI:               {inInput, keyAPI},
	inSubject:           {inInput, keySubject},
	inSubjectProperties: {inSubject, keyProperties},
}

// objects are the input's while it is made. An object is put into the one around it when it is complete, because that notes its hash.
type objects [sections]ast.Object

func (o *objects) insert(s section, key, value *ast.Term) {
	o.make(s).Insert(key, value)
}

func (o *objects) make(s section) ast.Object {
	if o[s] == nil {
		o[s] = ast.NewObject()
	}
	return o[s]
}

func (o *objects) join() ast.Value {
	for s := sections - 1; s > inInput; s-- {
		if o[s] != nil {
			o.insert(places[s].parent, places[s].key, ast.NewTerm(o[s]))
		}
	}
	return o.make(inInput)
}

// input makes the program's input of a request: that of Mixer's opa adapter (istio.io/istio 1.7.8, mixer/adapter/opa), and beside it what
// the other templates carry, whose API key was accepted, and the claims of a verified token; and of all this what the program can read.
// Subject and action are there if anything in them can be read, if only as empty objects. The request must be readable.
func (p *projection) input(r *policy.Request) (ast.Value, *policy.Failure) {
	var o objects
	var token map[string]any
	for i := range p.parts {
		part := &p.parts[i]
		switch {
		case part.text != nil:
			if s := part.text(r); s != "" {
				o.insert(part.section, part.key, text(s))
			}
		case part.list != nil:
			if s := part.list(r); s != "" {
				o.insert(part.section, part.key, ast.ArrayTerm(text(s)))
			}
		case part.value != nil:
			if v := part.value(r); v != nil {
				o.insert(part.section, part.key, p.form.term(*v))
			}
		case part.properties != nil && part.within != nil:
			if v, there := part.property(r); there {
				o.insert(part.section, text(part.within[0]), p.form.term(v))
			}
		case part.properties != nil:
			for _, property := range part.properties(r) {
				o.insert(part.section, text(property.Name), p.form.term(property.Value))
			}
		case part.claims != nil && len(part.within) == 0:
			token = r.Claims
		case part.claims != nil:
			if claim, there := part.claim(r); there {
				token = put(token, part.within, claim)
			}
		case part.present(r):
			o.make(part.section)
		}
		if within := part.section; within == inSubjectProperties || within == inActionProperties {
			o.make(places[within].parent)
		} else if within != inAPI {
			o.make(within)
		}
	}
	if token != nil {
		claims, err := ast.InterfaceToValue(token)
		if err != nil {
			return nil, policy.Fail(config.EvaluationError, "the token's claims have a value of a kind that Rego cannot be given")
		}
		o.insert(inInput, keyToken, ast.NewTerm(claims))
	}
	return o.join(), nil
}

// put puts a claim at its path. The objects on the way are its own.
func put(object map[string]any, path Path, claim any) map[string]any {
	if object == nil {
		object = map[string]any{}
	}
	if len(path) == 1 {
		object[path[0]] = claim
		return object
	}
	below, _ := object[path[0]].(map[string]any)
	object[path[0]] = put(below, path[1:], claim)
	return object
}

// unreadable returns why no input can be made of a request: a value that has no form in Rego, whether a program reads it or not. Left
// out, it could not be denied.
func unreadable(r *policy.Request) *policy.Failure {
	for _, property := range subject(r).Properties {
		if !presentable(property.Value) {
			return policy.Fail(config.EvaluationError, "a property of the subject has a value of a kind that Rego cannot be given (%s)", property.Value.Kind())
		}
	}
	for _, property := range action(r).Properties {
		if !presentable(property.Value) {
			return policy.Fail(config.EvaluationError, "a property of the action has a value of a kind that Rego cannot be given (%s)", property.Value.Kind())
		}
	}
	if v := r.Value; v != nil && !presentable(*v) {
		return policy.Fail(config.EvaluationError, "the value is of a kind that Rego cannot be given (%s)", v.Kind())
	}
	if v := api(r).Time; v != nil && !presentable(*v) {
		return policy.Fail(config.EvaluationError, "the timestamp of the API call cannot be read")
	}
	return nil
}

// presentable reports whether a value has a form in Rego. Of numbers, NaN and the infinities have none.
func presentable(v attribute.Value) bool {
	return v.Kind() != attribute.Unknown && (v.Kind() != attribute.Double || !math.IsNaN(v.Double()) && !math.IsInf(v.Double(), 0))
}

// text makes a Rego string. Header values may hold any bytes; Rego strings are UTF-8, and every other byte becomes U+FFFD.
func text(s string) *ast.Term {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return ast.StringTerm(s)
}

// inputForm says how values look in the input.
type inputForm struct {
	// rawIP gives addresses as Mixer's opa adapter does, as the base64 of their bytes, and not as text.
	rawIP bool
}

// term returns the Rego form of a presentable value as Mixer's opa adapter has it: times as RFC 3339, durations as nanoseconds.
func (f inputForm) term(v attribute.Value) *ast.Term {
	switch v.Kind() {
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		s, _ := v.Text()
		return text(s)
	case attribute.Int64:
		return integer(v.Int64())
	case attribute.Double:
		// JSON's form, which is also what policies see of a number as text.
		number, _ := json.Marshal(v.Double()) //nolint:errchkjson // presentable numbers have one
		return ast.NewTerm(ast.Number(json.Number(number)))
	case attribute.Bool:
		return ast.BooleanTerm(v.Bool())
	case attribute.IP:
		if f.rawIP {
			return ast.StringTerm(base64.StdEncoding.EncodeToString(v.IP()))
		}
		return ast.StringTerm(v.IP().String())
	case attribute.Timestamp:
		return ast.StringTerm(v.Time().Format(time.RFC3339Nano))
	case attribute.Duration:
		return integer(v.Duration().Nanoseconds())
	case attribute.Unknown:
	}
	return ast.NullTerm()
}

func integer(v int64) *ast.Term {
	return ast.NewTerm(ast.Number(json.Number(strconv.FormatInt(v, 10))))
}
