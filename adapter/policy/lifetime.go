package policy

import (
	"math"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// How long an answer may be reused is computed here and nowhere else:
//
//   - A check states a bound in its verdict: what is left of a token, an entry's own lifetime, what a policy answers, or single use
//     where it looked at something that changes. Without one it leaves the answer to the handler.
//   - Of the verdicts that make the answer, the tightest bound counts, field by field. Where one verdict is enough, as a denial is
//     under all and a pass under any, only the first of them is asked, and its bound counts alone.
//   - What a later check takes its time for is taken off the bounds before it.
//   - An allow lasts as long as the handler says at the most, and the bound can only shorten that. What then is not positive in both
//     fields is for one request: config.SingleUse.
//   - A denial is reused only where the handler says that denials are, and not at all where the bound leaves nothing.
//   - An answer that comes from a failure is never reused: let through it is config.SingleUse, refused it states nothing.

// For makes a bound of time alone.
func For(d time.Duration) config.Lifetime {
	return config.Lifetime{Duration: d, Uses: math.MaxInt32}
}

// Until makes a bound of the time from now to end; single use where that is next to nothing, and none for a zero end.
func Until(end, now time.Time) config.Lifetime {
	if end.IsZero() {
		return config.Lifetime{}
	}
	left := end.Sub(now).Truncate(time.Millisecond)
	if left < config.MinLifetimeDuration {
		return config.SingleUse
	}
	return For(left)
}

// ofAllow returns the lifetime of an allow whose verdicts have the bound.
func ofAllow(handler *config.Handler, bound config.Lifetime) config.Lifetime {
	if l := tighter(handler.Allow, bound); l.Reusable() {
		return l
	}
	return config.SingleUse
}

// ofDenial returns the lifetime of a denial whose verdicts have the bound; zero for none.
func ofDenial(handler *config.Handler, bound config.Lifetime) config.Lifetime {
	if !handler.Deny.Reusable() {
		return config.Lifetime{}
	}
	if l := tighter(handler.Deny, bound); l.Reusable() {
		return l
	}
	return config.Lifetime{}
}

// ofFailure returns the lifetime of an answer that comes from a failure; zero for none.
func ofFailure(mode config.Mode) config.Lifetime {
	if mode == config.Open {
		return config.SingleUse
	}
	return config.Lifetime{}
}

// aged returns what is left of a bound when some of its time has passed.
func aged(bound config.Lifetime, passed time.Duration) config.Lifetime {
	if !bound.Reusable() {
		return bound
	}
	if bound.Duration -= passed; bound.Duration < config.MinLifetimeDuration {
		return config.SingleUse
	}
	return bound
}

// tighter returns the minimum of each field; a zero lifetime sets no bound.
func tighter(a, b config.Lifetime) config.Lifetime {
	switch {
	case a == config.Lifetime{}:
		return b
	case b == config.Lifetime{}:
		return a
	default:
		return config.Lifetime{Duration: min(a.Duration, b.Duration), Uses: min(a.Uses, b.Uses)}
	}
}
