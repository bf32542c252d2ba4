package mixer

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
	"github.com/tollgate-mesh/tollgate/config"
)

// Acceptor takes report calls.
type Acceptor interface {
	// Accept returns when the call is kept. An error means that it is refused as a whole.
	Accept(ctx context.Context, call *report.Call) error
}

// reportTemplate is a template whose calls hand over instances to keep.
type reportTemplate struct {
	service, method string
	kind            record.Kind
}

var reportTemplates = []reportTemplate{
	{"logentry.HandleLogEntryService", "HandleLogEntry", record.KindLogEntry},
	{"metric.HandleMetricService", "HandleMetric", record.KindMetric},
	{"tracespan.HandleTraceSpanService", "HandleTraceSpan", record.KindTraceSpan},
	{"edge.HandleEdgeService", "HandleEdge", record.KindEdge},
	{"reportnothing.HandleReportNothingService", "HandleReportNothing", record.KindNothing},
}

// maxInstances bounds the instances of one call: empty ones take two bytes on the wire and far more here. Mixer sends what one
// Report call of a proxy brings, some hundreds.
const maxInstances = 1 << 17

// reportCall is a report template's request, with its instances in wire form.
type reportCall struct {
	typeURL, params string
	instances       []string
}

// decodeReport reads what all report templates' requests have in common.
func decodeReport(message string) (c reportCall, err error) {
	var handler call
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			if len(c.instances) == maxInstances {
				return reportCall{}, fmt.Errorf("has more than %d instances", maxInstances)
			}
			c.instances = append(c.instances, r.Text(typ))
		case 2:
			r.Fail(decodeAny(r.Text(typ), &handler))
		case 3:
			r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	c.typeURL, c.params = handler.typeURL, handler.params
	return c, r.Err()
}

// report answers one report call: with an error where it is refused.
func (d *Door) report(ctx context.Context, t reportTemplate, text string) (*v1beta1.ReportResult, error) {
	return d.keep(ctx, t, text, func() {})
}

// keep answers one report call. It calls worked when all that is left is to wait: for room, and for disks.
func (d *Door) keep(ctx context.Context, t reportTemplate, text string, worked func()) (result *v1beta1.ReportResult, err error) {
	outcome := report.Reported{Handler: "unknown", Kind: t.kind}
	start := time.Now()
	defer func() {
		if r := recover(); r != nil {
			outcome.Refused = report.Refuse("panic", fmt.Errorf("accepting %s: %T\n%s", t.service, r, debug.Stack()))
			result, err = nil, status.Error(codes.Unavailable, "the report could not be accepted")
		}
		defer func() { _ = recover() }() // nobody else would stop an observer's panic
		d.observer.Reported(outcome)
		if d.tracer != nil {
			d.tracer.Reported(ctx, start, t.service, t.method, outcome)
		}
	}()
	request, err := decodeReport(text)
	if err != nil {
		outcome.Refused = report.Refuse("malformed", err)
		return nil, status.Errorf(codes.InvalidArgument, "%s: %v", t.service, err)
	}
	outcome.Instances = len(request.instances)
	plan := d.plans.get(&request)
	outcome.Handler = plan.Handler()
	call, left := plan.Call(t.kind, request.instances)
	call.Caller = d.caller(ctx)
	worked()
	if err := d.acceptor.Accept(ctx, call); err != nil {
		outcome.Refused = report.Refuse("", err)
		return nil, status.Error(refusalCode(err), "the report could not be accepted: "+outcome.Refused.Class)
	}
	outcome.Accepted, outcome.Left = len(call.Instances), left
	return &v1beta1.ReportResult{}, nil
}

func refusalCode(err error) codes.Code {
	class, ok := spool.ClassOf(err)
	switch {
	case ok && class == spool.Full:
		return codes.ResourceExhausted
	case ok && class == spool.TooLarge:
		return codes.InvalidArgument
	default:
		return codes.Unavailable
	}
}

// plans keeps the compiled form of the report configurations that calls bring, by their exact bytes.
type plans struct {
	planner  *report.Planner
	limits   HandlerLimits
	observer Observer

	mu    sync.Mutex // guards everything below
	lru   *simplelru.LRU[string, *plannedOnce]
	bytes int
}

// plannedOnce is a plan that the first call makes.
type plannedOnce struct {
	once sync.Once
	plan *report.Plan
}

func newPlans(planner *report.Planner, limits HandlerLimits, observer Observer) *plans {
	p := &plans{planner: planner, limits: limits, observer: observer}
	// The only error is a size below one.
	p.lru, _ = simplelru.NewLRU(max(limits.Entries, 1), func(params string, _ *plannedOnce) { p.bytes -= len(params) })
	return p
}

// get returns the plan of a call's params. There always is one: what cannot be read goes where reports without a valid
// configuration go.
func (p *plans) get(request *reportCall) *report.Plan {
	params := request.params
	var problems config.Problems
	switch {
	case request.typeURL != "" && request.typeURL != config.TypeURL:
		problems = config.Problems{{Field: "adapter_config", Text: fmt.Sprintf("is a %.100q, not a %s; apply the adapter resource that `tollgate operatorconfig` prints", request.typeURL, config.TypeURL)}}
	case request.typeURL == "":
		problems = config.Problems{{Field: "adapter_config", Text: "is missing; check that the adapter resource has session_based: false and a config"}}
	case len(params) > MaxParamsBytes:
		problems = config.Problems{{Field: "params", Text: fmt.Sprintf("have %d bytes; use at most %d", len(params), MaxParamsBytes)}}
	}
	if problems != nil {
		// As rare as they are wrong, and nothing of them is worth keeping.
		plan := p.planner.Plan(&config.Handler{Name: "unknown", Report: config.Report{HideAll: true}}, problems)
		p.observer.Planned(plan)
		return plan
	}
	e := p.entry(params)
	e.once.Do(func() {
		e.plan = p.planner.Plan(config.Parse([]byte(params)))
		p.observer.Planned(e.plan)
	})
	return e.plan
}

func (p *plans) entry(params string) *plannedOnce {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.lru.Get(params); ok {
		return e
	}
	params = strings.Clone(params) // the whole call would be kept with a part of it
	e := &plannedOnce{}
	p.lru.Add(params, e)
	p.bytes += len(params)
	for p.bytes > p.limits.Bytes && p.lru.Len() > 1 {
		p.lru.RemoveOldest()
	}
	return e
}
