package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Bounds of quotas.
const (
	MaxQuotas = 256
	// MaxQuotaAmount is far from where the numbers of Redis' scripts, and of YAML, lose precision.
	MaxQuotaAmount         = 1_000_000_000_000
	MinQuotaWindow         = 100 * time.Millisecond
	MaxQuotaWindow         = 744 * time.Hour
	MaxQuotaDimensions     = 64
	MaxQuotaDimensionBytes = 1024
	MaxQuotaOverrides      = 1000
	DefaultQuotaKeys       = 10_000
	MaxQuotaKeys           = 1_000_000
)

// Quota limits what is granted to each combination of some dimensions.
type Quota struct {
	// Name labels the quota.
	Name string
	// Instance is the name or the full name of the instance it is for; empty for all.
	Instance string
	// Dimensions are those that are counted by, sorted; nil for all that a call has.
	Dimensions []string
	// Limit holds where no override does.
	Limit QuotaLimit
	// Overrides are other limits for some values. The first that matches holds.
	Overrides []QuotaOverride
	// Store names the store of the counts that the settings define; empty for the process' memory.
	Store string
	// MaxKeys is how many combinations are counted at once in memory.
	MaxKeys int
}

// For reports whether the quota is for the instance with the given full name.
func (q *Quota) For(instance string) bool {
	if q.Instance == "" || q.Instance == instance {
		return true
	}
	short, _, full := strings.Cut(instance, ".instance.")
	return full && q.Instance == short
}

// QuotaLimit is how much is granted in what time.
type QuotaLimit struct {
	// Amount is the most that is granted in a window, or from a full bucket; 0 for nothing at all.
	Amount int64
	// Window is the time that Amount, or Refill, is for.
	Window time.Duration
	// Refill is what comes back into a token bucket in a window; 0 for a fixed window.
	Refill int64
}

// QuotaOverride is another limit for some values of the dimensions.
type QuotaOverride struct {
	// Dimensions are the values, as text; at least one, and a call must have all.
	Dimensions map[string]string
	// Limit is of the quota's own kind.
	Limit QuotaLimit
}

func quotas(problems *Problems, params []*configpb.Quota) []Quota {
	if len(params) > MaxQuotas {
		problems.add("quotas", "has %d entries; use at most %d", len(params), MaxQuotas)
		return nil
	}
	var all []Quota
	for i, p := range params {
		field := fmt.Sprintf("quotas[%d]", i)
		q := quota(problems, field, p)
		if slices.ContainsFunc(all, func(before Quota) bool { return before.Instance == q.Instance || before.For(q.Instance) }) {
			problems.add(field+".instance", "is %s, which an entry before it is for, so this one would never hold; remove one of them, or put this one first", quote(q.Instance))
		}
		all = append(all, q)
	}
	return all
}

func quota(problems *Problems, field string, params *configpb.Quota) Quota {
	fallback := "all"
	if params.GetInstance() != "" {
		fallback = label(params.GetInstance())
	}
	q := Quota{
		Name:       name(problems, field+".name", params.GetName(), fallback),
		Instance:   params.GetInstance(),
		Dimensions: quotaDimensions(problems, field+".dimensions", params.GetDimensions()),
		Store:      params.GetStore(),
		MaxKeys:    DefaultQuotaKeys,
	}
	bucket := params.GetAlgorithm() == configpb.Quota_TOKEN_BUCKET
	if params.GetWindow() == nil {
		problems.add(field+".window", "is missing; say in what time, such as %q", "1m")
	}
	if params.GetAmount() == 0 {
		problems.add(field+".amount", "is missing; say how much is granted in a window")
	} else {
		q.Limit = quotaLimit(problems, field, bucket, params.GetAmount(), params.GetWindow(), 0, params.GetRefill())
	}
	switch keys := params.GetMaxKeys(); {
	case keys < 0 || keys > MaxQuotaKeys:
		problems.add(field+".max_keys", "is %d; use 1 to %d", keys, MaxQuotaKeys)
	case keys > 0 && q.Store != "":
		problems.add(field+".max_keys", "stands beside store, but bounds what is counted in memory; remove it")
	case keys > 0:
		q.MaxKeys = int(keys)
	}
	if len(params.GetOverrides()) > MaxQuotaOverrides {
		problems.add(field+".overrides", "has %d entries; use at most %d", len(params.GetOverrides()), MaxQuotaOverrides)
		return q
	}
	for i, o := range params.GetOverrides() {
		q.Overrides = append(q.Overrides, quotaOverride(problems, fmt.Sprintf("%s.overrides[%d]", field, i), &q, bucket, o))
	}
	return q
}

func quotaDimensions(problems *Problems, field string, names []string) []string {
	if len(names) > MaxQuotaDimensions {
		problems.add(field, "has %d names; use at most %d", len(names), MaxQuotaDimensions)
		return nil
	}
	for i, name := range names {
		switch {
		case name == "":
			problems.add(fmt.Sprintf("%s[%d]", field, i), "is empty; name a dimension of the instance")
		case len(name) > MaxQuotaDimensionBytes:
			problems.add(fmt.Sprintf("%s[%d]", field, i), "has %d bytes; use at most %d", len(name), MaxQuotaDimensionBytes)
		case slices.Contains(names[:i], name):
			problems.add(fmt.Sprintf("%s[%d]", field, i), "names %s again; keep one", quote(name))
		}
	}
	return slices.Sorted(slices.Values(names))
}

// quotaLimit reads a limit. A window that is absent is the fallback, and a refill that is absent is the amount.
func quotaLimit(problems *Problems, field string, bucket bool, amount int64, window *durationpb.Duration, fallback time.Duration, refill int64) QuotaLimit {
	limit := QuotaLimit{Amount: amount, Window: fallback}
	if amount < 0 || amount > MaxQuotaAmount {
		problems.add(field+".amount", "is %d; use at most %d", amount, MaxQuotaAmount)
	}
	if window != nil {
		limit.Window = duration(problems, field+".window", window, MinQuotaWindow, MaxQuotaWindow)
	}
	switch {
	case refill < 0 || refill > MaxQuotaAmount:
		problems.add(field+".refill", "is %d; use 1 to %d", refill, MaxQuotaAmount)
	case refill > 0 && !bucket:
		problems.add(field+".refill", "is %d, which only a token bucket has; set algorithm to TOKEN_BUCKET or remove it", refill)
	case bucket:
		// With an amount of 0 there is nothing to refill, but it is a bucket all the same.
		limit.Refill = max(refill, 1)
		if refill == 0 && amount > 0 {
			limit.Refill = amount
		}
		if full := float64(amount) / float64(limit.Refill) * float64(limit.Window); full > float64(MaxQuotaWindow) {
			problems.add(field+".refill", "is %d, with which an empty bucket of %d would take longer than %s to fill; use more", limit.Refill, amount, MaxQuotaWindow)
		}
	}
	return limit
}

func quotaOverride(problems *Problems, field string, q *Quota, bucket bool, params *configpb.QuotaOverride) QuotaOverride {
	o := QuotaOverride{Dimensions: params.GetDimensions()}
	if len(o.Dimensions) == 0 {
		problems.add(field+".dimensions", "is missing; say for which values, or change the quota's own amount")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Dimensions)) {
		if q.Dimensions != nil && !slices.Contains(q.Dimensions, name) {
			problems.add(field+".dimensions["+quote(name)+"]", "is none of the quota's dimensions, so one count would have two limits; add it there or remove it here")
		}
	}
	if params.Amount == nil {
		problems.add(field+".amount", "is missing; say how much is granted in a window, or 0 for nothing")
		return o
	}
	o.Limit = quotaLimit(problems, field, bucket, params.GetAmount(), params.GetWindow(), q.Limit.Window, params.GetRefill())
	return o
}
