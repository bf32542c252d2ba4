package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Content is what a policy source holds at one time.
type Content struct {
	// Modules are Rego modules by their file.
	Modules map[string]Module
	// Data is the document that policies see as data; its values are those of encoding/json, or of OPA's AST. It is not kept.
	Data map[string]any
	// Revision names the content, for people and records.
	Revision string
	// Version is the language that the deciding rules count as. As for inline policies, V0 has addresses in Mixer's form and ends
	// an evaluation at an error in a built-in.
	Version config.RegoVersion
}

// Module is a Rego module.
type Module struct {
	Text    string
	Version config.RegoVersion
}

// Generation is compiled content. It is immutable.
type Generation struct {
	library  *library
	revision string
}

// Revision names the content that was compiled.
func (g *Generation) Revision() string { return g.revision }

// Source is a named source of policies, whose content changes while handlers use it.
//
// Each rule that a handler decides by goes from one generation to the next in one step, prepared beforehand, so that every decision
// is made by one generation as a whole. A generation without the rule, or in which it cannot decide, leaves that rule at the last good one.
type Source struct {
	name        string
	environment *Environment
	maxStale    time.Duration
	// confirmed is when the source was last known to have nothing newer; zero before there is a generation.
	confirmed atomic.Pointer[time.Time]

	mu       sync.Mutex // guards everything below, and changes of rules
	current  *Generation
	rules    map[ruleKey]weak.Pointer[rule]
	lastErr  error
	accepted uint64
	rejected uint64
}

// NewSource makes a source without content. MaxStale is how long the last content counts after the source was last heard of; 0 for ever.
func NewSource(name string, environment *Environment, maxStale time.Duration) *Source {
	s := &Source{name: name, environment: environment, maxStale: maxStale, rules: map[ruleKey]weak.Pointer[rule]{}}
	s.confirmed.Store(&time.Time{})
	return s
}

// ruleKey names a rule of a source. Candidates have rules of their own: one that stays at an earlier generation for a candidate is not there
// for a handler that comes later.
type ruleKey struct {
	decision  string
	candidate bool
}

// rule is a rule of a source that handlers decide by. The source forgets it with the last of them.
type rule struct {
	source   *Source
	decision ast.Ref
	state    atomic.Pointer[ruleState]
}

// ruleState is immutable.
type ruleState struct {
	// program decides; nil where there is none yet.
	program  *program
	revision string
	// problems are why program is not of the source's current generation; none where it is.
	problems config.Problems
	// behind is since when.
	behind time.Time
}

// Compile compiles content and changes nothing. An error shows no text of the policy.
func (s *Source) Compile(content Content) (generation *Generation, err error) {
	defer func() {
		if r := recover(); r != nil { // the content is somebody else's
			err = fmt.Errorf("compiling it panicked: %T\n%s", r, debug.Stack())
		}
	}()
	library, err := compile(content, s.environment)
	if err != nil {
		return nil, err
	}
	return &Generation{library: library, revision: content.Revision}, nil
}

// compile compiles content.
func compile(content Content, environment *Environment) (*library, error) {
	if len(content.Modules) == 0 {
		return nil, errors.New("it has no Rego module; an empty source would be no policy at all")
	}
	var problems config.Problems
	modules := make(map[string]*ast.Module, len(content.Modules))
	for _, file := range slices.Sorted(maps.Keys(content.Modules)) {
		module, found := parseModule(file, content.Modules[file].Text, version(content.Modules[file].Version), environment)
		modules[file] = module
		problems = append(problems, found...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	library, problems := newLibrary(modules, version(content.Version), environment)
	if len(problems) > 0 {
		return nil, problems
	}
	if err := ast.CheckPathConflicts(library.compiler, func(path []string) (bool, error) { return has(content.Data, path), nil }); len(err) > 0 {
		return nil, describe("data", err)
	}
	// Its own store, which is never written to: an open read would block a write for ever.
	library.store = inmem.NewFromObjectWithOpts(content.Data, inmem.OptReturnASTValuesOnRead(true))
	return library, nil
}

func version(v config.RegoVersion) ast.RegoVersion {
	if v == config.RegoV0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}

// has says whether rules of a package would hide data.
func has(data map[string]any, path []string) bool {
	for _, key := range path {
		value, ok := data[key]
		if !ok {
			return false
		}
		if data, ok = value.(map[string]any); !ok {
			return true
		}
	}
	return len(data) > 0
}

// Activate makes a generation of this source the one that decides. It returns what keeps rules at an earlier one, by rule. Rules of
// candidates follow when those that decide are through.
func (s *Source) Activate(generation *Generation) map[string]config.Problems {
	s.mu.Lock()
	defer s.mu.Unlock()
	behind := map[string]config.Problems{}
	s.move(generation, false, behind)
	s.current, s.lastErr = generation, nil
	s.confirmed.Store(new(time.Now()))
	s.move(generation, true, behind)
	return behind
}

// move takes the rules of candidates, or all others, to a generation.
func (s *Source) move(generation *Generation, candidates bool, behind map[string]config.Problems) {
	next := map[*rule]*ruleState{}
	for key, known := range s.rules {
		if key.candidate != candidates {
			continue
		}
		r := known.Value()
		if r == nil { // no handler has it any more
			continue
		}
		state := r.in(generation)
		if len(state.problems) > 0 {
			behind[key.decision] = state.problems
			if before := r.state.Load(); before.program != nil {
				state.program, state.revision, state.behind = before.program, before.revision, before.behind
				if state.behind.IsZero() {
					state.behind = time.Now()
				}
			}
		}
		next[r] = state
	}
	for r, state := range next {
		r.state.Store(state)
	}
}

// in prepares the rule in a generation.
func (r *rule) in(generation *Generation) (state *ruleState) {
	defer func() {
		if p := recover(); p != nil {
			state = &ruleState{problems: config.Problems{{Field: "check_method", Text: fmt.Sprintf("preparing it panicked: %T\n%s", p, debug.Stack())}}}
		}
	}()
	program, problems := newProgram(generation.library, r.decision)
	if len(problems) > 0 {
		return &ruleState{problems: problems}
	}
	return &ruleState{program: program, revision: r.source.name + "@" + generation.revision}
}

// Confirm says that the source was read and has nothing newer than what was activated.
func (s *Source) Confirm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = nil
	s.accepted++
	if s.current != nil {
		s.confirmed.Store(new(time.Now()))
	}
}

// Reject says that the source could not be read, or that its content is no good. What decided before goes on to.
func (s *Source) Reject(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	s.rejected++
}

// Stats are figures of a source.
type Stats struct {
	// Revision is that of the generation that decides; empty before there is one.
	Revision string
	// Age is how long ago it was last confirmed.
	Age time.Duration
	// Rules is how many rules handlers decide by, Behind how many of them are at an earlier generation, or at none.
	Rules, Behind int
	// Accepted and Rejected count attempts to read the source.
	Accepted, Rejected uint64
	// Err is why the last attempt failed; nil where it did not.
	Err error
}

// Stats returns figures.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Accepted: s.accepted, Rejected: s.rejected, Err: s.lastErr}
	if s.current != nil {
		stats.Revision = s.current.revision
		stats.Age = time.Since(*s.confirmed.Load())
	}
	for _, known := range s.rules {
		if r := known.Value(); r != nil {
			stats.Rules++
			if len(r.state.Load().problems) > 0 {
				stats.Behind++
			}
		}
	}
	return stats
}

// rule returns a rule that follows the source, or why the current generation cannot decide by it.
func (s *Source) rule(decision ast.Ref, candidate bool) (*rule, config.Problems) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := ruleKey{decision.String(), candidate}
	if r := s.rules[key].Value(); r != nil {
		if state := r.state.Load(); state.program == nil && len(state.problems) > 0 {
			return nil, state.problems
		}
		return r, nil
	}
	r := &rule{source: s, decision: decision}
	state := &ruleState{}
	if s.current != nil {
		if state = r.in(s.current); len(state.problems) > 0 {
			return nil, state.problems
		}
	}
	r.state.Store(state)
	s.rules[key] = weak.Make(r)
	runtime.AddCleanup(r, s.forget, key)
	return r, nil
}

// forget forgets a rule if no handler has it any more.
func (s *Source) forget(key ruleKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules[key].Value() == nil {
		delete(s.rules, key)
	}
}

// now returns what decides at this time.
func (r *rule) now() (*ruleState, *policy.Failure) {
	state := r.state.Load()
	switch {
	case state.program == nil && len(state.problems) > 0:
		return nil, policy.Fail(config.ConfigurationFailure, "policy_source %s: %s", r.source.name, state.problems.Error())
	case state.program == nil:
		return nil, policy.Fail(config.PolicyNotLoaded, "policy_source %s has nothing to decide with yet; the log and the page /readyz say why", r.source.name)
	case r.source.maxStale == 0:
		return state, nil
	}
	since := state.behind
	if since.IsZero() {
		since = *r.source.confirmed.Load()
	}
	if time.Since(since) > r.source.maxStale {
		return nil, policy.Fail(config.DependencyDown, "policy_source %s was not refreshed for longer than its max_stale, %s", r.source.name, r.source.maxStale)
	}
	return state, nil
}

func (k Kind) compileSourced(handler *config.Handler, decision ast.Ref, problems config.Problems) ([]policy.Check, config.Problems) {
	var source *Source
	if k.Sources != nil {
		source, _ = k.Sources.Source(handler.Rego.Source)
	}
	if source == nil {
		problems = append(problems, config.Problem{Field: "policy_source", Text: fmt.Sprintf(
			"is %q, and the adapter's settings define no such source; add it to policies there", handler.Rego.Source)})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	rule, problems := source.rule(decision, k.Candidates)
	if len(problems) > 0 {
		return nil, problems
	}
	return []policy.Check{&sourcedCheck{handler: handler.Name, rule: rule, denial: handler.Denial, cache: k.Cache}}, nil
}

// sourcedCheck is a handler's Rego check whose policy comes from a source.
type sourcedCheck struct {
	handler string
	rule    *rule
	denial  config.Denial
	cache   *Cache
	// memory is what the program that decided last has answered.
	memory atomic.Pointer[memory]
}

func (c *sourcedCheck) Name() string { return "rego/" + label(c.rule.decision) }

func (c *sourcedCheck) Cost() policy.Cost { return policy.Compute }

func (c *sourcedCheck) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	state, failure := c.rule.now()
	if failure != nil {
		return policy.Failing(failure)
	}
	by := c.by(state.program)
	verdict := by.Evaluate(ctx, request)
	verdict.Revision = state.revision
	return verdict
}

// Recall returns what the program that decides now answered to an earlier request; see [policy.Recaller].
func (c *sourcedCheck) Recall(request *policy.Request) (policy.Verdict, bool) {
	state, failure := c.rule.now()
	if failure != nil {
		return policy.Verdict{}, false
	}
	by := c.by(state.program)
	verdict, ok := by.Recall(request)
	verdict.Revision = state.revision
	return verdict, ok
}

// by returns the check by a program. What an earlier program answered is forgotten.
func (c *sourcedCheck) by(program *program) check {
	one := check{handler: c.handler, program: program, denial: c.denial, memory: c.memory.Load()}
	if one.memory != nil && one.memory.of.Value() == program {
		return one
	}
	last := one.memory
	one.memory = c.cache.newMemory(program)
	// A call that began with an earlier program leaves the memory of the one that decides now, as does one that was slower than another.
	if one.memory != last && c.rule.state.Load().program == program {
		c.memory.CompareAndSwap(last, one.memory)
	}
	return one
}

// ReadsEverything names the constructs that make the policy read the whole input; see [policy.Wide].
func (c *sourcedCheck) ReadsEverything() []string {
	state, failure := c.rule.now()
	if failure != nil {
		return nil
	}
	by := c.by(state.program)
	return by.ReadsEverything()
}
