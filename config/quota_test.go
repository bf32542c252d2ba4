package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

func TestQuotaBounds(t *testing.T) {
	t.Parallel()
	quota := func(change func(q *configpb.Quota)) *configpb.Params {
		q := &configpb.Quota{Amount: 1, Window: durationpb.New(time.Second)}
		change(q)
		return &configpb.Params{Quotas: []*configpb.Quota{q}}
	}
	quotas := func(n int) *configpb.Params {
		params := &configpb.Params{}
		for i := range n {
			params.Quotas = append(params.Quotas, &configpb.Quota{Instance: fmt.Sprintf("i%d", i), Amount: 1, Window: durationpb.New(time.Second)})
		}
		return params
	}
	names := func(n int) *configpb.Params {
		return quota(func(q *configpb.Quota) {
			for i := range n {
				q.Dimensions = append(q.Dimensions, fmt.Sprintf("d%d", i))
			}
		})
	}
	override := &configpb.QuotaOverride{Dimensions: map[string]string{"a": "b"}, Amount: proto.Int64(1)}
	overrides := func(n int) *configpb.Params {
		return quota(func(q *configpb.Quota) { q.Overrides = slices.Repeat([]*configpb.QuotaOverride{override}, n) })
	}
	long := func(n int) *configpb.Params {
		return quota(func(q *configpb.Quota) { q.Dimensions = []string{strings.Repeat("d", n)} })
	}
	for name, c := range map[string]struct {
		accepted, refused *configpb.Params
		problem           string
	}{
		"quotas":          {quotas(256), quotas(257), "quotas: has 257 entries; use at most 256"},
		"dimensions":      {names(64), names(65), "quotas[0].dimensions: has 65 names; use at most 64"},
		"dimension bytes": {long(1024), long(1025), "quotas[0].dimensions[0]: has 1025 bytes; use at most 1024"},
		"overrides":       {overrides(1000), overrides(1001), "quotas[0].overrides: has 1001 entries; use at most 1000"},
		"keys": {
			quota(func(q *configpb.Quota) { q.MaxKeys = 1_000_000 }), quota(func(q *configpb.Quota) { q.MaxKeys = 1_000_001 }),
			"quotas[0].max_keys: is 1000001; use 1 to 1000000",
		},
	} {
		_, problems := config.Parse(encode(t, c.accepted))
		assert.Empty(t, problems, name)
		_, problems = config.Parse(encode(t, c.refused))
		assert.EqualError(t, problems, c.problem, name)
	}
}

func TestQuotasAreForInstances(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		quota, instance string
		want            bool
	}{
		{"", "a.instance.ns", true},
		{"", "", true},
		{"a", "a.instance.ns", true},
		{"a", "a", true},
		{"a.instance.ns", "a.instance.ns", true},
		{"a.instance.ns", "a.instance.other", false},
		{"a.instance.ns", "a", false},
		{"a", "b.instance.ns", false},
		{"a", "A.instance.ns", false},
		{"a", "a.other.ns", false},
		{"a", "", false},
	} {
		assert.Equal(t, c.want, (&config.Quota{Instance: c.quota}).For(c.instance), "%v", c)
	}
}
