package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// standing is what a verdict is under the modes in force.
type standing uint8

const (
	passed standing = iota
	denied
	failedClosed
	failedOpen
)

var standings = []standing{passed, denied, failedClosed, failedOpen}

// The classes that failures have in these tests. Only the open one is open.
const (
	closedClass = config.EvaluationError
	openClass   = config.Timeout
)

func (s standing) column() string {
	return [...]string{"passed", "denied", "failed closed", "failed open"}[s]
}

func (s standing) verdict(lifetime config.Lifetime) policy.Verdict {
	v := policy.Verdict{Lifetime: lifetime}
	switch s {
	case passed:
		v.Result = policy.Passed
	case denied:
		v.Result = policy.Denied
	case failedClosed:
		v.Failure = policy.Fail(closedClass, "closed")
	case failedOpen:
		v.Failure = policy.Fail(openClass, "open")
	}
	return v
}

// sequences calls f with every sequence of 1 to length members of the alphabet.
func sequences[T any](alphabet []T, length int, f func([]T)) {
	var extend func(prefix []T)
	extend = func(prefix []T) {
		if len(prefix) > 0 {
			f(prefix)
		}
		if len(prefix) < length {
			for _, member := range alphabet {
				extend(append(slices.Clip(prefix), member))
			}
		}
	}
	extend(nil)
}

func decide(h *config.Handler, verdicts ...policy.Verdict) policy.Decision {
	checks := make([]policy.Check, len(verdicts))
	for i, v := range verdicts {
		checks[i] = gives("check"+strconv.Itoa(i), policy.Instant, v)
	}
	return compile(h, checks...).Evaluate(context.Background(), &policy.Request{})
}

// The committed table holds for every sequence of up to four verdicts, and has a row for each of their sets.
func TestTruthTable(t *testing.T) {
	t.Parallel()
	const dir = "testdata/truth-table.md"
	key := func(require string, has [4]bool) string { return fmt.Sprint(require, has) }
	table := map[string]map[string]string{}
	for _, row := range readTable(t, dir) {
		var has [4]bool
		for _, s := range standings {
			cell := row[s.column()]
			require.Contains(t, []string{"", "x"}, cell)
			has[s] = cell == "x"
		}
		k := key(row["require"], has)
		require.NotContains(t, table, k, "a second row for the same set")
		table[k] = row
	}
	require.Len(t, table, 2*15, "a row for each set under all and under any")

	h := handler()
	h.Modes = h.Modes.With(openClass, config.Open)
	h.Deny = config.Lifetime{Duration: 7 * time.Second, Uses: 7}
	for _, h.Require = range []config.Require{config.All, config.Any} {
		sequences(standings, 4, func(sequence []standing) {
			var (
				has      [4]bool
				verdicts []policy.Verdict
			)
			for _, s := range sequence {
				has[s] = true
				verdicts = append(verdicts, s.verdict(config.Lifetime{}))
			}
			row := table[key(h.Require.String(), has)]
			name := fmt.Sprintf("%s of %v", h.Require, sequence)
			require.NotNil(t, row, name)
			d := decide(h, verdicts...)
			code, lifetime := d.Code.String(), "none"
			if d.Code == h.Denial.Code {
				code = "denial"
			}
			switch d.Lifetime {
			case config.SingleUse:
				lifetime = "single use"
			case h.Allow:
				lifetime = "allow"
			case h.Deny:
				lifetime = "deny"
			case config.Lifetime{}:
			default:
				lifetime = fmt.Sprint(d.Lifetime)
			}
			require.Equal(t, row["outcome"], d.Outcome(), name)
			require.Equal(t, row["code"], code, name)
			require.Equal(t, row["flagged"] == "yes", d.Failure != nil, name)
			require.Equal(t, row["lifetime"], lifetime, name)
		})
	}
}

// The same decisions out of another thought than precedence: a handler is a boolean function, and a failure is a value that is
// not known. Open says to go on as if it had been a pass, closed as if a denial. The answer is flagged where the other value
// would have changed it.
func TestCombinationsAgainstOracle(t *testing.T) {
	t.Parallel()
	type given struct {
		standing standing
		lifetime config.Lifetime
	}
	var (
		short = config.Lifetime{Duration: 2 * time.Second, Uses: 50}
		few   = config.Lifetime{Duration: time.Minute, Uses: 10}
		zero  = config.Lifetime{}
	)
	var alphabet []given
	for _, s := range []standing{passed, denied} {
		for _, l := range []config.Lifetime{zero, short, few, config.SingleUse} {
			alphabet = append(alphabet, given{s, l})
		}
	}
	alphabet = append(alphabet, given{standing: failedClosed}, given{standing: failedOpen})

	minimum := func(lifetimes ...config.Lifetime) config.Lifetime {
		var duration []time.Duration
		var uses []int32
		for _, l := range lifetimes {
			if l != zero {
				duration, uses = append(duration, l.Duration), append(uses, l.Uses)
			}
		}
		if len(duration) == 0 {
			return zero
		}
		return config.Lifetime{Duration: slices.Min(duration), Uses: slices.Min(uses)}
	}

	h := handler()
	h.Modes = h.Modes.With(openClass, config.Open)
	for _, h.Require = range []config.Require{config.All, config.Any} {
		for _, h.Allow = range []config.Lifetime{{Duration: 5 * time.Second, Uses: 10_000}, config.SingleUse} {
			for _, h.Deny = range []config.Lifetime{zero, {Duration: 5 * time.Second, Uses: 10_000}} {
				sequences(alphabet, 4, func(sequence []given) {
					truth := func(open, closed bool) bool {
						holds := func(g given) bool {
							return g.standing == passed || g.standing == failedOpen && open || g.standing == failedClosed && closed
						}
						if h.Require == config.Any {
							return slices.ContainsFunc(sequence, holds)
						}
						return !slices.ContainsFunc(sequence, func(g given) bool { return !holds(g) })
					}
					allowed := truth(true, false)
					flagged := allowed != truth(!allowed, !allowed)

					// One verdict decides alone where the handler wants any pass or sees a denial; else all of the kind do.
					decisive, alone := denied, h.Require == config.All
					bounds := []config.Lifetime{h.Deny}
					if allowed {
						decisive, alone = passed, h.Require == config.Any
						bounds[0] = h.Allow
					}
					for _, g := range sequence {
						if g.standing == decisive {
							bounds = append(bounds, g.lifetime)
							if alone {
								break
							}
						}
					}
					lifetime := minimum(bounds...)
					switch {
					case allowed && (flagged || lifetime.Duration <= 0):
						lifetime = config.SingleUse
					case !allowed && (flagged || h.Deny == zero || lifetime.Duration <= 0):
						lifetime = zero
					}
					code := config.OK
					if !allowed {
						code = h.Denial.Code
						if flagged {
							code = config.Unavailable
						}
					}

					verdicts := make([]policy.Verdict, len(sequence))
					for i, g := range sequence {
						verdicts[i] = g.standing.verdict(g.lifetime)
					}
					d := decide(h, verdicts...)
					if d.Allowed() != allowed || (d.Failure != nil) != flagged || d.Code != code || d.Lifetime != lifetime {
						t.Fatalf("%s of %v, allow %v, deny %v:\nwant allowed %t, flagged %t, code %s, lifetime %v\ngot  %+v",
							h.Require, sequence, h.Allow, h.Deny, allowed, flagged, code, lifetime, d)
					}
				})
			}
		}
	}
}

// Every failure class under each mode, alone and beside a pass and a denial.
func TestFailureClasses(t *testing.T) {
	t.Parallel()
	for _, class := range config.FailureClasses() {
		for _, mode := range []config.Mode{config.Closed, config.Open} {
			for _, required := range []config.Require{config.All, config.Any} {
				t.Run(fmt.Sprintf("%s/%s/%s", class, mode, required), func(t *testing.T) {
					t.Parallel()
					h := handler()
					h.Require = required
					h.Modes = h.Modes.With(class, mode)
					failing := policy.Failing(policy.Fail(class, "detail"))
					open := mode == config.Open && class != config.MalformedRequest

					alone := decide(h, failing)
					require.NotNil(t, alone.Failure)
					assert.Equal(t, class, alone.Failure.Class)
					assert.Equal(t, class.String(), alone.Reason)
					assert.Equal(t, "check0", alone.Check)
					assert.Equal(t, h.Fingerprint, alone.Revision)
					assert.Equal(t, open, alone.Allowed())
					assert.Nil(t, alone.HTTP)
					if open {
						assert.Equal(t, config.SingleUse, alone.Lifetime)
						assert.Empty(t, alone.Message)
					} else {
						assert.Equal(t, config.Unavailable, alone.Code)
						assert.Zero(t, alone.Lifetime)
						assert.Contains(t, alone.Message, strings.ReplaceAll(class.String(), "_", " "))
						assert.NotContains(t, alone.Message, "detail")
					}

					for _, verdicts := range [][]policy.Verdict{{failing, policy.Pass("")}, {policy.Pass(""), failing}} {
						d := decide(h, verdicts...)
						assert.Equal(t, required == config.Any || open, d.Allowed())
						assert.Equal(t, required == config.All, d.Failure != nil)
					}
					for _, verdicts := range [][]policy.Verdict{{failing, policy.Deny("")}, {policy.Deny(""), failing}} {
						d := decide(h, verdicts...)
						assert.Equal(t, required == config.Any && open, d.Allowed())
						assert.Equal(t, required == config.Any, d.Failure != nil)
						if d.Allowed() {
							assert.Equal(t, config.SingleUse, d.Lifetime)
						}
					}
				})
			}
		}
	}
}

// A verdict that was never filled in, or has a result that does not exist, passes nobody.
func TestVerdictsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, v := range []policy.Verdict{{}, {Result: 77}, {Lifetime: config.Lifetime{Duration: 1, Uses: 1}}} {
		for _, required := range []config.Require{config.All, config.Any} {
			h := handler()
			h.Require = required
			d := decide(h, v)
			assert.Equal(t, config.Unavailable, d.Code)
			require.NotNil(t, d.Failure)
			assert.Equal(t, config.EvaluationError, d.Failure.Class)
			h.Modes = allOpen()
			assert.Equal(t, "failed_open", decide(h, v).Outcome())
		}
	}
}

// A denial's code is one that denies, whatever a handler or a check says: OK would be an allow, and a mesh may read INTERNAL as
// one.
func TestDenialCodes(t *testing.T) {
	t.Parallel()
	fine := []config.Code{
		config.InvalidArgument, config.NotFound, config.PermissionDenied, config.ResourceExhausted, config.FailedPrecondition, config.Unauthenticated,
	}
	for code := config.Code(-1); code < 20; code++ {
		want := config.PermissionDenied
		if slices.Contains(fine, code) {
			want = code
		}
		h := handler()
		h.Denial.Code = code
		assert.Equal(t, want, decide(h, policy.Deny("")).Code, "%d", code)

		v := policy.Deny("")
		v.Denial = &config.Denial{Code: code}
		assert.Equal(t, want, decide(handler(), v).Code, "%d", code)
	}
}

func TestDenial(t *testing.T) {
	t.Parallel()
	h := handler()
	d := decide(h, policy.Deny("because"))
	assert.Equal(t, "because", d.Reason)
	assert.Equal(t, "check0", d.Check)
	assert.Equal(t, h.Denial.Message, d.Message)
	assert.Equal(t, h.Denial.HTTP, d.HTTP)

	own := policy.Deny("own")
	own.Denial = &config.Denial{Code: config.NotFound, Message: "nothing here"}
	d = decide(h, policy.Pass("fine"), own)
	assert.Equal(t, policy.Decision{Code: config.NotFound, Message: "nothing here", Check: "check1", Reason: "own", Revision: h.Fingerprint, Findings: []policy.Finding{
		{Check: "check0", Result: policy.Passed, Reason: "fine"}, {Check: "check1", Result: policy.Denied, Reason: "own"},
	}}, d)
}

// Of several equal verdicts the answer names the first.
func TestFirstOfEqualsIsNamed(t *testing.T) {
	t.Parallel()
	h := handler()
	assert.Equal(t, "first", decide(h, policy.Pass("first"), policy.Pass("second")).Reason)
	assert.Equal(t, "first", decide(h, policy.Deny("first"), policy.Deny("second")).Reason)
	h.Require = config.Any
	assert.Equal(t, "first", decide(h, policy.Deny("first"), policy.Deny("second")).Reason)
	one, two := policy.Failing(policy.Fail(config.Panic, "")), policy.Failing(policy.Fail(config.Overload, ""))
	assert.Equal(t, "panic", decide(h, one, two).Reason)
	assert.Equal(t, "overload", decide(h, two, one).Reason)
}

// Under `fail_close: true` a closed failure has the code of Mixer's own opa adapter.
func TestFailCloseCode(t *testing.T) {
	t.Parallel()
	params, err := proto.Marshal(&configpb.Params{AuthKey: proto.String("x"), FailClose: proto.Bool(true)})
	require.NoError(t, err)
	h, problems := config.Parse(params)
	require.Empty(t, problems)
	for _, class := range config.FailureClasses() {
		d := decide(h, policy.Failing(policy.Fail(class, "")))
		assert.Equal(t, config.PermissionDenied, d.Code, class.String())
		assert.Equal(t, "failed_closed", d.Outcome())
		assert.Zero(t, d.Lifetime)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	failure := policy.Fail(config.Panic, "")
	for want, d := range map[string]policy.Decision{
		"allow":         {},
		"deny":          {Code: config.NotFound},
		"failed_open":   {Failure: failure},
		"failed_closed": {Failure: failure, Code: config.Unavailable},
	} {
		assert.Equal(t, want, d.Outcome())
	}
	assert.Equal(t, "panic: no 7", policy.Fail(config.Panic, "no %d", 7).Error())
}
