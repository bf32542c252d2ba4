package rego

// Inspection is what can be told of a policy before it decides.
type Inspection struct {
	// Decision is the rule that decides.
	Decision string `json:"decision"`
	Analysis
	// Remembered is whether answers are remembered, Partial whether the policy is evaluated partially when it is loaded.
	Remembered bool `json:"remembered"`
	Partial    bool `json:"partial"`
}

// Inspect analyses a policy for the rule that decides, as a source in the environment would compile it.
func Inspect(content Content, decision string, environment *Environment) (*Inspection, error) {
	ref, err := decisionRef(decision)
	if err != nil {
		return nil, err
	}
	l, err := compile(content, environment)
	if err != nil {
		return nil, err
	}
	p, problems := newProgram(l, ref)
	if len(problems) > 0 {
		return nil, problems
	}
	return &Inspection{Decision: ref.String(), Analysis: *p.analysis, Remembered: p.analysis.Rememberable(), Partial: p.residual != nil}, nil
}
