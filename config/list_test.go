package config_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

func TestListBounds(t *testing.T) {
	t.Parallel()
	list := func(t configpb.ListCheck_EntryType, entries ...string) *configpb.Params {
		return &configpb.Params{Lists: []*configpb.ListCheck{{Listed: configpb.ListCheck_ALLOWED, EntryType: t, Entries: entries}}}
	}
	const text, pattern = configpb.ListCheck_STRINGS, configpb.ListCheck_REGEX
	// apart is so many large patterns in each of some lists.
	apart := func(patterns ...int) *configpb.Params {
		params := &configpb.Params{}
		for _, n := range patterns {
			params.Lists = append(params.Lists, list(pattern, slices.Repeat([]string{"a{1000}"}, n)...).Lists...)
		}
		return params
	}
	// beside adds a check of tokens with so many.
	beside := func(params *configpb.Params, patterns int) *configpb.Params {
		params.Jwt = []*configpb.JwtCheck{{
			SubjectProperty: proto.String("a"), Keys: "k", Issuers: []string{"i"}, AnyAudience: true,
			Claims: slices.Repeat([]*configpb.ClaimRule{{Path: "a", Pattern: proto.String("a{1000}")}}, patterns),
		}}
		return params
	}
	key := func(i int) *configpb.ApiKey {
		return &configpb.ApiKey{Identity: "i", Sha256: fmt.Sprintf("%064x", i)}
	}
	keys := func(n int, secrets ...string) *configpb.Params {
		check := &configpb.ApiKeyCheck{Secrets: secrets}
		for i := range n {
			check.Keys = append(check.Keys, key(i))
		}
		return &configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{check}}
	}
	identity := func(text string) *configpb.Params {
		p := keys(1)
		p.ApiKeys[0].Keys[0].Identity = text
		return p
	}
	for name, c := range map[string]struct {
		accepted, refused *configpb.Params
		problem           string
	}{
		"list checks": {
			&configpb.Params{Lists: slices.Repeat(list(text, "a").Lists, 256)}, &configpb.Params{Lists: slices.Repeat(list(text, "a").Lists, 257)},
			"lists: has 257 checks; use at most 256",
		},
		"entries": {
			list(text, slices.Repeat([]string{"a"}, 10_000)...), list(text, slices.Repeat([]string{"a"}, 10_001)...),
			"lists[0].entries: has 10001 entries; use at most 10000, or source",
		},
		"entry": {
			list(text, strings.Repeat("a", 1024)), list(text, strings.Repeat("a", 1025)),
			"lists[0].entries[0]: has 1025 bytes; use at most 1024",
		},
		"pattern": {
			list(pattern, "(ab[cd]){1000}[a-f]{96}"), list(pattern, "(ab[cd]){1000}[a-f]{97}"),
			`lists[0].entries[0]: is "(ab[cd]){1000}[a-f]{97}", which becomes too large with its repetitions written out; use a simpler one`,
		},
		"patterns": {
			list(pattern, slices.Repeat([]string{"a{1000}"}, 100)...), list(pattern, slices.Repeat([]string{"a{1000}"}, 101)...),
			"lists[0].entries[100]: makes the regular expressions too large together; use fewer or simpler ones",
		},
		"patterns of all lists": {
			apart(50, 50), apart(50, 51),
			"lists[1].entries[50]: makes the regular expressions too large together; use fewer or simpler ones",
		},
		"patterns of claims and lists": {
			beside(apart(40), 60), beside(apart(40), 61),
			"lists[0].entries[39]: makes the regular expressions too large together; use fewer or simpler ones",
		},
		"API key checks": {
			&configpb.Params{ApiKeys: slices.Repeat(keys(1).ApiKeys, 256)}, &configpb.Params{ApiKeys: slices.Repeat(keys(1).ApiKeys, 257)},
			"api_keys: has 257 checks; use at most 256",
		},
		"keys": {keys(9_999, "s"), keys(9_999, "s", "t"), "api_keys[0]: has 10001 keys and secrets; use at most 10000"},
		"identity": {
			identity(strings.Repeat("i", 128)), identity(strings.Repeat("i", 129)),
			"api_keys[0].keys[0].identity: has 129 bytes; use at most 128",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := config.Parse(encode(t, c.accepted))
			require.Empty(t, problems)
			_, problems = config.Parse(encode(t, c.refused))
			assert.Equal(t, c.problem, problems.Error())
		})
	}
}

// However large the classes and repetitions, what a list's patterns become is bounded; and the classes of one text are shared.
func TestPatternsAreBounded(t *testing.T) {
	t.Parallel()
	var patterns config.Patterns
	accepted := 0
	for range 100 {
		if patterns.Add(strings.Repeat(`\pL`, 30)) == nil {
			accepted++
		}
	}
	assert.Less(t, accepted, 60)
	assert.Positive(t, accepted)
}

func TestEntryTypesHaveNames(t *testing.T) {
	t.Parallel()
	for _, entryType := range []config.EntryType{config.Strings, config.CaseInsensitiveStrings, config.IPAddresses, config.Regex} {
		got, ok := config.ParseEntryType(entryType.String())
		assert.True(t, ok)
		assert.Equal(t, entryType, got)
		_, known := configpb.ListCheck_EntryType_value[strings.ToUpper(entryType.String())]
		assert.True(t, known, "settings and params call it the same")
	}
	for _, name := range []string{"", "STRINGS", "regexp"} {
		_, ok := config.ParseEntryType(name)
		assert.False(t, ok)
	}
}

// A pattern matches a value where the whole of it is a match, however the pattern tries to get out of its anchors.
func FuzzPatterns(f *testing.F) {
	for _, pattern := range []string{"a", "a|b", "a|bc", "^a$", "(?m)^a$", "(?s).*", ".*", `\Qa.b`, `\Qa)|(b\E`, "(?i)straSSe", "", "a*?", `\z`, "(?U)a+", "[[:alpha:]]+", `\babc\b`} {
		for _, value := range []string{"", "a", "abc", "xa", "ax", "a\nb", "b", "A", "\xff"} {
			f.Add(pattern, value)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		var patterns config.Patterns
		if len(pattern) > config.MaxEntryBytes || patterns.Add(pattern) != nil {
			return
		}
		// The longest of the leftmost matches is the whole value exactly if the whole value is a match.
		plain := regexp.MustCompile(pattern)
		plain.Longest()
		place := plain.FindStringIndex(value)
		whole := slices.Equal(place, []int{0, len(value)})
		require.Equal(t, whole, patterns.Compiled[0].MatchString(value), "%q matches %q", pattern, value)
	})
}

func FuzzParsePrefix(f *testing.F) {
	for _, entry := range []string{"10.0.0.0/8", "192.0.2.1", "::1", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "2001:db8::/32", "0.0.0.0/0", "::/0", "fe80::1%eth0", "1.2.3.4/33", "01.2.3.4", "/8", "::ffff:0:0/96"} {
		f.Add(entry)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		prefix, err := config.ParsePrefix(entry)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.True(t, prefix.IsValid())
		require.Equal(t, prefix.Masked(), prefix)
		require.False(t, prefix.Addr().Is4In6())
		require.Empty(t, prefix.Addr().Zone())
		head, _, block := strings.Cut(entry, "/")
		addr, err := netip.ParseAddr(head)
		require.NoError(t, err)
		require.True(t, prefix.Contains(addr.Unmap()))
		if !block {
			require.True(t, prefix.IsSingleIP())
		}
	})
}
