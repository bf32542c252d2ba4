package rego

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/tollgate-mesh/tollgate/config"
)

// Inspection is what can be told of a policy before it decides.
type Inspection struct {
	// Decision is the rule that decides.
	Decision string `json:"decision"`
	Analysis
	// Remembered is whether answers are remembered, Partial whether the policy is evaluated partially when it is loaded.
	Remembered bool `json:"remembered"`
	Partial    bool `json:"partial"`
}

// Inspect analyses the policy that the modules, by their names, and the data make for the rule that decides, where it may use
// what the environment has.
func Inspect(environment *Environment, modules map[string]string, data map[string]any, decision string, language config.RegoVersion) (*Inspection, config.Problems) {
	opaVersion := version(language)
	parsed := make(map[string]*ast.Module, len(modules))
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		module, err := ast.ParseModuleWithOpts(name, modules[name], ast.ParserOptions{RegoVersion: opaVersion, Capabilities: environment.capabilities})
		if err != nil {
			problems = append(problems, describe(name, err)...)
			continue
		}
		parsed[name] = module
	}
	ref, err := decisionRef(decision)
	if err != nil {
		problems = append(problems, config.Problem{Field: "check_method", Text: err.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	l, problems := newLibrary(parsed, opaVersion, environment)
	if len(problems) > 0 {
		return nil, problems
	}
	l.store = inmem.NewFromObject(data)
	p, problems := newProgram(l, ref)
	if len(problems) > 0 {
		return nil, problems
	}
	return &Inspection{Decision: ref.String(), Analysis: *p.analysis, Remembered: p.analysis.Rememberable(), Partial: p.residual != nil}, nil
}
