//go:build faultinjection

package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// FAULT INJECTION, for tests only: nothing of this file is in a binary that was built without the tag.
//
// The built-in faultinjection.panic panics with its argument, so that a test can see what a policy engine's bug does to
// the process and to the request. OPA has no such built-in, so any other binary refuses a policy that names it.
var _ = registerPanic("faultinjection.panic")

func registerPanic(name string) *ast.Builtin {
	builtin := &ast.Builtin{Name: name, Decl: types.NewFunction(types.Args(types.S), types.B)}
	ast.RegisterBuiltin(builtin)
	topdown.RegisterBuiltinFunc(name, func(_ topdown.BuiltinContext, operands []*ast.Term, _ func(*ast.Term) error) error {
		panic(operands[0].Value)
	})
	return builtin
}
