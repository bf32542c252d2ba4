// Package activity keeps what each handler did lately, for people who look: how often it decided what, why it denied or failed, and what
// is wrong with it.
//
// It stands beside every check and costs next to nothing there: it counts all decisions, and keeps the latest of them, those under load
// as a sample. Nothing of a request is kept but the instance's name; of decisions that the handler's decision log records, also the
// input, as it is recorded.
package activity

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/config"
)

// Bounds of what is kept.
const (
	// maxHandlers is how many handlers are kept. Of more, the one that was not called for the longest time is forgotten.
	maxHandlers = 256
	// keptRefusals and keptAllows are how many decisions of a handler are kept.
	keptRefusals = 8
	keptAllows   = 2
	// refusalsPerSecond and allowsPerSecond are how often one is kept, after as many at once as there is room for.
	refusalsPerSecond = 50
	allowsPerSecond   = 5
	// longestText is how many bytes of a text are kept.
	longestText = 1 << 10
)

// Activity is what all handlers did lately. Its methods may be called from many goroutines at once.
type Activity struct {
	handlers table[*handler]
	reports  table[*reports]
}

// New returns one of a process that has done nothing yet.
func New() *Activity {
	a := &Activity{}
	a.handlers.others, a.reports.others = newHandler(others, ""), &reports{name: others}
	return a
}

// others is the name of all that there is no room for.
const others = "other"

// Decision is one decision as people see it.
type Decision struct {
	Time    time.Time `json:"time"`
	Handler string    `json:"handler"`
	// Revision is that of the handler or policy that decided.
	Revision string `json:"revision,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Caller is who called, such as a Mixer; empty where callers are not known.
	Caller  string `json:"caller,omitempty"`
	Outcome string `json:"outcome"`
	Code    string `json:"code"`
	Check   string `json:"check,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Class and Detail tell of a failure.
	Class  string `json:"class,omitempty"`
	Detail string `json:"detail,omitempty"`
	// ID is that of the record in the decision log, and Input what was decided on, as it is recorded: both empty where it is not.
	ID      string        `json:"id,omitempty"`
	Input   string        `json:"input,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

// outcomes are in the order of the counters.
var outcomes = [...]string{"allow", "deny", "failed_open", "failed_closed"}

// handler is what is known of one configuration of a handler.
type handler struct {
	name, fingerprint string
	first             time.Time
	last              atomic.Int64 // Unix nanoseconds
	counts            [len(outcomes)]atomic.Uint64
	refusals, allows  ring

	mu       sync.Mutex // guards everything below
	checks   []string
	modes    string
	problems string
}

func (h *handler) lastUse() int64 { return h.last.Load() }

// ring keeps the latest decisions.
type ring struct {
	limiter *rate.Limiter
	// quiet is until when the limiter would say no, in Unix nanoseconds: under load it is not even asked.
	quiet atomic.Int64

	mu    sync.Mutex // guards everything below
	kept  []Decision
	next  int
	limit int
}

func (r *ring) init(limit int, perSecond rate.Limit) {
	r.limiter, r.limit = rate.NewLimiter(perSecond, limit), limit
}

// wants reports whether a decision made now is to be kept.
func (r *ring) wants(now time.Time) bool {
	nanos := now.UnixNano()
	if nanos < r.quiet.Load() {
		return false
	}
	if r.limiter.AllowN(now, 1) {
		return true
	}
	r.quiet.Store(nanos + int64(float64(time.Second)/float64(r.limiter.Limit())))
	return false
}

func (r *ring) add(d Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) < r.limit {
		r.kept = append(r.kept, d)
		return
	}
	r.kept[r.next] = d
	r.next = (r.next + 1) % r.limit
}

// latest returns what is kept, the latest first.
func (r *ring) latest() []Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.kept[r.next:], r.kept[:r.next])
	slices.Reverse(all)
	return all
}

func (a *Activity) handler(h *config.Handler) *handler {
	name, fingerprint := "unknown", ""
	if h != nil {
		name, fingerprint = h.Name, h.Fingerprint
	}
	return a.handlers.get(fingerprint, func() *handler { return newHandler(name, fingerprint) })
}

func newHandler(name, fingerprint string) *handler {
	h := &handler{name: name, fingerprint: fingerprint, first: time.Now()}
	h.refusals.init(keptRefusals, refusalsPerSecond)
	h.allows.init(keptAllows, allowsPerSecond)
	return h
}

// Decided takes a decision. The handler is nil where the call brought none that could be decoded; id is that of the decision's record,
// empty where there is none. It keeps nothing of the request's memory.
func (a *Activity) Decided(id, caller string, h *config.Handler, request *policy.Request, d *policy.Decision, elapsed time.Duration) {
	of := a.handler(h)
	now := time.Now()
	of.last.Store(now.UnixNano())
	outcome, kept := 0, &of.allows
	if !d.Allowed() {
		outcome = 1
	}
	if d.Failure != nil {
		outcome += 2
	}
	of.counts[outcome].Add(1)
	if outcome > 0 {
		kept = &of.refusals
	}
	if !kept.wants(now) {
		return
	}
	name := of.name
	if h != nil {
		name = h.Name
	}
	shown := Decision{
		Time: now, Handler: name, Revision: short(d.Revision), Instance: short(request.Instance), Caller: short(caller),
		Outcome: outcomes[outcome], Code: d.Code.String(), Check: short(d.Check), Reason: short(d.Reason), ID: id, Elapsed: elapsed,
	}
	if d.Failure != nil {
		shown.Class, shown.Detail = d.Failure.Class.String(), short(d.Failure.Detail)
	}
	if id != "" && h != nil {
		shown.Input = short(decisionlog.Input(h, request, d))
	}
	kept.add(shown)
}

// short returns a copy of a text, cut where it is too long.
func short(text string) string {
	if len(text) <= longestText {
		return strings.Clone(text)
	}
	return strings.ToValidUTF8(text[:longestText], "") + "…"
}

// Compiled takes a handler that was compiled, whether it can decide or not.
func (a *Activity) Compiled(p *policy.Policy) {
	h := a.handler(p.Handler())
	if h == a.handlers.others { // which is not one
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks, h.modes, h.problems = p.Checks(), p.Handler().Modes.String(), ""
	if failure := p.Failure(); failure != nil {
		h.problems = short(failure.Detail)
	}
}

// reports is what handlers of one name were told.
type reports struct {
	name           string
	last           atomic.Int64 // Unix nanoseconds
	calls, refused atomic.Uint64
	accepted       atomic.Uint64
	left           atomic.Uint64

	mu       sync.Mutex // guards everything below
	problems string
	refusal  string
	when     time.Time
}

func (r *reports) lastUse() int64 { return r.last.Load() }

func (a *Activity) reportsOf(name string) *reports {
	return a.reports.get(name, func() *reports { return &reports{name: strings.Clone(name)} })
}

// Planned takes a handler that reports came with.
func (a *Activity) Planned(plan *report.Plan) {
	r := a.reportsOf(plan.Handler())
	if r == a.reports.others {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = ""
	if len(plan.Problems()) > 0 {
		r.problems = short(plan.Problems().Error())
	}
}

// Reported takes a report call.
func (a *Activity) Reported(reported *report.Reported) {
	r := a.reportsOf(reported.Handler)
	now := time.Now()
	r.last.Store(now.UnixNano())
	r.calls.Add(1)
	r.accepted.Add(uint64(reported.Accepted))                           //nolint:gosec // counts are not negative
	r.left.Add(uint64(reported.Left.Malformed + reported.Left.Sampled)) //nolint:gosec // the same
	if reported.Refused == nil {
		return
	}
	r.refused.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal, r.when = short(reported.Refused.Class+": "+reported.Refused.Error()), now
}

// Handler is what one handler did.
type Handler struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Checks are the names of its checks in their order; none where it cannot decide, and then Problems say why.
	Checks   []string `json:"checks,omitempty"`
	Modes    string   `json:"modes,omitempty"`
	Problems string   `json:"problems,omitempty"`
	// First and Last are when it was called; Last is zero where it was only compiled.
	First time.Time `json:"first"`
	Last  time.Time `json:"last,omitzero"`
	// Allow, Deny, FailedOpen and FailedClosed count its decisions.
	Allow        uint64 `json:"allow"`
	Deny         uint64 `json:"deny"`
	FailedOpen   uint64 `json:"failed_open"`
	FailedClosed uint64 `json:"failed_closed"`
	// Refusals are its latest denials and failures, Allows its latest allows; the latest first.
	Refusals []Decision `json:"refusals,omitempty"`
	Allows   []Decision `json:"allows,omitempty"`
}

// Handlers returns what is known, those called last first.
func (a *Activity) Handlers() []Handler {
	var all []Handler
	for _, h := range a.handlers.all() {
		shown := Handler{
			Name: h.name, Fingerprint: h.fingerprint, First: h.first, Last: at(h.last.Load()),
			Allow: h.counts[0].Load(), Deny: h.counts[1].Load(), FailedOpen: h.counts[2].Load(), FailedClosed: h.counts[3].Load(),
			Refusals: h.refusals.latest(), Allows: h.allows.latest(),
		}
		h.mu.Lock()
		shown.Checks, shown.Modes, shown.Problems = h.checks, h.modes, h.problems
		h.mu.Unlock()
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b Handler) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Name, b.Name), strings.Compare(a.Fingerprint, b.Fingerprint))
	})
	return all
}

// Reports is what handlers of one name were told.
type Reports struct {
	Handler string `json:"handler"`
	// Problems say why its records go to the default sinks.
	Problems string    `json:"problems,omitempty"`
	Last     time.Time `json:"last,omitzero"`
	// Calls and Refused count calls, Accepted and Left instances: those that became records, and those that did not.
	Calls    uint64 `json:"calls"`
	Refused  uint64 `json:"refused"`
	Accepted uint64 `json:"accepted"`
	Left     uint64 `json:"left_out"`
	// Refusal is why the last refused call was, and RefusedAt when.
	Refusal   string    `json:"refusal,omitempty"`
	RefusedAt time.Time `json:"refused_at,omitzero"`
}

// Reports returns what is known, by name.
func (a *Activity) Reports() []Reports {
	var all []Reports
	for _, r := range a.reports.all() {
		shown := Reports{
			Handler: r.name, Last: at(r.last.Load()), Calls: r.calls.Load(), Refused: r.refused.Load(), Accepted: r.accepted.Load(), Left: r.left.Load(),
		}
		r.mu.Lock()
		shown.Problems, shown.Refusal, shown.RefusedAt = r.problems, r.refusal, r.when
		r.mu.Unlock()
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b Reports) int { return strings.Compare(a.Handler, b.Handler) })
	return all
}

func at(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}
