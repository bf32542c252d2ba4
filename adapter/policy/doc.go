// Package policy decides: a [Request] goes in, a [Decision] comes out, and nothing about the wire is known here.
//
// A [Policy] is compiled once from a validated handler configuration by a [Compiler], which asks every [Kind] of check for
// the checks that the configuration names. At a request every check gives a [Verdict]; how verdicts become a decision is one
// pure function, and so is what a failure becomes.
package policy
