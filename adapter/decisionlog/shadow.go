package decisionlog

import (
	"encoding/json"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/config"
)

// finding is what one check said, as docs/records.md has it.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
	Class  string `json:"class,omitempty"`
}

func findings(found []policy.Finding) []finding {
	list := make([]finding, 0, len(found))
	for _, f := range found {
		list = append(list, finding{Check: f.Check, Result: f.Result.String(), Reason: f.Reason, Class: class(f.Failure)})
	}
	return list
}

// checks returns the JSON of what each check said; empty for none.
func checks(found []policy.Finding) string {
	if len(found) == 0 {
		return ""
	}
	return encoded(findings(found))
}

// candidate is what a candidate would have answered, as docs/records.md has it.
type candidate struct {
	Divergence string    `json:"divergence"`
	Outcome    string    `json:"outcome"`
	Code       string    `json:"code"`
	Check      string    `json:"check,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Class      string    `json:"class,omitempty"`
	Revision   string    `json:"revision"`
	Latency    float64   `json:"latency_seconds"`
	Checks     []finding `json:"checks,omitempty"`
}

// RecordShadow takes a candidate's decision that differs from the one that counted, if the handler wants anything recorded. It never
// waits. Where the decision that counted has a record, this one names the same decision.
func (l *Log) RecordShadow(c *policy.Comparison) {
	if c.Divergence == policy.Agrees || c.Handler.DecisionLog.Record == config.RecordNone {
		return
	}
	l.keep(c.Caller, c.Handler, func() *record.Decision {
		id := c.Decided.ID
		if id == "" {
			id = newID()
		}
		r := newRecord(id, c.Handler, c.Request, &c.Decided, c.DecidedIn)
		d := &c.Candidate
		r.Shadow = encoded(candidate{
			Divergence: c.Divergence.String(), Outcome: d.Outcome(), Code: d.Code.String(), Check: d.Check, Reason: d.Reason, Class: class(d.Failure),
			Revision: d.Revision, Latency: c.CandidateIn.Seconds(), Checks: findings(d.Findings),
		})
		return r
	})
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil { // there is nothing in it that JSON does not know
		return ""
	}
	return string(text)
}
