package adapter

import (
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/config"
)

// observers are told what the door does.
type observers struct {
	*observe.Observer
	activity *activity.Activity
}

// Compiled is told of every handler configuration that was compiled.
func (o observers) Compiled(p *policy.Policy, elapsed time.Duration) {
	o.Observer.Compiled(p, elapsed)
	o.activity.Compiled(p)
}

// Planned is told of every handler configuration that reports came with.
func (o observers) Planned(plan *report.Plan) {
	o.Observer.Planned(plan)
	o.activity.Planned(plan)
}

// Reported is told of every report call.
func (o observers) Reported(r report.Reported) {
	o.Observer.Reported(r)
	o.activity.Reported(&r)
}

// recorders take decisions: those that are recorded first, since the others show under which id.
type recorders struct {
	log      *decisionlog.Log
	activity *activity.Activity
}

// Record takes a decision and returns the id under which it is kept.
func (r recorders) Record(caller string, handler *config.Handler, request *policy.Request, d policy.Decision, elapsed time.Duration) (id string) {
	id = r.log.Record(caller, handler, request, d, elapsed)
	r.activity.Decided(id, caller, handler, request, &d, elapsed)
	return id
}
