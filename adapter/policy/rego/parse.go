package rego

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/config"
)

// parse reads modules that are given inline.
func parse(sources []string, version ast.RegoVersion, environment *Environment) (map[string]*ast.Module, config.Problems) {
	modules := make(map[string]*ast.Module, len(sources))
	var problems config.Problems
	for i, source := range sources {
		name := fmt.Sprintf("policy[%d]", i)
		module, found := parseModule(name, source, version, environment)
		modules[name] = module
		problems = append(problems, found...)
	}
	return modules, problems
}

// parseModule reads one module. The name stands for it in problems.
func parseModule(name, source string, version ast.RegoVersion, environment *Environment) (*ast.Module, config.Problems) {
	problem := func(format string, args ...any) config.Problems {
		return config.Problems{{Field: name, Text: fmt.Sprintf(format, args...)}}
	}
	if strings.Count(source, `$"`)+strings.Count(source, "$`") > maxTemplates {
		return nil, problem("has more than %d template strings, and the parser takes memory for each beyond measure; use sprintf or split the module", maxTemplates)
	}
	module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: version, Capabilities: environment.capabilities})
	switch {
	case err != nil:
		return nil, describe(name, err)
	case module == nil:
		return nil, problem("has no package; write a Rego module")
	case nesting(module) > maxNesting:
		return nil, problem("nests comprehensions or template strings more than %d deep, and each level takes the compiler twice as long; split them into rules", maxNesting)
	}
	return module, environment.checkRequests(name, module)
}

// maxTemplates bounds what starts a template string. Some hundred thousand of them in a megabyte end the process in OPA's parser.
const maxTemplates = 1000

// maxNesting is far beyond what policies need and takes milliseconds to compile. Twice as much takes minutes, in which no other
// handler could be compiled.
const maxNesting = 8

// nesting returns how deep a node nests comprehensions and template strings below itself.
func nesting(node any) int {
	deepest := 0
	ast.NewGenericVisitor(func(x any) bool {
		switch x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.TemplateString:
			if x != node {
				deepest = max(deepest, 1+nesting(x))
				return true
			}
		}
		return false
	}).Walk(node)
	return deepest
}

// method is a ground reference below data. OPA's own parser would take more, and leave out what it does not need: a `with`, say.
var method = regexp.MustCompile("^\\s*data(?:\\.[A-Za-z_][A-Za-z0-9_]*|\\[(?:\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|[0-9]+)\\])+\\s*$")

func decisionRef(text string) (ast.Ref, error) {
	if method.MatchString(text) {
		if ref, err := ast.ParseRef(text); err == nil && ref.HasPrefix(ast.DefaultRootRef) && ref.IsGround() {
			return ref, nil
		}
	}
	return nil, fmt.Errorf("%q is no reference to a rule; write data.<package>.<rule>, such as data.mixerauthz.allow", text)
}

// namesPackage reports whether the reference ends at a package or above it. Such a document has all rules of the package as its
// members, and would be read as a result object if one of them is called allow.
func namesPackage(ref ast.Ref, compiler *ast.Compiler) bool {
	for _, module := range compiler.Modules {
		if module.Package.Path.HasPrefix(ref) {
			return true
		}
	}
	return false
}
