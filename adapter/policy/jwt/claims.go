package jwt

import (
	"encoding/json"
	"regexp"
	"slices"

	"github.com/tollgate-mesh/tollgate/config"
)

// rule is a compiled [config.ClaimRule].
type rule struct {
	config.ClaimRule
	pattern *regexp.Regexp
}

func compileRules(configured []config.ClaimRule) ([]rule, error) {
	var patterns config.Patterns
	rules := make([]rule, 0, len(configured))
	for _, c := range configured {
		r := rule{ClaimRule: c}
		if c.Pattern != "" {
			if err := patterns.Add(c.Pattern); err != nil {
				return nil, err
			}
			r.pattern = patterns.Compiled[len(patterns.Compiled)-1]
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// holds reports whether the claim is there and as it must be.
func (r *rule) holds(claims map[string]any) bool {
	value, ok := lookUp(claims, r.Path)
	if !ok {
		return false
	}
	if r.Contains != "" {
		elements, _ := value.([]any)
		return slices.ContainsFunc(elements, func(element any) bool {
			text, ok := scalar(element)
			return ok && text == r.Contains
		})
	}
	text, ok := scalar(value)
	switch {
	case !ok:
		return false
	case r.pattern != nil:
		return r.pattern.MatchString(text)
	default:
		return slices.Contains(r.Values, text)
	}
}

func lookUp(object map[string]any, path []string) (any, bool) {
	for _, step := range path[:len(path)-1] {
		inner, ok := object[step].(map[string]any)
		if !ok {
			return nil, false
		}
		object = inner
	}
	value, ok := object[path[len(path)-1]]
	return value, ok
}

// scalar returns the text of a string, a number or a bool.
func scalar(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case json.Number:
		return value.String(), true
	case bool:
		if value {
			return "true", true
		}
		return "false", true
	default:
		return "", false
	}
}
