package list_test

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/config"
)

func text(s string) attribute.Value { return attribute.OfText(attribute.String, s) }

func address(s string) attribute.Value {
	return attribute.OfIP(string(netip.MustParseAddr(s).AsSlice()))
}

func parse(tb testing.TB, t config.EntryType, entries ...string) *list.List {
	tb.Helper()
	l, err := list.Parse([]byte(strings.Join(entries, "\n")), t)
	require.NoError(tb, err)
	return l
}

func TestParse(t *testing.T) {
	t.Parallel()
	l, err := list.Parse([]byte("# offices\r\n\r\n 10.0.0.0/8 \r\n\t192.0.2.1\n\n   # and\n2001:db8::/32"), config.IPAddresses)
	require.NoError(t, err)
	assert.Equal(t, 3, l.Len())
	assert.Equal(t, config.IPAddresses, l.Type())

	for name, c := range map[string]struct {
		entryType config.EntryType
		document  string
		problem   string
	}{
		"nothing":            {config.Strings, "", "has no entry"},
		"only comments":      {config.Strings, "# a\n\n  \t\r\n#b", "has no entry"},
		"one line is none":   {config.IPAddresses, "10.0.0.0/8\n# x\nexample.com\n", `line 3 is "example.com" and no address or CIDR block; write one such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32`},
		"half a line":        {config.IPAddresses, "10.0.0.0/8\n192.168.0.0/", `line 2 is "192.168.0.0/" and no address or CIDR block; write one such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32`},
		"an error page":      {config.IPAddresses, "<html>", `line 1 is "<html>" and no address or CIDR block; write one such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32`},
		"a comment behind":   {config.IPAddresses, "10.0.0.1 # x", `line 1 is "10.0.0.1 # x" and no address or CIDR block; write one such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32`},
		"a pattern is none":  {config.Regex, "a\n(", `line 2 is "(" and no regular expression in RE2's syntax: missing closing )`},
		"too long a line":    {config.Strings, strings.Repeat("a", 1025), "line 1 has 1025 bytes; use at most 1024"},
		"no text":            {config.Strings, "a\xff", "is no UTF-8 text"},
		"a byte order mark":  {config.Strings, "\ufeffmallory\neve", "line 1 begins with a byte order mark, which no value has; remove it"},
		"one behind a file":  {config.Regex, "eve\n\ufeffmallory.*", "line 2 begins with a byte order mark, which no value has; remove it"},
		"lines of old Macs":  {config.CaseInsensitiveStrings, "mallory\reve\r", `line 1 is "mallory\reve", with a line break in it; make each line an entry`},
		"too large":          {config.Strings, strings.Repeat("#", list.MaxBytes+1), fmt.Sprintf("has more than %d bytes", list.MaxBytes)},
		"too many":           {config.Strings, strings.Repeat("a\n", list.MaxEntries+1), fmt.Sprintf("has more than %d entries", list.MaxEntries)},
		"patterns too large": {config.Regex, strings.Repeat("a{1000}\n", 101), "line 101 makes the regular expressions too large together; use fewer or simpler ones"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := list.Parse([]byte(c.document), c.entryType)
			assert.EqualError(t, err, c.problem)
		})
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	const yes, no, unreadable = "listed", "not listed", "unreadable"
	for name, c := range map[string]struct {
		list *list.List
		want map[string][]attribute.Value
	}{
		"strings": {parse(t, config.Strings, "abc", "ABC ", "ä"), map[string][]attribute.Value{
			yes:        {text("abc"), text("ABC"), text("ä"), attribute.OfText(attribute.Email, "abc"), attribute.OfText(attribute.DNSName, "abc"), attribute.OfText(attribute.URI, "abc")},
			no:         {text("Abc"), text("ab"), text("abcd"), text("abc "), text(" abc"), text("Ä"), text("a\u0308"), text("\xff"), text("abc\nABC")},
			unreadable: {{}, attribute.OfInt64(1), attribute.OfBool(true), attribute.OfDouble(1), address("10.0.0.1"), attribute.OfTimestamp(1, 0), attribute.OfDuration(1, 0)},
		}},
		"strings of any case": {parse(t, config.CaseInsensitiveStrings, "Abc", "straße", "ΣΑΣ", "kelvin"), map[string][]attribute.Value{
			yes:        {text("abc"), text("ABC"), text("aBc"), text("STRAßE"), text("straẞe"), text("σας"), text("σασ"), text("\u212Aelvin"), text("KELVIN")},
			no:         {text("ab"), text("strasse"), text("abc ")},
			unreadable: {text("abc\xff"), attribute.OfInt64(1)},
		}},
		"addresses": {
			parse(t, config.IPAddresses, "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:198.51.100.0/120", "203.0.113.4/30"), map[string][]attribute.Value{
				yes: {
					address("10.0.0.0"), address("10.255.255.255"), address("192.0.2.1"), address("2001:db8:ffff::"), address("::1"), address("198.51.100.7"),
					address("::ffff:10.1.2.3"), text("10.1.2.3"), text("::ffff:10.1.2.3"), text("2001:DB8::1"), text("2001:0db8::0001"), address("203.0.113.7"),
				},
				no: {
					address("11.0.0.0"), address("9.255.255.255"), address("192.0.2.2"), address("2001:db9::"), address("::2"), address("::10.0.0.1"), text("192.0.2.0"),
					address("203.0.113.8"), address("203.0.113.3"),
				},
				unreadable: {
					{},
					text("10.0.0"), text("010.0.0.1"), text("10.0.0.1 "), text("10.0.0.1:80"), text("10.0.0.1, 10.0.0.2"), text("[::1]"), text("::1%eth0"), text("localhost"),
					text("10.0.0.0/8"), text("0x0a000001"), text("167772161"), attribute.OfInt64(167772161),
				},
			},
		},
		"everything in IPv4": {parse(t, config.IPAddresses, "0.0.0.0/0"), map[string][]attribute.Value{
			yes: {address("1.2.3.4"), address("::ffff:1.2.3.4"), address("0.0.0.0")}, no: {address("::"), address("::1.2.3.4")},
		}},
		"regular expressions": {parse(t, config.Regex, "/admin(/.*)?", `(?i)[a-z0-9.-]+\.example\.com`, `\Qa.b`, "x|y", "^z$", "(?m)^m$"), map[string][]attribute.Value{
			yes:        {text("/admin"), text("/admin/"), text("/admin/x"), text("WWW.EXAMPLE.COM"), text("a.b"), text("x"), text("y"), text("z"), text("m")},
			no:         {text("/administrator"), text("x/admin"), text("www.example.com.evil.org"), text("wwwXexample.com"), text("axb"), text("xx"), text("xy"), text("/admin/x\n"), text("m\nm"), text("a\nm\nb"), text("zz")},
			unreadable: {text("/admin/\xff"), text(strings.Repeat("a", 4097)), attribute.OfInt64(1), address("10.0.0.1")},
		}},
	} {
		for want, values := range c.want {
			for _, value := range values {
				got, err := c.list.Contains(t.Context(), value)
				is := map[bool]string{true: yes, false: no}[got]
				if err != nil {
					require.ErrorIs(t, err, list.ErrUnreadable)
					require.False(t, got)
					is = unreadable
				}
				shown, _ := value.Text()
				assert.Equal(t, want, is, "%s: %s %q %s", name, value.Kind(), shown, value.Addr())
			}
		}
	}
}

// Patterns are slow to compare with, so whoever waits no longer is told at the next of them.
func TestContainsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := parse(t, config.Regex, "a").Contains(ctx, text("a"))
	require.ErrorIs(t, err, context.Canceled)
	listed, err := parse(t, config.Strings, "a").Contains(ctx, text("a"))
	require.NoError(t, err, "what is there at once needs no time")
	assert.True(t, listed)
}

// Catastrophic for engines that backtrack.
func TestPatternsAreLinear(t *testing.T) {
	t.Parallel()
	l := parse(t, config.Regex, `(a+)+b`, `(a|a)*b`, `(.*)*c`, `(a?){100}a{100}b`)
	listed, err := l.Contains(t.Context(), text(strings.Repeat("a", 4096)))
	require.NoError(t, err)
	assert.False(t, listed)
}

// Every rune is found under all its forms, and under no other's.
func TestCaseInsensitiveIsEqualFold(t *testing.T) {
	t.Parallel()
	for r := range rune(unicode.MaxRune) {
		next := unicode.SimpleFold(r)
		if next == r || unicode.IsSpace(r) {
			continue
		}
		l := parse(t, config.CaseInsensitiveStrings, "x"+string(r))
		for ; next != r; next = unicode.SimpleFold(next) {
			listed, err := l.Contains(t.Context(), text("X"+string(next)))
			require.NoError(t, err)
			require.True(t, listed, "%q %q", r, next)
		}
	}
}

func FuzzCaseInsensitive(f *testing.F) {
	for _, pair := range [][2]string{{"abc", "ABC"}, {"ß", "ẞ"}, {"K", "\u212A"}, {"s", "ſ"}, {"σ", "ς"}, {"ä", "Ä"}, {"i", "İ"}, {"ǆ", "ǅ"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, entry, value string) {
		l, err := list.Parse([]byte(entry), config.CaseInsensitiveStrings)
		if err != nil || l.Len() != 1 || strings.TrimSpace(entry) != entry || strings.HasPrefix(entry, "#") || strings.Contains(entry, "\n") {
			return
		}
		listed, err := l.Contains(t.Context(), text(value))
		if err == nil {
			require.Equal(t, strings.EqualFold(entry, value), listed)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, document := range []string{"", "a\n", "# a\n", "10.0.0.0/8\n192.0.2.1\n", "(\n", "a{1000}\n", "\xff", "a\r\nb\rc", "::ffff:10.0.0.0/104", " a b \n", "\u2028a\u2029", "#\n1.1.1.1"} {
		for t := range uint8(4) {
			f.Add([]byte(document), t)
		}
	}
	f.Fuzz(func(t *testing.T, document []byte, n uint8) {
		entryType := config.EntryType(n % 4)
		l, err := list.Parse(document, entryType)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.Positive(t, l.Len())
		entries := 0
		for line := range strings.Lines(string(document)) {
			entry := strings.TrimSpace(line)
			if entry == "" || strings.HasPrefix(entry, "#") {
				continue
			}
			entries++
			if entryType == config.Regex {
				continue
			}
			// Every line of the document is on the list.
			if address, _, block := strings.Cut(entry, "/"); block && entryType == config.IPAddresses {
				entry = address
			}
			listed, err := l.Contains(t.Context(), text(entry))
			require.NoError(t, err)
			require.True(t, listed, "%q", entry)
		}
		require.Equal(t, entries, l.Len())
		_, _ = l.Contains(t.Context(), attribute.OfDouble(math.NaN()))
	})
}

func BenchmarkContains(b *testing.B) {
	blocks, names := make([]string, 10_000), make([]string, 10_000)
	for i := range blocks {
		blocks[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
		names[i] = fmt.Sprintf("Customer-%d.example.com", i)
	}
	patterns := make([]string, 100)
	for i := range patterns {
		patterns[i] = fmt.Sprintf(`/v%d/[a-z]+/\d+`, i)
	}
	for _, c := range []struct {
		name   string
		list   *list.List
		value  attribute.Value
		listed bool
	}{
		{"10000 CIDRs/address", parse(b, config.IPAddresses, blocks...), address("10.5.5.5"), true},
		{"10000 CIDRs/address, not listed", parse(b, config.IPAddresses, blocks...), address("192.0.2.1"), false},
		{"10000 CIDRs/text", parse(b, config.IPAddresses, blocks...), text("10.5.5.5"), true},
		{"10000 strings", parse(b, config.Strings, names...), text("Customer-77.example.com"), true},
		{"10000 strings of any case", parse(b, config.CaseInsensitiveStrings, names...), text("customer-77.example.com"), true},
		{"100 patterns, not listed", parse(b, config.Regex, patterns...), text("/v3/customers/abc"), false},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if listed, err := c.list.Contains(b.Context(), c.value); err != nil || listed != c.listed {
					b.Fatal(listed, err)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	var document strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&document, "10.%d.%d.%d/28\n", i/4096, i/16%256, i%16*16)
	}
	b.Run("100000 CIDRs", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := list.Parse([]byte(document.String()), config.IPAddresses); err != nil {
				b.Fatal(err)
			}
		}
	})
}
