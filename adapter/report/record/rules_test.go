package record_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func compile(tb testing.TB, rules record.Rules) *record.Filter {
	tb.Helper()
	filter, err := rules.Compile()
	require.NoError(tb, err)
	return filter
}

// named are the fields with named values of each kind.
var named = map[record.Kind][]protowire.Number{
	record.KindLogEntry: {1, 5}, record.KindMetric: {2, 4}, record.KindTraceSpan: {7},
	record.KindEdge: nil, record.KindNothing: nil, record.KindDecision: nil,
}

func TestApply(t *testing.T) {
	secret := entry("secret", text("hush"))
	other := nested(1, entry("other", integer(5)))
	long := strings.Repeat("n", 300)
	masked := func(name string) string { return nested(1, entry(name, text("***"))) }
	drop, mask := record.Rules{Drop: []string{"secret"}}, record.Rules{Mask: []string{"secret"}}
	for name, c := range map[string]struct {
		rules    record.Rules
		in, want string
	}{
		"nothing to drop":           {rules: drop, in: other + nested(3, "info"), want: other + nested(3, "info")},
		"drop":                      {rules: drop, in: other + nested(1, secret) + nested(3, "info"), want: other + nested(3, "info")},
		"drop all there is":         {rules: drop, in: nested(1, secret), want: ""},
		"drop duplicates":           {rules: drop, in: nested(1, secret) + other + nested(1, secret), want: other},
		"drop neighbours":           {rules: drop, in: other + nested(1, secret) + nested(1, secret) + other, want: other + other},
		"mask":                      {rules: mask, in: other + nested(1, secret) + nested(3, "info"), want: other + masked("secret") + nested(3, "info")},
		"mask duplicates":           {rules: mask, in: nested(1, secret) + other + nested(1, secret), want: masked("secret") + other + masked("secret")},
		"mask what is masked":       {rules: mask, in: other + masked("secret"), want: other + masked("secret")},
		"mask what is masked oddly": {rules: mask, in: nested(1, nested(2, text("***")), nested(1, "secret")), want: masked("secret")},
		"mask a number":             {rules: mask, in: nested(1, entry("secret", integer(5))), want: masked("secret")},
		"mask no value":             {rules: mask, in: nested(1, nested(1, "secret")), want: masked("secret")},
		"mask an empty value":       {rules: mask, in: nested(1, entry("secret")), want: masked("secret")},
		"value before key":          {rules: mask, in: nested(1, nested(2, text("hush")), nested(1, "secret")), want: masked("secret")},
		"value twice":               {rules: mask, in: nested(1, nested(2, text("hush")), nested(1, "secret"), nested(2, integer(1))), want: masked("secret")},
		"unknown field in entry":    {rules: mask, in: nested(1, secret, nested(9, "hush")), want: masked("secret")},
		"key twice, last matches":   {rules: mask, in: nested(1, nested(1, "other"), secret), want: masked("secret")},
		"key twice, first matches":  {rules: mask, in: nested(1, secret, nested(1, "other")), want: nested(1, secret, nested(1, "other"))},
		"no key":                    {rules: record.Rules{Mask: []string{"*"}}, in: nested(1, nested(2, text("hush"))), want: masked("")},
		"empty entry":               {rules: record.Rules{Drop: []string{"*"}}, in: nested(1) + nested(3, "info"), want: nested(3, "info")},
		"overlong":                  {rules: drop, in: "\x8a\x80\x00\x90\x80\x00" + overlong(1, "secret") + overlong(2, "\x0a\x00") + overlong(3, "info"), want: overlong(3, "info")},
		"overlong, kept":            {rules: mask, in: overlong(1, overlong(1, "other")) + nested(1, secret) + overlong(1, overlong(1, "other")), want: overlong(1, overlong(1, "other")) + masked("secret") + overlong(1, overlong(1, "other"))},
		"unknown fields":            {rules: drop, in: nested(99, "secret") + nested(1, secret) + "\xe3\x06\x08\x01\xe4\x06", want: nested(99, "secret") + "\xe3\x06\x08\x01\xe4\x06"},
		"both maps":                 {rules: drop, in: nested(1, secret) + nested(5, secret) + nested(4, "secret"), want: nested(4, "secret")},
		"both maps, masked":         {rules: mask, in: nested(5, secret), want: nested(5, entry("secret", text("***")))},
		"long name":                 {rules: record.Rules{Mask: []string{long}}, in: nested(1, entry(long, text("hush"))), want: masked(long)},
		"names are exact":           {rules: drop, in: nested(1, entry("Secret", text("a"))) + nested(1, entry("secrets", text("a"))) + nested(1, entry("secre", text("a"))), want: nested(1, entry("Secret", text("a"))) + nested(1, entry("secrets", text("a"))) + nested(1, entry("secre", text("a")))},
		"wildcard":                  {rules: record.Rules{Drop: []string{"secret*"}}, in: nested(1, secret) + nested(1, entry("secrets", text("a"))) + nested(1, entry("my secret", text("a"))), want: nested(1, entry("my secret", text("a")))},
		"only":                      {rules: record.Rules{Only: []string{"oth*", "x"}}, in: other + nested(1, secret) + nested(5, secret) + nested(3, "info"), want: other + nested(3, "info")},
		"only and drop":             {rules: record.Rules{Only: []string{"other", "secret"}, Drop: []string{"secret"}}, in: other + nested(1, secret), want: other},
		"only and mask":             {rules: record.Rules{Only: []string{"other"}, Mask: []string{"other", "secret"}}, in: other + nested(1, secret), want: masked("other")},
		"drop and mask":             {rules: record.Rules{Drop: []string{"secret"}, Mask: []string{"*"}}, in: other + nested(1, secret), want: masked("other")},
	} {
		t.Run(name, func(t *testing.T) {
			filter := compile(t, c.rules)
			got, changed := filter.Apply(record.KindLogEntry, c.in)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want != c.in, changed)
			if !changed {
				assert.Equal(t, unsafe.StringData(c.in), unsafe.StringData(got), "copied for nothing")
				assert.Zero(t, testing.AllocsPerRun(10, func() { filter.Apply(record.KindLogEntry, c.in) }))
			}
		})
	}
}

func TestApplyCoversEveryMapOfEveryKind(t *testing.T) {
	filter := compile(t, record.Rules{Drop: []string{"secret"}})
	for kind, fields := range named {
		for field := protowire.Number(1); field < 40; field++ {
			in := nested(field, entry("secret", text("hush")))
			got, changed := filter.Apply(kind, in)
			assert.Equal(t, slices.Contains(fields, field), changed, "%s, field %d", kind, field)
			assert.Equal(t, changed, got == "")
		}
	}
}

func TestNoRulesAreNoFilter(t *testing.T) {
	filter := compile(t, record.Rules{Only: []string{}, Drop: nil, Mask: []string{}})
	assert.Nil(t, filter)
	got, changed := filter.Apply(record.KindLogEntry, "\xff")
	assert.Equal(t, "\xff", got)
	assert.False(t, changed)
}

func TestRulesThatCannotBeMeantAreRefused(t *testing.T) {
	for want, rules := range map[string]record.Rules{
		"drop[1]: is empty": {Drop: []string{"a", ""}},
		"only[0]: is empty": {Only: []string{""}},
		`mask[0]: "a*b": a * stands at the end or nowhere`: {Mask: []string{"a*b"}},
		`mask[0]: "**": a * stands at the end or nowhere`:  {Mask: []string{"**"}},
		`only[0]: "*a": a * stands at the end or nowhere`:  {Only: []string{"*a"}},
	} {
		filter, err := rules.Compile()
		require.EqualError(t, err, want)
		assert.Nil(t, filter)
	}
}

// What cannot be read might be a value that must not get out.
func TestApplyLetsNothingPassThatCannotBeRead(t *testing.T) {
	filter := compile(t, record.Rules{Drop: []string{"secret"}})
	kept := nested(1, entry("other", integer(5)))
	for name, broken := range map[string]string{
		"entry cut":          nested(1, entry("secret", text("hush")))[:12],
		"entry's length":     "\x0a\x7f" + entry("secret", text("hush")),
		"entry without tag":  "\x0a\x7f",
		"entry malformed":    nested(1, nested(2, text("hush")), "\x0a\x7fsecret"),
		"entry a number":     number(1, 1) + nested(1, entry("secret", text("hush"))),
		"field malformed":    "\x1a\x7f" + nested(1, entry("secret", text("hush"))),
		"no field":           "\x00" + "hush",
		"group without end":  "\xe3\x06" + nested(1, entry("secret", text("hush"))),
		"key of a wrong typ": nested(1, number(1, 1), nested(2, text("hush"))),
	} {
		t.Run(name, func(t *testing.T) {
			got, changed := filter.Apply(record.KindLogEntry, kept+nested(1, entry("secret", text("hush")))+kept+broken)
			assert.True(t, changed)
			assert.Equal(t, kept+kept, got)
			require.NoError(t, record.Check(record.KindLogEntry, got))
		})
	}
}

func TestMaskedRecordsSayThatTheyAre(t *testing.T) {
	filter := compile(t, record.Rules{Drop: []string{"user*"}, Mask: []string{"url", "responseCode", "zone"}})
	raw, changed := filter.Apply(record.KindLogEntry, accessLog())
	require.True(t, changed)
	got := parse(t, appendJSON(t, record.KindLogEntry, raw))
	want := parse(t, appendJSON(t, record.KindLogEntry, accessLog()))
	variables := want["variables"].(map[string]any)
	delete(variables, "user")
	delete(variables, "userAgent")
	variables["url"], variables["responseCode"] = "***", "***"
	want["monitored_resource_dimensions"].(map[string]any)["zone"] = "***"
	assert.Equal(t, want, got)
}

// FuzzApply plants a value under a name that the rules drop or mask. Whatever stands before and after it, the value is gone, the
// rest is there byte by byte, and doing it again changes nothing.
func FuzzApply(f *testing.F) {
	form := byte(0)
	for kind, list := range samples() {
		for _, c := range list {
			f.Add(byte(kind), []byte(c.raw), []byte(c.raw), "k", form, form%2 == 0)
			form++
		}
	}
	f.Add(byte(1), []byte(accessLog()), []byte(instance("a")), "user", byte(3), true)
	f.Fuzz(func(t *testing.T, kindByte byte, before, after []byte, name string, form byte, drop bool) {
		const planted = "planted-9c1185a5c5e9"
		kind := record.Kind(kindByte)
		if len(named[kind]) == 0 || strings.Contains(string(before)+string(after)+name, planted) || record.Check(kind, string(before)) != nil {
			return
		}
		field := named[kind][int(form)%len(named[kind])]
		in := string(before) + plant(field, name, planted, form) + string(after)
		rules := record.Rules{Mask: []string{name + "*"}}
		if drop {
			rules = record.Rules{Drop: []string{name + "*"}}
		}
		filter, err := rules.Compile()
		if err != nil {
			return // an asterisk in the name
		}
		got, changed := filter.Apply(kind, in)
		require.True(t, changed)
		require.NotContains(t, got, planted)
		again, changed := filter.Apply(kind, got)
		require.False(t, changed)
		require.Equal(t, got, again)
		if record.Check(kind, in) != nil {
			return
		}
		require.NoError(t, record.Check(kind, got))
		if want, ok := rewritten(kind, in, name, drop); ok {
			require.Equal(t, want, got)
		}
	})
}

// plant encodes an entry whose value holds a text, in one of many forms.
func plant(field protowire.Number, name, planted string, form byte) string {
	values := []string{text(planted), email(planted), dnsName(planted), uri(planted), nested(11, nested(1, planted)), nested(12, planted), ip(planted), integer(1) + text(planted)}
	value := nested(2, values[int(form)%len(values)])
	if form&0x80 != 0 { // overlong
		content := values[int(form)%len(values)]
		value = "\x92\x00" + string([]byte{byte(len(content)) | 0x80, 0x80, 0x00}) + content
	}
	key := nested(1, name)
	forms := []string{key + value, value + key, nested(1, planted) + value + key, value + key + value, key + nested(9, planted), nested(9, planted) + value + key, value + nested(2, integer(1)) + key}
	return nested(field, forms[int(form/8)%len(forms)])
}

// rewritten is what Apply should give, by protowire. It is false for what protowire does not read.
func rewritten(kind record.Kind, in, name string, drop bool) (out string, ok bool) {
	for left := []byte(in); len(left) > 0; {
		number, _, size := protowire.ConsumeField(left)
		if size < 0 {
			return "", false
		}
		segment := left[:size]
		left = left[size:]
		if !slices.Contains(named[kind], number) {
			out += string(segment)
			continue
		}
		_, _, tag := protowire.ConsumeTag(segment)
		content, _ := protowire.ConsumeBytes(segment[tag:])
		key := ""
		for len(content) > 0 {
			number, _, size := protowire.ConsumeField(content)
			if size < 0 {
				return "", false
			}
			if number == 1 {
				_, _, tag := protowire.ConsumeTag(content)
				value, _ := protowire.ConsumeString(content[tag:])
				key = value
			}
			content = content[size:]
		}
		switch {
		case !strings.HasPrefix(key, name):
			out += string(segment)
		case !drop:
			out += nested(number, entry(key, text("***")))
		}
	}
	return out, true
}

// A filter is read by many goroutines at once; the race detector watches.
func TestFiltersAreShared(t *testing.T) {
	filter := compile(t, record.Rules{Only: []string{"u*"}, Mask: []string{"user"}})
	want, _ := filter.Apply(record.KindLogEntry, accessLog())
	for i := range 4 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			for range 100 {
				got, _ := filter.Apply(record.KindLogEntry, accessLog())
				assert.Equal(t, want, got)
			}
		})
	}
}
