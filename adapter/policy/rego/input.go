package rego

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

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
)

// inputOf makes the input document: that of Mixer's opa adapter (istio.io/istio 1.7.8, mixer/adapter/opa). Subject and action
// are always there, if only as empty objects. It fails on a value that has no form in Rego: left out, it could not be denied.
func inputOf(request *policy.Request) (ast.Value, *policy.Failure) {
	subject, action := ast.NewObject(), ast.NewObject()
	if s := request.Subject; s != nil {
		insertText(subject, keyUser, s.User)
		if s.Groups != "" {
			subject.Insert(keyGroups, ast.ArrayTerm(text(s.Groups)))
		}
		if failure := insertProperties(subject, "subject", s.Properties); failure != nil {
			return nil, failure
		}
	}
	if a := request.Action; a != nil {
		insertText(action, keyNamespace, a.Namespace)
		insertText(action, keyService, a.Service)
		insertText(action, keyMethod, a.Method)
		insertText(action, keyPath, a.Path)
		if failure := insertProperties(action, "action", a.Properties); failure != nil {
			return nil, failure
		}
	}
	return ast.NewObject(
		[2]*ast.Term{keyAction, ast.NewTerm(action)},
		[2]*ast.Term{keySubject, ast.NewTerm(subject)},
	), nil
}

func insertText(object ast.Object, key *ast.Term, value string) {
	if value != "" {
		object.Insert(key, text(value))
	}
}

// text makes a Rego string. Header values may hold any bytes; Rego strings are UTF-8.
func text(s string) *ast.Term { return ast.StringTerm(strings.ToValidUTF8(s, "\uFFFD")) }

func insertProperties(parent ast.Object, owner string, properties policy.Properties) *policy.Failure {
	if len(properties) == 0 {
		return nil
	}
	object := ast.NewObject()
	for _, p := range properties {
		term := term(p.Value)
		if term == nil {
			return policy.Fail(config.EvaluationError, "a property of the %s has a value of a kind that Rego cannot be given (%s)", owner, p.Value.Kind())
		}
		object.Insert(text(p.Name), term)
	}
	parent.Insert(keyProperties, ast.NewTerm(object))
	return nil
}

// term returns the Rego form of a value as Mixer's opa adapter has it: times as RFC 3339, durations as nanoseconds, addresses
// as text. It is nil where there is none.
func term(v policy.Value) *ast.Term {
	switch v.Kind() {
	case policy.StringValue, policy.EmailValue, policy.DNSNameValue, policy.URIValue:
		s, _ := v.Text()
		return text(s)
	case policy.Int64Value:
		return integer(v.Int64())
	case policy.DoubleValue:
		if math.IsNaN(v.Double()) || math.IsInf(v.Double(), 0) {
			return nil
		}
		return ast.NewTerm(ast.Number(json.Number(strconv.FormatFloat(v.Double(), 'g', -1, 64))))
	case policy.BoolValue:
		return ast.BooleanTerm(v.Bool())
	case policy.IPValue:
		return ast.StringTerm(v.IP())
	case policy.TimestampValue:
		return ast.StringTerm(v.Time().Format(time.RFC3339Nano))
	case policy.DurationValue:
		return integer(v.Duration().Nanoseconds())
	case policy.UnknownValue:
	}
	return nil
}

func integer(v int64) *ast.Term {
	return ast.NewTerm(ast.Number(json.Number(strconv.FormatInt(v, 10))))
}
