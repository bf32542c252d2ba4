package rego

import (
	"encoding/base64"
	"encoding/json"
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

// inputForm says how values look in the input.
type inputForm struct {
	// rawIP gives addresses as Mixer's opa adapter does, as the base64 of their bytes, and not as text.
	rawIP bool
}

// of makes the input document: that of Mixer's opa adapter (istio.io/istio 1.7.8, mixer/adapter/opa), and beside it what the other
// templates carry, whose API key was accepted, and the claims of a verified token. Subject and action are always there, if only as empty
// objects. It fails on a value that has no form in Rego: left out, it could not be denied.
func (f inputForm) of(request *policy.Request) (ast.Value, *policy.Failure) {
	subject, action := ast.NewObject(), ast.NewObject()
	if s := request.Subject; s != nil {
		insertText(subject, keyUser, s.User)
		if s.Groups != "" {
			subject.Insert(keyGroups, ast.ArrayTerm(text(s.Groups)))
		}
		if failure := f.insertProperties(subject, "subject", s.Properties); failure != nil {
			return nil, failure
		}
	}
	if a := request.Action; a != nil {
		insertText(action, keyNamespace, a.Namespace)
		insertText(action, keyService, a.Service)
		insertText(action, keyMethod, a.Method)
		insertText(action, keyPath, a.Path)
		if failure := f.insertProperties(action, "action", a.Properties); failure != nil {
			return nil, failure
		}
	}
	input := ast.NewObject(
		[2]*ast.Term{keyAction, ast.NewTerm(action)},
		[2]*ast.Term{keySubject, ast.NewTerm(subject)},
	)
	if request.Claims != nil {
		token, err := ast.InterfaceToValue(request.Claims)
		if err != nil {
			return nil, policy.Fail(config.EvaluationError, "the token's claims have a value of a kind that Rego cannot be given")
		}
		input.Insert(keyToken, ast.NewTerm(token))
	}
	if v := request.Value; v != nil {
		term := f.term(*v)
		if term == nil {
			return nil, policy.Fail(config.EvaluationError, "the value is of a kind that Rego cannot be given (%s)", v.Kind())
		}
		input.Insert(keyValue, term)
	}
	if request.API != nil {
		api, failure := f.api(request.API)
		if failure != nil {
			return nil, failure
		}
		input.Insert(keyAPI, ast.NewTerm(api))
	}
	insertText(input, keyKey, request.Identity)
	return input, nil
}

func (f inputForm) api(a *policy.API) (ast.Object, *policy.Failure) {
	api := ast.NewObject()
	insertText(api, keyName, a.Name)
	insertText(api, keyVersion, a.Version)
	insertText(api, keyOperation, a.Operation)
	insertText(api, keyKey, a.Key)
	if a.Time != nil {
		term := f.term(*a.Time)
		if term == nil {
			return nil, policy.Fail(config.EvaluationError, "the timestamp of the API call cannot be read")
		}
		api.Insert(keyTimestamp, term)
	}
	return api, nil
}

func insertText(object ast.Object, key *ast.Term, value string) {
	if value != "" {
		object.Insert(key, text(value))
	}
}

// text makes a Rego string. Header values may hold any bytes; Rego strings are UTF-8, and every other byte becomes U+FFFD.
func text(s string) *ast.Term {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return ast.StringTerm(s)
}

func (f inputForm) insertProperties(parent ast.Object, owner string, properties attribute.Map) *policy.Failure {
	if len(properties) == 0 {
		return nil
	}
	object := ast.NewObject()
	for _, p := range properties {
		term := f.term(p.Value)
		if term == nil {
			return policy.Fail(config.EvaluationError, "a property of the %s has a value of a kind that Rego cannot be given (%s)", owner, p.Value.Kind())
		}
		object.Insert(text(p.Name), term)
	}
	parent.Insert(keyProperties, ast.NewTerm(object))
	return nil
}

// term returns the Rego form of a value as Mixer's opa adapter has it: times as RFC 3339, durations as nanoseconds. It is nil
// where there is none.
func (f inputForm) term(v attribute.Value) *ast.Term {
	switch v.Kind() {
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		s, _ := v.Text()
		return text(s)
	case attribute.Int64:
		return integer(v.Int64())
	case attribute.Double:
		// JSON's form, which is also what policies see of a number as text. NaN and the infinities have none.
		number, err := json.Marshal(v.Double())
		if err != nil {
			return nil
		}
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
	return nil
}

func integer(v int64) *ast.Term {
	return ast.NewTerm(ast.Number(json.Number(strconv.FormatInt(v, 10))))
}
