// Package readiness knows what has to hold for the process to get calls, and what does not hold.
package readiness

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Condition is one thing that has to hold.
type Condition struct {
	// Name says what it is about, such as "tls.cert" or "key_sets.idp".
	Name string
	// Calls are those that cannot be served without it.
	Calls Calls
	// Source means that it comes from elsewhere, such as keys from a URL, and that only some handlers need it. It is waited for after the
	// start, and no longer than Conditions say.
	Source bool
	// Probe returns why the condition does not hold; nil where it does. It returns at once, and its text holds no secret.
	Probe func() error
}

// Calls are a kind of calls.
type Calls uint8

const (
	// All calls.
	All Calls = iota
	// Reports alone: checks go on.
	Reports
)

// Conditions are all conditions of a process. Rooms add theirs while the process is put together.
type Conditions struct {
	// SourceWait is how long after the start a source that has never been there keeps the process from being ready. All replicas may miss
	// the same one, and then a replica that answers with a failure is better than none: a mesh with policyCheckFailOpen lets
	// requests pass where nobody answers.
	SourceWait time.Duration

	mu    sync.Mutex // guards everything below
	all   []Condition
	since time.Time
}

// Add adds conditions, which are told in this order.
func (c *Conditions) Add(conditions ...Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, conditions...)
}

// Start begins the time that sources are waited for.
func (c *Conditions) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
}

// Finding is what became of a condition.
type Finding struct {
	Condition
	// Err is why it does not hold; nil where it does.
	Err error
	// Waived means that it does not hold and was waited for long enough.
	Waived bool
}

// Fails reports whether the process is not ready because of it.
func (f *Finding) Fails() bool { return f.Err != nil && !f.Waived }

// Findings are what was found of several conditions.
type Findings []Finding

// For looks at the conditions of the given calls now: those of reports are all there are.
func (c *Conditions) For(calls Calls) Findings {
	c.mu.Lock()
	all, since := c.all, c.since
	c.mu.Unlock()
	waited := !since.IsZero() && time.Since(since) >= c.SourceWait
	findings := make(Findings, 0, len(all))
	for _, condition := range all {
		if condition.Calls == Reports && calls != Reports {
			continue
		}
		err := condition.Probe()
		findings = append(findings, Finding{Condition: condition, Err: err, Waived: err != nil && condition.Source && waited})
	}
	return findings
}

// Err returns why the process is not ready, one line for each reason; nil where it is.
func (f Findings) Err() error {
	var reasons []string
	for i := range f {
		if f[i].Fails() {
			reasons = append(reasons, fmt.Sprintf("%s: %v", f[i].Name, f[i].Err))
		}
	}
	if reasons == nil {
		return nil
	}
	return notReady(reasons)
}

// notReady is the reasons why a process is not ready.
type notReady []string

// Error returns the reasons, one a line.
func (n notReady) Error() string { return strings.Join(n, "\n") }

// String tells of each condition on a line of its own: [+] holds, [-] does not, [!] does not either, but was waited for long enough.
func (f Findings) String() string {
	var text strings.Builder
	for i := range f {
		switch one := &f[i]; {
		case one.Err == nil:
			fmt.Fprintf(&text, "[+]%s ok\n", one.Name)
		case one.Waived:
			fmt.Fprintf(&text, "[!]%s not waited for any more: %v\n", one.Name, one.Err)
		default:
			fmt.Fprintf(&text, "[-]%s failed: %v\n", one.Name, one.Err)
		}
	}
	return text.String()
}
