package rego

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/tollgate-mesh/tollgate/config"
)

// packages names the policy's packages, as many as fit into a message.
func packages(compiler *ast.Compiler) string {
	names := make([]string, 0, len(compiler.Modules))
	for _, module := range compiler.Modules {
		names = append(names, literals.ReplaceAllString(strings.TrimPrefix(module.Package.String(), "package "), `"…"`))
	}
	slices.Sort(names)
	return shorten(strings.Join(slices.Compact(names), ", "), maxMessage)
}

// label makes a reference fit for a check's name.
func label(decision ast.Ref) string {
	const most = 48
	return shorten(strings.TrimPrefix(decision.String(), "data."), most)
}

// shorten cuts a text at a character's boundary.
func shorten(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// maxMessage bounds what is shown of one of OPA's messages: it may hold a name as long as the policy.
const maxMessage = 256

// A policy may hold a credential, and messages go to logs. String constants stand in OPA's messages as literals, and in
// references also without quotes: tokens["abc"] is shown as data.p.tokens.abc.
var (
	literals   = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"?|`[^`]*`?")
	references = regexp.MustCompile(`(?:[A-Za-z_]\w*[.\[]|[\])}]\.)\S*`)
)

// redact takes the policy's string constants out of one of OPA's messages.
func redact(message string) string {
	message = literals.ReplaceAllStringFunc(strings.Join(strings.Fields(message), " "), func(literal string) string {
		if ast.IsKeyword(strings.Trim(literal, "`")) { // as in: `if` keyword is required
			return literal
		}
		return `"…"`
	})
	message = references.ReplaceAllStringFunc(message, func(ref string) string {
		name := strings.TrimRight(ref, ".,:;")
		if _, builtin := ast.BuiltinMap[name]; builtin || name == "e.g" {
			return ref
		}
		head, _, _ := strings.Cut(strings.ReplaceAll(ref, "[", "."), ".")
		return head + ".…"
	})
	return shorten(message, maxMessage)
}

// describe turns OPA's errors into problems: code, place and message, without the source line that OPA would show.
func describe(field string, err error) config.Problems {
	var list ast.Errors
	if !errors.As(err, &list) {
		var single *ast.Error
		if !errors.As(err, &single) {
			return config.Problems{{Field: field, Text: "does not parse; check it with `opa check`"}}
		}
		list = ast.Errors{single}
	}
	problems := make(config.Problems, 0, len(list))
	for _, e := range list {
		place := field
		if e.Location != nil && e.Location.File != "" {
			place = fmt.Sprintf("%s:%d:%d", e.Location.File, e.Location.Row, e.Location.Col)
		}
		problems = append(problems, config.Problem{
			Field: place,
			Text:  e.Code + ": " + redact(e.Message) + whyUndefined(e.Message),
		})
	}
	return problems
}

// whyUndefined says of a built-in of OPA's why it is undefined here; nothing of what OPA does not have either.
func whyUndefined(message string) string {
	name, undefined := strings.CutPrefix(message, "undefined function ")
	switch _, builtin := ast.BuiltinMap[name]; {
	case !undefined || !builtin:
		return ""
	case name == ast.HTTPSend.Name || name == ast.NetLookupIPAddr.Name:
		return ", which wants the setting rego.allow_hosts"
	default:
		return ", which is not available here; see docs/rego.md"
	}
}

// DescribeErrors makes one error of several of OPA's, such as those of a bundle, and leaves out what a policy says.
func DescribeErrors(errs []error) error {
	var problems config.Problems
	for _, err := range errs {
		problems = append(problems, describe("policy", err)...)
	}
	return problems
}

// errorCode names an evaluation error by code and place; its message may show values of the request.
func errorCode(err error) string {
	var e *topdown.Error
	if !errors.As(err, &e) {
		return fmt.Sprintf("%T", err)
	}
	if e.Location == nil {
		return e.Code
	}
	return fmt.Sprintf("%s at %s:%d", e.Code, e.Location.File, e.Location.Row)
}
