package policy

import (
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// standing ranks what a verdict means under the modes in force.
type standing uint8

const (
	denied standing = iota
	failedClosed
	failedOpen
	passed
	standings
)

// Under all, whatever stops the request wins, and a denial is a better answer than a failure. Under any, whatever lets it
// pass wins; an open failure wins over a denial, flagged and single-use; and a closed failure wins over a denial, because the
// check that failed might have let the request pass.
var precedence = map[config.Require][standings]uint8{
	config.All: {denied: 3, failedClosed: 2, failedOpen: 1, passed: 0},
	config.Any: {denied: 0, failedClosed: 1, failedOpen: 2, passed: 3},
}

// combination folds verdicts into a decision. The outcome does not depend on the verdicts' order. Which of several equal ones
// the answer names does, and so does the lifetime where one verdict was enough: the first counts, and those after it are not
// asked.
type combination struct {
	handler *config.Handler
	// checks is how many could be asked. The first finding stands alone: most policies ask one check and need no slice.
	checks   int
	first    Finding
	findings []Finding
	rank     [standings]uint8
	seen     bool
	standing standing
	check    string
	verdict  Verdict
	lifetime config.Lifetime
	// revision is that of the first policy from a source that was evaluated.
	revision string
}

func newCombination(handler *config.Handler, checks int) combination {
	rank, ok := precedence[handler.Require]
	if !ok {
		// All is the stricter, whatever was meant.
		rank = precedence[config.All]
	}
	return combination{handler: handler, checks: checks, rank: rank}
}

func (c *combination) standingOf(v Verdict) standing {
	switch v.Result {
	case Passed:
		return passed
	case Denied:
		return denied
	case Failed:
	}
	if v.Failure != nil && c.handler.Modes.Of(v.Failure.Class) == config.Open {
		return failedOpen
	}
	return failedClosed
}

// add takes in a verdict and reports whether nothing that could follow would change the outcome.
func (c *combination) add(check string, v Verdict) (decided bool) {
	if v.Result != Passed && v.Result != Denied && v.Failure == nil {
		v = Failing(Fail(config.EvaluationError, "check %s gave no verdict", check))
	}
	if c.revision == "" {
		c.revision = v.Revision
	}
	if v.Name != "" {
		check = v.Name
	}
	c.note(check, v)
	s := c.standingOf(v)
	switch {
	case !c.seen || c.rank[s] > c.rank[c.standing]:
		c.seen, c.standing, c.check, c.verdict, c.lifetime = true, s, check, v, v.Lifetime
	case s == c.standing:
		c.lifetime = tighter(c.lifetime, v.Lifetime)
	}
	return c.rank[c.standing] == uint8(standings-1)
}

// age takes the time that passed off what the verdicts so far say of the answer's reuse: a token that one of them saw ends no later
// because another took long.
func (c *combination) age(passed time.Duration) { c.lifetime = aged(c.lifetime, passed) }

// note keeps what a check said.
func (c *combination) note(check string, v Verdict) {
	found := Finding{Check: check, Result: v.Result, Reason: v.Reason, Failure: v.Failure}
	if v.Failure != nil {
		found.Reason = v.Failure.Class.String()
	}
	switch {
	case !c.seen:
		c.first = found
	case c.findings == nil:
		c.findings = append(make([]Finding, 0, c.checks), c.first, found)
	default:
		c.findings = append(c.findings, found)
	}
}

// decision is what the verdicts come to.
func (c *combination) decision() Decision {
	if !c.seen {
		return Fail(config.ConfigurationFailure, "no check is configured").Resolve(c.handler.Modes)
	}
	var d Decision
	switch c.standing {
	case passed:
		d = Decision{Code: config.OK, Granted: c.verdict.Granted, Reason: c.verdict.Reason, Lifetime: ofAllow(c.handler, c.lifetime)}
	case denied:
		denial := &c.handler.Denial
		if c.verdict.Denial != nil {
			denial = c.verdict.Denial
		}
		d = Decision{
			Code: denialCode(denial.Code), Message: denial.Message, HTTP: denial.HTTP, Reason: c.verdict.Reason,
			Lifetime: ofDenial(c.handler, c.lifetime),
		}
	case failedOpen, failedClosed, standings:
		d = c.verdict.Failure.Resolve(c.handler.Modes)
	}
	d.Check, d.Cached, d.Findings = c.check, c.verdict.Remembered, c.findings
	return d
}

// denialCode keeps a denial from going out under a code that lets the request pass, as OK does and INTERNAL may, or that says
// that nothing was decided.
func denialCode(code config.Code) config.Code {
	switch code {
	case config.InvalidArgument, config.NotFound, config.PermissionDenied, config.ResourceExhausted, config.FailedPrecondition, config.Unauthenticated:
		return code
	case config.OK, config.Unavailable:
	}
	return config.PermissionDenied
}
