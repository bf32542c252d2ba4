package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
)

// Status is what the page shows, and what /status.json has. It holds no secret.
type Status struct {
	Version string    `json:"version"`
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`
	// Listen is where calls are taken.
	Listen      string             `json:"listen"`
	Connections int                `json:"connections"`
	Log         observe.LevelState `json:"log"`
	Conditions  []Condition        `json:"conditions"`
	// Handlers are those that were called or compiled, the last called first, and Reports what was reported to those of a name.
	Handlers []activity.Handler `json:"handlers"`
	Reports  []activity.Reports `json:"reports"`
	Sources  []Source           `json:"sources"`
	Secrets  []Secret           `json:"secrets"`
	Files    []File             `json:"files"`
	Sinks    []Sink             `json:"sinks"`
	// Traces is nil where no spans are made.
	Traces      *Traces     `json:"traces,omitempty"`
	DecisionLog DecisionLog `json:"decision_log"`
}

// Condition is something that has to hold for the process to be ready.
type Condition struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	// Waived means that it does not hold and is not waited for any more.
	Waived bool `json:"waived,omitempty"`
	// Reports means that it matters for report calls alone.
	Reports bool   `json:"reports_only,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

// Source is something that comes from elsewhere and is kept fresh: a key set, a list.
type Source struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Usable is whether checks can use it now; Problem says why not.
	Usable  bool   `json:"usable"`
	Problem string `json:"problem,omitempty"`
	// Revision identifies what was read last; empty where the kind has none.
	Revision string `json:"revision,omitempty"`
	// Entries is how much is in it, Read when it was read last, and Failed how many attempts were in vain.
	Entries int       `json:"entries"`
	Read    time.Time `json:"read,omitzero"`
	Failed  uint64    `json:"failed_reads"`
}

// Secret is a named secret: whether it has a value, and never which.
type Secret struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
}

// File is a file of certificates or keys.
type File struct {
	Setting  string    `json:"setting"`
	Expires  time.Time `json:"expires,omitzero"`
	Failures uint64    `json:"failures"`
	// Problem says why what the file has now is not used.
	Problem string `json:"problem,omitempty"`
}

// Sink is a sink with its queue. In records: Accepted + Recovered = Delivered + Filtered + DeadLettered + Dropped + Pending.
type Sink struct {
	Name         string            `json:"name"`
	Accepted     uint64            `json:"accepted"`
	Recovered    uint64            `json:"recovered"`
	Delivered    uint64            `json:"delivered"`
	Filtered     uint64            `json:"filtered"`
	DeadLettered uint64            `json:"dead_lettered"`
	Dropped      map[string]uint64 `json:"dropped"`
	Pending      uint64            `json:"pending"`
	InFlight     uint64            `json:"in_flight"`
	// Refused are those of calls that the queue refused; they are not in the accounts.
	Refused map[string]uint64 `json:"refused"`
	// Bytes is the room that the queue takes, Oldest the age of what waits for the longest time.
	Bytes          int64         `json:"bytes"`
	Oldest         time.Duration `json:"oldest_ns"`
	Attempts       uint64        `json:"attempts"`
	FailedAttempts uint64        `json:"failed_attempts"`
	// Fault is why the queue cannot be written.
	Fault string `json:"fault,omitempty"`
}

// Traces counts spans.
type Traces struct {
	Exported uint64 `json:"exported"`
	Rejected uint64 `json:"rejected"`
	Crowded  uint64 `json:"crowded"`
	Failed   uint64 `json:"failed"`
	Waiting  int    `json:"waiting"`
}

// DecisionLog counts decisions that were to be recorded.
type DecisionLog struct {
	Recorded uint64 `json:"recorded"`
	Crowded  uint64 `json:"crowded"`
	Refused  uint64 `json:"refused"`
	Waiting  int    `json:"waiting"`
}

// Ready reports whether the process is ready for checks.
func (s *Status) Ready() bool {
	return !slices.ContainsFunc(s.Conditions, func(c Condition) bool { return !c.Holds && !c.Waived && !c.Reports })
}

// ReadyForReports reports whether it is ready for report calls.
func (s *Status) ReadyForReports() bool {
	return !slices.ContainsFunc(s.Conditions, func(c Condition) bool { return !c.Holds && !c.Waived })
}

// Refusals returns the latest denials and failures of all handlers, the latest first.
func (s *Status) Refusals() []activity.Decision {
	const most = 50
	var all []activity.Decision
	for i := range s.Handlers {
		all = append(all, s.Handlers[i].Refusals...)
	}
	slices.SortStableFunc(all, func(a, b activity.Decision) int { return b.Time.Compare(a.Time) })
	return all[:min(len(all), most)]
}

// Ago returns how long ago something was, as people say it.
func (s *Status) Ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return round(s.Now.Sub(t)) + " ago"
}

// In returns how long it is until something.
func (s *Status) In(t time.Time) string {
	if t.Before(s.Now) {
		return round(s.Now.Sub(t)) + " ago"
	}
	return "in " + round(t.Sub(s.Now))
}

// Uptime returns how long the process has run.
func (s *Status) Uptime() string { return round(s.Now.Sub(s.Started)) }

// Soon reports whether something ends within a week.
func (s *Status) Soon(t time.Time) bool {
	const week = 7 * 24 * time.Hour
	return t.Sub(s.Now) < week
}

// round leaves the first two units of a duration.
func round(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%d d", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return fmt.Sprintf("%d ms", d/time.Millisecond)
	}
}

// brief returns how long something short took.
func brief(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

//go:embed status.html
var statusHTML string

//go:embed status.css
var statusCSS string

// page shows the status to people. ?refresh lets the browser ask again and again.
func page(status func() Status) http.HandlerFunc {
	pages := template.Must(template.New("status").Funcs(template.FuncMap{
		"css":    func() template.CSS { return template.CSS(statusCSS) }, //nolint:gosec // it is ours
		"round":  round,
		"brief":  brief,
		"iso":    func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
		"words":  func(text string) string { return strings.ReplaceAll(text, "_", " ") },
		"counts": counts,
		"kib":    func(bytes int64) string { return fmt.Sprintf("%.1f KiB", float64(bytes)/1024) }, //nolint:mnd // bytes of a KiB
	}).Parse(statusHTML))
	sum := sha256.Sum256([]byte(statusCSS))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return func(w http.ResponseWriter, r *http.Request) {
		s := status()
		var content bytes.Buffer
		err := pages.Execute(&content, struct {
			*Status
			Refresh bool
		}{&s, r.URL.Query().Has("refresh")})
		if err != nil {
			http.Error(w, "the page cannot be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = content.WriteTo(w)
	}
}

// counts returns numbers with what they count, in the order of the names.
func counts(by map[string]uint64) string {
	var words []string
	for name, n := range by {
		words = append(words, fmt.Sprintf("%d %s", n, strings.ReplaceAll(name, "_", " ")))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// statusJSON shows the same to programs.
func statusJSON(status func() Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s := status()
		s.Conditions, s.Handlers, s.Reports = listed(s.Conditions), listed(s.Handlers), listed(s.Reports)
		s.Sources, s.Secrets, s.Files, s.Sinks = listed(s.Sources), listed(s.Secrets), listed(s.Files), listed(s.Sinks)
		writeJSON(w, s)
	}
}

// listed returns a list that is [] in JSON where it is empty, and not null.
func listed[T any](list []T) []T { return append([]T{}, list...) }
