package record_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// TestGoldenLines compares every sample with its line in testdata. With UPDATE_GOLDEN=1 it writes the lines instead.
func TestGoldenLines(t *testing.T) {
	for kind, list := range samples() {
		t.Run(kind.String(), func(t *testing.T) {
			var got strings.Builder
			for _, c := range list {
				fmt.Fprintf(&got, "# %s\n%s\n", c.name, appendJSON(t, kind, c.raw))
			}
			file := filepath.Join("testdata", kind.String()+".golden")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				require.NoError(t, os.WriteFile(file, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String())
		})
	}
}

// TestDocumentedLines holds docs/records.md to the golden lines: it shows the example of each kind, and no other line.
func TestDocumentedLines(t *testing.T) {
	page, err := os.ReadFile("../../../docs/records.md")
	require.NoError(t, err)
	shown := regexp.MustCompile(`(?m)^\{"id".*\}$`).FindAllString(string(page), -1)
	var want []string
	for _, kind := range record.Kinds() {
		list := samples()[kind]
		require.Equal(t, "example", list[0].name)
		want = append(want, appendJSON(t, kind, list[0].raw))
	}
	assert.Equal(t, want, shown)
}

// TestDocumentedFields holds docs/records.md to the fields that lines have.
func TestDocumentedFields(t *testing.T) {
	page, err := os.ReadFile("../../../docs/records.md")
	require.NoError(t, err)
	for kind, list := range samples() {
		for _, c := range list {
			for field := range parse(t, appendJSON(t, kind, c.raw)) {
				assert.Contains(t, string(page), "`"+field+"`", kind)
			}
		}
	}
}

func TestLinesEqualTheDecodedRecords(t *testing.T) {
	for kind, list := range samples() {
		for _, c := range list {
			t.Run(kind.String()+"/"+c.name, func(t *testing.T) {
				r := newRecord(t, kind, c.raw)
				requireEqualViews(t, &r, appendJSON(t, kind, c.raw))
			})
		}
	}
}

func TestAppendJSONAppends(t *testing.T) {
	r := newRecord(t, record.KindNothing, "")
	line, err := record.AppendJSON([]byte("before\n"), &r)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(line), "before\n{"))
}

func TestCallerIsLeftOutWhereThereIsNone(t *testing.T) {
	line, err := record.AppendJSON(nil, &record.Record{Kind: record.KindNothing})
	require.NoError(t, err)
	assert.JSONEq(t, `{"id":"00000000000000000000000000000000-0-0","kind":"reportnothing","handler":"","instance":"","arrived":"0001-01-01T00:00:00Z"}`, string(line))
}

func TestRememberedDecisionsSaySo(t *testing.T) {
	for cached, want := range map[bool]string{true: `"revision":"r","cached":true,"latency_seconds":0}`, false: `"revision":"r","cached":false,"latency_seconds":0}`} {
		raw := (&record.Decision{Revision: "r", Cached: cached}).Append(nil)
		line, err := record.AppendJSON(nil, &record.Record{Kind: record.KindDecision, Raw: string(raw)})
		require.NoError(t, err)
		assert.Contains(t, string(line), want)
	}
}

// Decisions of several handlers may share a frame: what the decision says of itself counts.
func TestDecisionsNameTheirHandler(t *testing.T) {
	for _, c := range []struct{ decision, record, want string }{{"a", "b", "a"}, {"", "b", "b"}, {"a", "", "a"}} {
		raw := (&record.Decision{Handler: c.decision}).Append(nil)
		line, err := record.AppendJSON(nil, &record.Record{Kind: record.KindDecision, Handler: c.record, Raw: string(raw)})
		require.NoError(t, err)
		assert.Equal(t, c.want, parse(t, string(line))["handler"])
	}
}

func TestAppendJSONAllocatesNothing(t *testing.T) {
	for kind, list := range samples() {
		r := newRecord(t, kind, list[0].raw)
		if kind == record.KindDecision {
			// The input is checked by encoding/json, whose pool of scanners may be emptied at any time.
			r.Raw = string((&record.Decision{ID: "1", Outcome: "deny", Latency: 1}).Append(nil))
		}
		line := make([]byte, 0, 4096)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if _, err := record.AppendJSON(line, &r); err != nil {
				t.Error(err)
			}
		}), kind)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if err := record.Check(kind, r.Raw); err != nil {
				t.Error(err)
			}
		}), kind)
	}
	// Acceptance allocates nothing however many values a stranger sends.
	huge := many(10_000)
	assert.Zero(t, testing.AllocsPerRun(10, func() { _ = record.Check(record.KindLogEntry, huge) }))
}

// A map of many values must not take quadratic time: a single call may bring megabytes of them, and in the worst order.
func TestManyValuesAreQuick(t *testing.T) {
	var raw strings.Builder
	for i := 200_000; i > 0; i-- {
		raw.WriteString(nested(1, entry(fmt.Sprintf("%09d", i), integer(int64(i)))))
	}
	r := newRecord(t, record.KindLogEntry, raw.String())
	start := time.Now()
	line, err := record.AppendJSON(nil, &r)
	require.NoError(t, err)
	assert.Less(t, time.Since(start), 40*time.Second) // quadratic are minutes, even where nothing else runs
	assert.True(t, json.Valid(line))
}

// FuzzJSON makes a line of arbitrary bytes: one that says the same as the decoded record, or an error where Check has one.
func FuzzJSON(f *testing.F) {
	for kind, list := range samples() {
		for _, c := range list {
			f.Add(byte(kind), []byte(c.raw), "handler", "caller", int64(noon))
		}
	}
	for kind, list := range malformedSamples() {
		for _, c := range list {
			f.Add(byte(kind), []byte(c.raw), "\xff", "\u2028\n", int64(math.MaxInt64))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, raw []byte, handler, caller string, arrived int64) {
		r := newRecord(t, record.Kind(kind), string(raw))
		r.Handler, r.Caller, r.Arrived = handler, caller, time.Unix(arrived, arrived%1e9)
		line, err := record.AppendJSON([]byte("before"), &r)
		require.True(t, strings.HasPrefix(string(line), "before"))
		require.Equal(t, record.Check(r.Kind, r.Raw) == nil, err == nil)
		require.Equal(t, decode(r.Kind, r.Raw) == nil, err == nil)
		if err != nil {
			require.Len(t, line, len("before"))
			return
		}
		requireEqualViews(t, &r, string(line[len("before"):]))
	})
}

func appendJSON(tb testing.TB, kind record.Kind, raw string) string {
	tb.Helper()
	r := newRecord(tb, kind, raw)
	line, err := record.AppendJSON(nil, &r)
	require.NoError(tb, err)
	return string(line)
}

func parse(tb testing.TB, line string) (fields map[string]any) {
	tb.Helper()
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	require.NoError(tb, decoder.Decode(&fields), line)
	_, err := decoder.Token()
	require.Error(tb, err, "something after the object")
	return fields
}

// requireEqualViews reads a line with encoding/json and compares it with the decoded record, field by field of its Go type.
func requireEqualViews(tb testing.TB, r *record.Record, line string) {
	tb.Helper()
	require.True(tb, json.Valid([]byte(line)), "%q", line)
	require.True(tb, utf8.ValidString(line), "%q", line)
	for _, c := range line {
		require.False(tb, unicode.IsControl(c) || c == '\u2028' || c == '\u2029', "%q", line)
	}
	requireUniqueKeys(tb, line)

	got := parse(tb, line)
	var unread []string
	if list, ok := got["undecoded"].([]any); ok {
		for _, name := range list {
			unread = append(unread, name.(string))
		}
		require.NotEmpty(tb, unread)
	} else {
		require.NotContains(tb, got, "undecoded")
	}
	delete(got, "undecoded")

	want := map[string]any{
		"id": r.ID(), "kind": r.Kind.String(), "handler": seen(r.Handler), "arrived": r.Arrived.UTC().Format(time.RFC3339Nano),
	}
	if r.Caller != "" {
		want["caller"] = seen(r.Caller)
	}
	view := views{t: tb, want: want, got: got}
	switch r.Kind {
	case record.KindLogEntry:
		view.of(record.DecodeLogEntry(r.Raw))
	case record.KindMetric:
		view.of(record.DecodeMetric(r.Raw))
	case record.KindTraceSpan:
		view.of(record.DecodeTraceSpan(r.Raw))
	case record.KindEdge:
		view.of(record.DecodeEdge(r.Raw))
	case record.KindNothing:
		view.of(record.DecodeNothing(r.Raw))
	case record.KindDecision:
		view.of(record.DecodeDecision(r.Raw))
	default:
		require.Fail(tb, "no kind")
	}
	require.Equal(tb, want, got)
	require.ElementsMatch(tb, view.unread, unread) // the golden lines show the order
}

// seen is a text as encoding/json sees it.
func seen(text string) string {
	encoded, err := json.Marshal(text)
	if err == nil {
		err = json.Unmarshal(encoded, &text)
	}
	if err != nil {
		panic(err)
	}
	return text
}

// views fills in what a line should say from the fields of a decoded record, whose names it derives from Go's. Values that have
// several good texts it takes from the line once they have proven equal.
type views struct {
	t      testing.TB
	want   map[string]any
	got    map[string]any
	unread []string
}

var (
	lowerUpper = regexp.MustCompile(`([a-z0-9])([A-Z])`)
	upperWord  = regexp.MustCompile(`([A-Z])([A-Z][a-z])`)
)

func snake(name string) string {
	name = upperWord.ReplaceAllString(name, "${1}_$2")
	return strings.ToLower(lowerUpper.ReplaceAllString(name, "${1}_$2"))
}

func (v *views) of(decoded any, err error) {
	v.t.Helper()
	require.NoError(v.t, err)
	value := reflect.ValueOf(decoded)
	_, isDecision := decoded.(record.Decision)
	for i := range value.NumField() {
		field := value.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name := snake(field.Name)
		switch {
		case name == "name" || isDecision && name == "instance":
			v.want["instance"] = seen(value.Field(i).String())
			continue
		case isDecision && name == "id":
			name = "decision_id"
		case isDecision && name == "handler":
			if own := value.Field(i).String(); own != "" {
				v.want["handler"] = seen(own)
			}
			continue
		case isDecision && (name == "input" || name == "checks" || name == "shadow"):
			v.json(name, value.Field(i).String())
			continue
		case isDecision && name == "latency":
			name = "latency_seconds"
		}
		v.field(name, value.Field(i).Interface())
	}
}

func (v *views) field(name string, decoded any) {
	v.t.Helper()
	got, there := v.got[name]
	switch decoded := decoded.(type) {
	case string:
		if decoded != "" {
			v.want[name] = seen(decoded)
		}
	case bool:
		v.want[name] = decoded
	case int64:
		v.want[name] = json.Number(strconv.FormatInt(decoded, 10))
	case time.Time:
		if !decoded.IsZero() {
			v.want[name] = decoded.Format(time.RFC3339Nano)
		} else if there { // it was sent, and is none
			v.want[name] = nil
			v.unread = append(v.unread, name)
		}
	case netip.Addr:
		if decoded.IsValid() {
			v.want[name] = decoded.String()
		} else if there {
			v.want[name] = nil
			v.unread = append(v.unread, name)
		}
	case time.Duration:
		v.want[name] = v.seconds(decoded, got)
	case attribute.Value:
		v.want[name] = v.value(name, decoded, got)
	case attribute.Map:
		v.entries(name, decoded, got)
	default:
		require.Fail(v.t, "a type without a rule", "%s: %T", name, decoded)
	}
}

func (v *views) entries(name string, decoded attribute.Map, got any) {
	v.t.Helper()
	if len(decoded) == 0 {
		return
	}
	gotMap, ok := got.(map[string]any)
	require.True(v.t, ok, "%s is no object", name)
	last := map[string]attribute.Value{}
	for _, entry := range decoded {
		last[seen(entry.Name)] = entry.Value
	}
	want := map[string]any{}
	unread := map[string]bool{}
	for key, value := range last {
		want[key] = v.value("", value, gotMap[key])
		unread[key] = value.Kind() == attribute.Unknown
	}
	v.want[name] = want
	for _, key := range sortedKeys(last) {
		if unread[key] {
			v.unread = append(v.unread, name+"."+key)
		}
	}
}

func sortedKeys(m map[string]attribute.Value) []string {
	encoded, err := json.Marshal(m) // sorts
	if err != nil {
		panic(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	var keys []string
	for depth := 0; ; {
		token, err := decoder.Token()
		if err != nil {
			return keys
		}
		switch token := token.(type) {
		case json.Delim:
			if token == '{' {
				depth++
			} else {
				depth--
			}
		case string:
			if depth == 1 {
				keys = append(keys, token)
			}
		}
	}
}

func (v *views) value(name string, decoded attribute.Value, got any) any {
	v.t.Helper()
	switch decoded.Kind() {
	case attribute.Unknown:
		if name != "" {
			v.unread = append(v.unread, name)
		}
		return nil
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := decoded.Text()
		return seen(text)
	case attribute.Int64:
		return json.Number(strconv.FormatInt(decoded.Int64(), 10))
	case attribute.Double:
		return v.double(decoded.Double(), got)
	case attribute.Bool:
		return decoded.Bool()
	case attribute.IP:
		return decoded.IP().String()
	case attribute.Timestamp:
		return decoded.Time().Format(time.RFC3339Nano)
	case attribute.Duration:
		return v.seconds(decoded.Duration(), got)
	}
	require.Fail(v.t, "a kind without a rule", "%s", decoded.Kind())
	return nil
}

func (v *views) double(want float64, got any) any {
	v.t.Helper()
	if encoded, err := json.Marshal(want); err == nil {
		return json.Number(encoded) // the very same digits
	}
	text, ok := got.(string)
	require.True(v.t, ok, "%v as %v", want, got)
	parsed, err := strconv.ParseFloat(text, 64)
	require.NoError(v.t, err)
	require.True(v.t, parsed == want || math.IsNaN(parsed) && math.IsNaN(want))
	return map[bool]string{true: "NaN", false: fmt.Sprintf("%+f", want)}[math.IsNaN(want)]
}

// seconds demands a number that is exactly the duration.
func (v *views) seconds(want time.Duration, got any) any {
	v.t.Helper()
	number, ok := got.(json.Number)
	require.True(v.t, ok, "%v as %v", want, got)
	parsed, ok := new(big.Rat).SetString(number.String())
	require.True(v.t, ok)
	require.Zero(v.t, parsed.Cmp(big.NewRat(int64(want), int64(time.Second))), "%v as %s", want, number)
	require.False(v.t, strings.Contains(number.String(), ".") && strings.HasSuffix(number.String(), "0"), number)
	return number
}

// input compares the line's input with encoding/json's reading of the text.
func (v *views) json(name, text string) {
	v.t.Helper()
	if text == "" {
		return
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var want any
	err := decoder.Decode(&want)
	if err != nil || !json.Valid([]byte(text)) || depth(text) > 1000 {
		v.want[name] = nil
		v.unread = append(v.unread, name)
		return
	}
	v.want[name] = want
}

func depth(text string) (deepest int) {
	decoder := json.NewDecoder(strings.NewReader(text))
	for now := 0; ; {
		token, err := decoder.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			now++
			deepest = max(deepest, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
}

// requireUniqueKeys refuses a line in which an object has a key twice. What is kept as JSON is its maker's affair.
func requireUniqueKeys(tb testing.TB, line string) {
	tb.Helper()
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	var object func(inner bool)
	object = func(inner bool) {
		keys := map[string]bool{}
		for decoder.More() {
			key, err := decoder.Token()
			require.NoError(tb, err)
			require.False(tb, keys[key.(string)], "%q has %q twice", line, key)
			keys[key.(string)] = true
			if !inner && (key == "input" || key == "checks" || key == "shadow") {
				var kept json.RawMessage
				require.NoError(tb, decoder.Decode(&kept))
				continue
			}
			value, err := decoder.Token()
			require.NoError(tb, err)
			switch value {
			case json.Delim('{'):
				object(true)
			case json.Delim('['):
				for decoder.More() {
					_, err := decoder.Token()
					require.NoError(tb, err)
				}
				_, err := decoder.Token()
				require.NoError(tb, err)
			}
		}
		_, err := decoder.Token()
		require.NoError(tb, err)
	}
	_, err := decoder.Token()
	require.NoError(tb, err)
	object(false)
}
