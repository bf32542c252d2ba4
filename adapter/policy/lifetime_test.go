package policy_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// parseLifetime reads a cell of the tables: "5s × 100", "5s" for any number of uses, "single use" or "none".
func parseLifetime(t *testing.T, cell string) config.Lifetime {
	t.Helper()
	switch cell {
	case "none":
		return config.Lifetime{}
	case "single use":
		return config.SingleUse
	}
	duration, uses, both := strings.Cut(cell, " × ")
	d, err := time.ParseDuration(duration)
	require.NoError(t, err)
	l := policy.For(d)
	if both {
		n, err := strconv.ParseInt(uses, 10, 32)
		require.NoError(t, err)
		l.Uses = int32(n)
	}
	return l
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	parse := func(cell string) config.Lifetime { return parseLifetime(t, cell) }
	for _, row := range readTable(t, "testdata/lifetimes.md") {
		h := handler()
		v := policy.Pass("")
		if row["outcome"] == "deny" {
			v = policy.Deny("")
			h.Deny = parse(row["handler's"])
		} else {
			h.Allow = parse(row["handler's"])
		}
		v.Lifetime = parse(row["verdict's"])
		d := decide(h, v)
		assert.Equal(t, row["outcome"], d.Outcome())
		assert.Equal(t, parse(row["answer"]), d.Lifetime, "%v", row)
		// Under the other combination a single verdict comes to the same.
		h.Require = config.Any
		assert.Equal(t, d, decide(h, v))
	}
}

// Lifetimes that no configuration and no policy can state must not become Mixer's minute.
func TestLifetimesThatAreHalfSet(t *testing.T) {
	t.Parallel()
	half := []config.Lifetime{{Duration: time.Second}, {Uses: 5}, {Duration: -time.Second}, {Duration: time.Second, Uses: -1}, {Duration: -1, Uses: -1}, {}}
	h := handler()
	for _, h.Allow = range half {
		assert.Equal(t, config.SingleUse, decide(h, policy.Pass("")).Lifetime, "%v", h.Allow)
	}
	h = handler()
	for _, l := range half[:5] {
		assert.Equal(t, config.SingleUse, decide(h, policy.Verdict{Result: policy.Passed, Lifetime: l}).Lifetime, "%v", l)
	}
	for _, h.Deny = range half {
		assert.Zero(t, decide(h, policy.Deny("")).Lifetime, "%v", h.Deny)
	}
}

// The committed table has a row for every combination of a handler's setting with bounds of checks and a failure beside them.
func TestLifetimeCombinations(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, row := range readTable(t, "testdata/lifetime-combinations.md") {
		h := handler()
		h.Allow = parseLifetime(t, row["handler's"])
		h.Modes = h.Modes.With(openClass, config.Open)
		if row["require"] == "any" {
			h.Require = config.Any
		}
		var verdicts []policy.Verdict
		key := row["require"] + "/" + row["handler's"] + "/" + row["failure"]
		for _, check := range []string{"list", "token", "policy"} {
			key += "/" + row[check]
			if row[check] != "" {
				verdicts = append(verdicts, policy.Verdict{Result: policy.Passed, Lifetime: parseLifetime(t, row[check])})
			}
		}
		switch row["failure"] {
		case "open":
			verdicts = append(verdicts, policy.Failing(policy.Fail(openClass, "")))
		case "closed":
			verdicts = append(verdicts, policy.Failing(policy.Fail(closedClass, "")))
		default:
			require.Empty(t, row["failure"])
		}
		require.False(t, seen[key], "a second row for %s", key)
		seen[key] = true
		d := decide(h, verdicts...)
		assert.Equal(t, row["outcome"], d.Outcome(), key)
		assert.Equal(t, parseLifetime(t, row["answer"]), d.Lifetime, key)
		// A failure may come before the others as well as after them.
		if row["failure"] != "" {
			last := len(verdicts) - 1
			d = decide(h, append([]policy.Verdict{verdicts[last]}, verdicts[:last]...)...)
			assert.Equal(t, parseLifetime(t, row["answer"]), d.Lifetime, key)
		}
	}
	const settings, lists, tokens, policies, failures = 2 * 2, 2, 4, 4, 3
	const withoutAnyCheck = settings
	assert.Len(t, seen, settings*lists*tokens*policies*failures-withoutAnyCheck)
}

func TestUntil(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for left, want := range map[time.Duration]config.Lifetime{
		time.Minute:                        policy.For(time.Minute),
		time.Second + 999*time.Microsecond: policy.For(time.Second),
		time.Millisecond:                   policy.For(time.Millisecond),
		time.Millisecond - time.Nanosecond: config.SingleUse,
		0:                                  config.SingleUse,
		-time.Hour:                         config.SingleUse,
		100 * 365 * 24 * time.Hour:         policy.For(100 * 365 * 24 * time.Hour),
	} {
		assert.Equal(t, want, policy.Until(now.Add(left), now), left)
	}
	assert.Zero(t, policy.Until(time.Time{}, now), "no end is no bound")
}
