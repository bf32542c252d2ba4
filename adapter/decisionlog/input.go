package decisionlog

import (
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/config"
)

// Input returns what the record of a decision says that was decided on: JSON in the shape of Rego's input, without what the handler
// drops, and with a mask over what it masks and over credentials. Of the decision it has whose API key was accepted, and how much of a
// quota was granted. Only records, and who may see those, get to see it.
func Input(handler *config.Handler, request *policy.Request, decision *policy.Decision) string {
	h := hider{handler}
	document := map[string]any{}
	if s := request.Subject; s != nil {
		subject := map[string]any{}
		h.field(subject, "user", "subject.user", s.User)
		h.field(subject, "groups", "subject.groups", s.Groups)
		h.properties(subject, "properties", s.Properties, false)
		document["subject"] = subject
	}
	if a := request.Action; a != nil {
		action := map[string]any{}
		h.field(action, "namespace", "action.namespace", a.Namespace)
		h.field(action, "service", "action.service", a.Service)
		h.field(action, "method", "action.method", a.Method)
		h.field(action, "path", "action.path", a.Path)
		h.properties(action, "properties", a.Properties, true)
		document["action"] = action
	}
	if v := request.Value; v != nil {
		h.value(document, "value", "value", *v)
	}
	if a := request.API; a != nil {
		api := map[string]any{}
		h.field(api, "name", "api.name", a.Name)
		h.field(api, "version", "api.version", a.Version)
		h.field(api, "operation", "api.operation", a.Operation)
		if a.Key != "" && !matches(h.handler.DecisionLog.Drop, "api.key") {
			api["key"] = record.Masked
		}
		if a.Time != nil {
			h.value(api, "timestamp", "api.timestamp", *a.Time)
		}
		document["api"] = api
	}
	if q := request.Quota; q != nil {
		quota := map[string]any{"amount": q.Amount, "best_effort": q.BestEffort, "granted": decision.Granted}
		h.properties(quota, "dimensions", q.Dimensions, false)
		document["quota"] = quota
	}
	h.field(document, "key", "key", decision.Identity)
	encoded, err := json.Marshal(document)
	if err != nil { // there is no value in it that JSON does not know
		return ""
	}
	return string(encoded)
}

// hider says which parts of the input may be seen.
type hider struct{ handler *config.Handler }

func (h hider) field(into map[string]any, key, path, value string) {
	switch {
	case value == "", matches(h.handler.DecisionLog.Drop, path):
	case matches(h.handler.DecisionLog.Mask, path):
		into[key] = record.Masked
	default:
		into[key] = value
	}
}

func (h hider) value(into map[string]any, key, path string, v attribute.Value) {
	switch {
	case matches(h.handler.DecisionLog.Drop, path):
	case matches(h.handler.DecisionLog.Mask, path):
		into[key] = record.Masked
	default:
		into[key] = value(v)
	}
}

func (h hider) properties(into map[string]any, key string, properties attribute.Map, action bool) {
	if len(properties) == 0 {
		return
	}
	shown := make(map[string]any, len(properties))
	for _, p := range properties {
		switch {
		case matches(h.handler.DecisionLog.Drop, p.Name):
		case h.credential(p.Name, action), matches(h.handler.DecisionLog.Mask, p.Name):
			shown[p.Name] = record.Masked
		default:
			shown[p.Name] = value(p.Value)
		}
	}
	into[key] = shown
}

// credential reports whether a property is one that a check compares, a candidate's included, or is called as HTTP calls credentials.
func (h hider) credential(name string, action bool) bool {
	if compares(h.handler, name, action) || h.handler.Shadow != nil && compares(h.handler.Shadow.Candidate, name, action) {
		return true
	}
	for _, header := range []string{"authorization", "proxy-authorization", "cookie", "set-cookie"} {
		if strings.EqualFold(name, header) {
			return true
		}
	}
	return false
}

func compares(handler *config.Handler, name string, action bool) bool {
	for i := range handler.Headers {
		if p := handler.Headers[i].Property; p.Name == name && p.Action == action {
			return true
		}
	}
	for i := range handler.JWT {
		if p := handler.JWT[i].Property; p.Name == name && p.Action == action {
			return true
		}
	}
	for i := range handler.Basic {
		if p := handler.Basic[i].Property; p.Name == name && p.Action == action {
			return true
		}
	}
	for i := range handler.APIKeys {
		if p := handler.APIKeys[i].Property; p.Name == name && p.Action == action {
			return true
		}
	}
	return false
}

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		prefix, wild := strings.CutSuffix(pattern, "*")
		if pattern == name || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// value returns a value as docs/records.md has it.
func value(v attribute.Value) any {
	switch v.Kind() {
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := v.Text()
		return text
	case attribute.Int64:
		return v.Int64()
	case attribute.Double:
		switch d := v.Double(); {
		case math.IsNaN(d):
			return "NaN"
		case math.IsInf(d, 1):
			return "+Inf"
		case math.IsInf(d, -1):
			return "-Inf"
		default:
			return d
		}
	case attribute.Bool:
		return v.Bool()
	case attribute.IP:
		return v.Addr().String()
	case attribute.Timestamp:
		return v.Time().Format(time.RFC3339Nano)
	case attribute.Duration:
		return v.Duration().Seconds()
	case attribute.Unknown:
	}
	return nil
}
