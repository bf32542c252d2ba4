package rego

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// TestAnswersAreThoseOfPlainEvaluation compares, for policies and requests made by chance, what a check answers at first and from memory
// with what OPA's own interface makes of the whole input. More than half of the requests differ from one before them in one part alone.
// Every run makes the same ones unless it is told otherwise:
//
//	TOLLGATE_CASES=1000000 TOLLGATE_SEED=7 go test -run TestAnswersAreThoseOfPlainEvaluation -timeout 2h -v ./adapter/policy/rego
func TestAnswersAreThoseOfPlainEvaluation(t *testing.T) {
	t.Parallel()
	usual := 4000
	if Raced {
		usual = 400
	}
	cases, seed := fromEnvironment(t, "TOLLGATE_CASES", usual), uint64(fromEnvironment(t, "TOLLGATE_SEED", 1))
	for name, version := range map[string]ast.RegoVersion{"V1": ast.RegoV1, "V0": ast.RegoV0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newComparison(version, seed)
			for c.cases < cases && len(c.differences) == 0 {
				c.policy()
			}
			t.Logf("seed %d: %s", seed, c)
			for _, difference := range c.differences {
				t.Error(difference)
			}
			if cases >= 20_000 { // fewer may miss one by chance
				for _, construct := range wanted(version) {
					assert.Positive(t, c.generator.made[construct], "%s was never generated", construct)
				}
			}
			if cases >= 4000 {
				assert.Greater(t, c.varied*100, c.remembering*30, "the answers to different requests differ in too few cases")
				assert.Positive(t, c.shared, "no request was answered as another one")
				assert.Positive(t, c.partial, "no policy was evaluated partially")
			}
		})
	}
}

// A key or an analysis that lacks any one part of the request is found out by the comparison above.
func TestEveryPartOfTheKeyCounts(t *testing.T) {
	t.Parallel()
	if Raced {
		t.Skip("it takes long, and has no two goroutines that share anything")
	}
	const most = 30_000
	for _, member := range members {
		for _, lost := range []string{"key", "key and input"} {
			t.Run(member.path.String()+" is not in the "+lost, func(t *testing.T) {
				t.Parallel()
				c := newComparison(ast.RegoV1, 1)
				c.generator.focus = member.path.String()
				c.mutate = func(p *program) {
					without := *p.projection
					without.parts = slices.DeleteFunc(slices.Clone(without.parts), func(part part) bool { return slices.Equal(part.path, member.path) })
					if lost == "key" {
						c.keys = &without
					} else {
						p.projection, p.residual = &without, nil
					}
				}
				for c.cases < most && len(c.differences) == 0 {
					c.policy()
				}
				require.NotEmpty(t, c.differences, "nothing differed in %d cases", c.cases)
			})
		}
	}
}

func fromEnvironment(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

// wanted are the names of everything that has to be generated.
func wanted(version ast.RegoVersion) []string {
	names := []string{
		"alias of a part", "dynamic key", "dynamic key of a member", "dynamic key of the input", "part that does not exist", "array element", "object", "claim",
		"property of the action", "property of the subject", "member", "not", "else", "default", "partial set", "partial object", "function", "function of two definitions",
		"helper rule", "helper of two definitions", "result object", "result with a message of the request", "result of any type",
	}
	if version == ast.RegoV1 {
		names = append(names, "general reference")
	}
	for _, construct := range constructs {
		names = append(names, construct.name)
	}
	return names
}

// comparison counts what it compares.
type comparison struct {
	generator *generator
	cache     *Cache
	mutate    func(*program)
	// keys are what answers are remembered by, where that is not what a mutant's program says.
	keys *projection

	policies, refused, partial               int
	cases, hits, shared, remembering, varied int
	outcomes                                 map[string]int
	reads                                    map[string]int
	differences                              []string
}

func newComparison(version ast.RegoVersion, seed uint64) *comparison {
	return &comparison{
		generator: &generator{Rand: rand.New(rand.NewPCG(seed, uint64(version))), version: version, made: map[string]int{}},
		cache:     NewCache(4<<20, 1<<20),
		outcomes:  map[string]int{}, reads: map[string]int{},
	}
}

func (c *comparison) String() string {
	constructs := []string{}
	for _, name := range slices.Sorted(maps.Keys(c.generator.made)) {
		constructs = append(constructs, fmt.Sprintf("%s %d", name, c.generator.made[name]))
	}
	return fmt.Sprintf("%d cases with %d programs (%d refused by the compiler, %d evaluated partially)\nanswered from memory: %d, of which %d to another request\n"+
		"cases with a program that remembers: %d, of which with one whose answers vary: %d (%d %%)\nanswers: %v\nreads: %v\ngenerated: %s",
		c.cases, c.policies, c.refused, c.partial, c.hits, c.shared, c.remembering, c.varied, c.varied*100/max(c.remembering, 1), c.outcomes, c.reads, strings.Join(constructs, ", "))
}

// policy makes a policy, two generations of its data, and compares requests.
func (c *comparison) policy() {
	const requests = 20
	made := c.generator.policy()
	modules, problems := parse(made.modules, c.generator.version, NewEnvironment(Options{}))
	if len(problems) > 0 {
		c.differences = append(c.differences, "the generator makes a policy that does not parse: "+problems.Error()+"\n"+strings.Join(made.modules, "\n"))
		return
	}
	before := []*policy.Request{}
	for _, data := range made.data {
		l, problems := newLibrary(modules, c.generator.version, NewEnvironment(Options{}))
		if len(problems) > 0 {
			c.refused++
			return
		}
		l.store = inmem.NewFromObject(data)
		s, err := c.newSubjects(l, made)
		if err != nil {
			c.refused++
			return
		}
		for range requests {
			request := c.generator.request()
			if len(before) > 0 && c.generator.chance(60) {
				// Half of the time nothing but one part differs.
				request = c.generator.alike(before[c.generator.IntN(len(before))], request)
			}
			before = append(before, request)
			s.compare(request)
		}
		s.end()
	}
}

// subjects are one policy in two forms.
type subjects struct {
	*comparison
	made  generated
	plain oparego.PreparedEvalQuery
	check *check
	keys  *projection
	seen  map[string]bool // keys of what was asked before
	given map[string]bool // answers
	cases int
}

func (c *comparison) newSubjects(l *library, made generated) (*subjects, error) {
	decision := ast.MustParseRef("data.p.allow")
	program, problems := newProgram(l, decision)
	if len(problems) > 0 {
		return nil, problems
	}
	c.keys = program.projection
	if c.mutate != nil {
		c.mutate(program)
	}
	c.policies++
	if program.residual != nil {
		c.partial++
	}
	switch a := program.analysis; {
	case len(a.Volatile) > 0:
		c.reads["volatile"]++
	case a.ReadsEverything():
		c.reads["everything"]++
	case len(a.Reads) == 0:
		c.reads["nothing"]++
	default:
		c.reads[fmt.Sprintf("%02d parts", len(a.Reads))]++
	}
	plain, err := oparego.New(oparego.Compiler(l.compiler), oparego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(decision)))), oparego.SetRegoVersion(l.version),
		oparego.Store(l.store), oparego.StrictBuiltinErrors(l.version == ast.RegoV0)).PrepareForEval(context.Background())
	return &subjects{
		comparison: c, made: made, plain: plain, check: newCheck("", program, config.Denial{}, c.cache), keys: c.keys, seen: map[string]bool{}, given: map[string]bool{},
	}, err
}

// compare asks both forms about a request: the check twice, and before that its memory alone.
func (s *subjects) compare(request *policy.Request) {
	s.comparison.cases++
	s.cases++
	want := s.expected(request)
	s.outcomes[class(want)]++
	s.given[fmt.Sprintf("%v %v %v %v", want.Result, want.Reason, want.Denial, want.Failure)] = true
	if v, ok := s.remembered(request); ok {
		s.shared++
		s.same("as another request", want, v, request)
	}
	first := s.check.Evaluate(context.Background(), request)
	s.same("at first", want, first, request)
	if s.keys != s.check.program.projection { // a mutant
		s.remember(request, first)
	}
	v, ok := s.remembered(request)
	switch {
	case ok:
		s.hits++
		s.same("from memory", want, v, request)
	case s.check.program.analysis.Rememberable() && first.Result != policy.Failed && s.keyed(request) && s.mutate == nil:
		s.differ("an answer is not remembered", request)
	}
}

func (s *subjects) remembered(request *policy.Request) (policy.Verdict, bool) {
	if s.keys == s.check.program.projection {
		return s.check.Recall(request)
	}
	key, ok := s.keys.appendKey(nil, request)
	if !ok || s.check.memory == nil || unreadable(request) != nil {
		return policy.Verdict{}, false
	}
	return s.check.memory.get("mutant" + string(key))
}

func (s *subjects) remember(request *policy.Request, v policy.Verdict) {
	if key, ok := s.keys.appendKey(nil, request); ok && s.check.memory != nil && v.Result != policy.Failed {
		s.check.memory.add("mutant"+string(key), v)
	}
}

func (s *subjects) keyed(request *policy.Request) bool {
	_, ok := s.keys.appendKey(nil, request)
	return ok
}

func (s *subjects) end() {
	if s.check.memory == nil {
		return
	}
	s.remembering += s.cases
	if len(s.given) > 1 {
		s.varied += s.cases
	}
}

// expected is the verdict of OPA's own interface on the whole input.
func (s *subjects) expected(request *policy.Request) policy.Verdict {
	if bad := unreadable(request); bad != nil {
		return policy.Failing(bad)
	}
	input, err := ast.InterfaceToValue(document(request, s.generator.version == ast.RegoV0))
	if err != nil {
		return policy.Failing(policy.Fail(config.EvaluationError, "%v", err))
	}
	// Nor are rules left out beforehand, as OPA's index of them has it; but where they end in an error, which the index spares.
	results, err := s.plain.Eval(context.Background(), oparego.EvalParsedInput(input), oparego.EvalRuleIndexing(false))
	if err != nil {
		results, err = s.plain.Eval(context.Background(), oparego.EvalParsedInput(input))
	}
	switch {
	case err != nil:
		return policy.Failing(policy.Fail(config.EvaluationError, "%v", err))
	case len(results) == 0:
		return policy.Failing(policy.Fail(config.UndefinedResult, ""))
	}
	return s.check.verdict(results[0].Expressions[0].Value)
}

func (s *subjects) same(how string, want, got policy.Verdict, request *policy.Request) {
	if class(want) != class(got) || want.Reason != got.Reason || want.Lifetime != got.Lifetime || !reflect.DeepEqual(want.Denial, got.Denial) {
		s.differ(fmt.Sprintf("%s it is %s %q %v, in plain evaluation %s %q %v", how, class(got), got.Reason, got.Failure, class(want), want.Reason, want.Failure), request)
	}
}

func (s *subjects) differ(what string, request *policy.Request) {
	input, err := json.Marshal(document(request, false))
	if err != nil {
		input = []byte(err.Error())
	}
	s.differences = append(s.differences, fmt.Sprintf("%s\n%s\ninput: %s\nreads: %v, not partial: %q", what, strings.Join(s.made.modules, "\n"), input,
		s.check.program.analysis.Reads, s.check.program.analysis.NotPartial))
}

func class(v policy.Verdict) string {
	switch {
	case v.Result == policy.Passed:
		return "pass"
	case v.Result == policy.Denied:
		return "deny"
	case v.Failure != nil:
		return v.Failure.Class.String()
	}
	return "nothing"
}

// document makes the whole input, as docs/rego.md has it and not as the check makes it.
func document(r *policy.Request, rawIP bool) map[string]any {
	value := func(v attribute.Value) any {
		j, _ := ast.JSON(inputForm{rawIP: rawIP}.term(v).Value)
		return j
	}
	utf8 := func(s string) string { return string([]rune(s)) }
	set := func(into map[string]any, name, text string) {
		if text != "" {
			into[name] = utf8(text)
		}
	}
	properties := func(into map[string]any, all attribute.Map) {
		if len(all) == 0 {
			return
		}
		object := map[string]any{}
		for _, p := range all {
			object[utf8(p.Name)] = value(p.Value)
		}
		into["properties"] = object
	}
	subject, action := map[string]any{}, map[string]any{}
	input := map[string]any{"subject": subject, "action": action}
	if s := r.Subject; s != nil {
		set(subject, "user", s.User)
		if s.Groups != "" {
			subject["groups"] = []any{utf8(s.Groups)}
		}
		properties(subject, s.Properties)
	}
	if a := r.Action; a != nil {
		set(action, "namespace", a.Namespace)
		set(action, "service", a.Service)
		set(action, "method", a.Method)
		set(action, "path", a.Path)
		properties(action, a.Properties)
	}
	if r.Claims != nil {
		input["token"] = r.Claims
	}
	if r.Value != nil {
		input["value"] = value(*r.Value)
	}
	if a := r.API; a != nil {
		call := map[string]any{}
		set(call, "name", a.Name)
		set(call, "version", a.Version)
		set(call, "operation", a.Operation)
		set(call, "key", a.Key)
		if a.Time != nil {
			call["timestamp"] = value(*a.Time)
		}
		input["api"] = call
	}
	set(input, "key", r.Identity)
	return input
}
