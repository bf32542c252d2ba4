package config_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// The wire, written by hand.

func text(number int, parts ...string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, protowire.Number(number), protowire.BytesType), strings.Join(parts, "")))
}

func varint(number int, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, protowire.Number(number), protowire.VarintType), v))
}

// overlong is a field whose length has two bytes more than it needs, as Mixer's encoder writes lengths.
func overlong(number int, parts ...string) string {
	content := strings.Join(parts, "")
	return string(protowire.AppendTag(nil, protowire.Number(number), protowire.BytesType)) +
		string([]byte{byte(len(content)&0x7f) | 0x80, byte(len(content)>>7) | 0x80, 0x00}) + content
}

// Field numbers of Params and its parts.
const (
	authKey        = 1
	nameField      = 2
	checkMethod    = 5
	failClose      = 6
	failure        = 9
	failureTimeout = 5
	open           = 2
	denial         = 11
	denialHTTP     = 3
	httpHeaders    = 3
)

func TestNothingAtAll(t *testing.T) {
	t.Parallel()
	for _, params := range [][]byte{nil, {}} {
		handler, problems := config.Parse(params)
		require.NotNil(t, handler)
		assert.Empty(t, problems)
		assert.False(t, handler.HasChecks())
		assert.Equal(t, config.Modes{}, handler.Modes)
	}
}

// A later version may hide values by a field that this one does not know: then it may show none.
func TestUnknownFieldsOfReportsHideAll(t *testing.T) {
	t.Parallel()
	const report, masks = 13, 5
	known := text(masks, "user")
	for name, c := range map[string]struct {
		params string
		hides  bool
	}{
		"known":                    {text(report, known), false},
		"unknown in report":        {text(report, known+varint(99, 1)), true},
		"known in another type":    {text(report, known+varint(masks, 1)), true},
		"unknown beside report":    {text(report, known) + varint(99, 1), false},
		"report in another type":   {varint(report, 1), true},
		"undecodable":              {text(report, known) + "\xff", true},
		"too many problems to see": {strings.Repeat(text(3, ""), 150) + text(report, known), true},
	} {
		handler, _ := config.Parse([]byte(c.params))
		assert.Equal(t, c.hides, handler.Report.HideAll, name)
	}
}

func TestUndecodable(t *testing.T) {
	t.Parallel()
	const planted = "planted-credential"
	for name, params := range map[string]string{
		"garbage":             "\xff\xff\xff\xff",
		"cut in a string":     text(authKey, planted)[:10],
		"string not in UTF-8": text(authKey, planted, "\xff"),
		"field number 0":      text(authKey, planted) + "\x02\x00",
		"end of no group":     text(authKey, planted) + "\x0c",
		"varint too long":     text(authKey, planted) + "\x30" + strings.Repeat("\x80", 10) + "\x01",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Open, had it decoded.
			params := text(failure, varint(failureTimeout, open)) + params
			handler, problems := config.Parse([]byte(params))
			require.NotNil(t, handler)
			assert.Equal(t, config.Modes{}, handler.Modes)
			assert.Equal(t, "undecodable", handler.Name)
			assert.Regexp(t, "^[0-9a-f]{12}$", handler.Fingerprint)
			assert.Equal(t, config.Problems{{Field: "params", Text: fmt.Sprintf("%d bytes are no tollgate.config.v1.Params: "+
				"check that the adapter resource is the one that belongs to this version", len(params))}}, problems)
		})
	}
}

func TestOverlongVarints(t *testing.T) {
	t.Parallel()
	plain := text(authKey, "abc") + text(nameField, "shop") + varint(failClose, 0) + text(denial, text(denialHTTP, text(httpHeaders, text(1, "X-A"), text(2, "b"))))
	long := overlong(authKey, "abc") + overlong(nameField, "shop") +
		"\x30\x80\x80\x00" + // fail_close: 0
		overlong(denial, overlong(denialHTTP, overlong(httpHeaders, overlong(1, "X-A"), overlong(2, "b"))))
	want, problems := config.Parse([]byte(plain))
	require.Empty(t, problems)
	got, problems := config.Parse([]byte(long))
	require.Empty(t, problems)
	assert.Equal(t, want, got)
}

// Mixer encodes maps in random order and is free in the order of fields; state must not depend on that.
func TestFingerprintIsTheSameInEveryOrder(t *testing.T) {
	t.Parallel()
	entries := []string{
		text(httpHeaders, text(1, "X-A"), text(2, "1")),
		text(httpHeaders, text(2, "2"), text(1, "X-B")), // value before key
		text(httpHeaders, text(1, "X-C"), text(2, "3")),
	}
	parts := []string{text(authKey, "abc"), text(failure, varint(failureTimeout, open)), ""}
	fingerprints := map[string]bool{}
	names := map[string]bool{}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var headers, params string
		for _, i := range order {
			headers += entries[i]
		}
		parts[2] = text(denial, text(denialHTTP, headers))
		for _, i := range order {
			params += parts[i]
		}
		handler, problems := config.Parse([]byte(params))
		require.Empty(t, problems)
		fingerprints[handler.Fingerprint] = true
		names[handler.Name] = true
	}
	assert.Len(t, fingerprints, 1)
	assert.Equal(t, fingerprints, names, "an unnamed handler is called by its fingerprint")

	other, problems := config.Parse([]byte(text(authKey, "abd") + parts[1] + parts[2]))
	require.Empty(t, problems)
	assert.NotContains(t, fingerprints, other.Fingerprint)
}

// place is a message in Params in which a field from the future could stand.
type place struct {
	path string
	wrap func(content string) []byte
}

// places returns every message in Params, at any depth, so that new ones are tested without a word.
func places(message protoreflect.MessageDescriptor, path string, wrap func(string) []byte) []place {
	all := []place{{path, wrap}}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if field.Message() == nil || field.IsMap() {
			continue
		}
		below := path + string(field.Name())
		if replaced(below) {
			continue
		}
		inside := func(content string) string { return text(int(field.Number()), content) }
		if field.IsList() {
			// The second element, to see its index.
			below += "[1]"
			inside = func(content string) string { return text(int(field.Number())) + text(int(field.Number()), content) }
		}
		all = append(all, places(field.Message(), below+".", func(content string) []byte { return wrap(inside(content)) })...)
	}
	return all
}

// replaced are the sections of a candidate that are not read: the handler's stand in their place.
func replaced(path string) bool {
	section, ok := strings.CutPrefix(path, "shadow.candidate.")
	return ok && slices.Contains([]string{"report", "decision_log", "shadow"}, section)
}

// where returns the problems among which one at the path must be: a shadow section has its own.
func where(path string, handler *config.Handler, problems config.Problems) config.Problems {
	if strings.HasPrefix(path, "shadow.") {
		return problemsOf(handler)
	}
	return problems
}

// opened is a sound failure section that the params of these tests begin with.
var opened = text(failure, varint(failureTimeout, open))

func allPlaces() []place {
	return places((&configpb.Params{}).ProtoReflect().Descriptor(), "", func(content string) []byte { return []byte(opened + content) })
}

func TestFieldsFromTheFuture(t *testing.T) {
	t.Parallel()
	for _, p := range allPlaces() {
		t.Run("in "+p.path, func(t *testing.T) {
			t.Parallel()
			// Twice, as a repeated field comes, and of every wire type.
			handler, problems := config.Parse(p.wrap(text(1234, "planted-credential") + text(1234, "x") + varint(1235, 1) +
				string(protowire.AppendFixed32(protowire.AppendTag(nil, 1236, protowire.Fixed32Type), 1)) +
				string(protowire.AppendFixed64(protowire.AppendTag(nil, 1237, protowire.Fixed64Type), 1)) +
				string(protowire.AppendGroup(protowire.AppendTag(nil, 1238, protowire.StartGroupType), 1238, []byte(varint(1, 1))))))
			problems = where(p.path, handler, problems)
			for number := 1234; number <= 1238; number++ {
				assert.Contains(t, problems, config.Problem{
					Field: fmt.Sprintf("%s(field %d)", p.path, number),
					Text:  "is not known to this version of tollgate; upgrade every replica before the params that use it",
				})
			}
			assert.Equal(t, 1, strings.Count(problems.Error(), "(field 1234)"))
			assert.NotContains(t, problems.Error(), "planted")
			if strings.HasPrefix(p.path, "failure") {
				assert.Equal(t, config.Modes{}, handler.Modes)
			} else {
				assert.Equal(t, "open: timeout", handler.Modes.String())
			}
		})
	}
}

func TestEnumNumbersFromTheFuture(t *testing.T) {
	t.Parallel()
	seen := 0
	var walk func(message protoreflect.MessageDescriptor, path string, wrap func(string) string)
	walk = func(message protoreflect.MessageDescriptor, path string, wrap func(string) string) {
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			here := path + string(field.Name())
			if replaced(here) {
				continue
			}
			switch {
			case field.IsMap():
				// unknown.go looks into no map.
				assert.Nil(t, field.MapValue().Message(), here)
				assert.Nil(t, field.MapValue().Enum(), here)
			case field.Message() != nil:
				if field.IsList() {
					here += "[0]"
				}
				walk(field.Message(), here+".", func(content string) string { return wrap(text(int(field.Number()), content)) })
			case field.Enum() != nil:
				for _, number := range []protoreflect.EnumNumber{99, -1} {
					seen++
					handler, problems := config.Parse([]byte(opened + wrap(varint(int(field.Number()), uint64(number)))))
					assert.Contains(t, where(here, handler, problems), config.Problem{Field: here, Text: fmt.Sprintf(
						"has the value %d, which is not known to this version of tollgate; upgrade every replica before the params that use it", number)})
					if path == "failure." {
						assert.Equal(t, config.Modes{}, handler.Modes, here)
					} else {
						assert.Equal(t, "open: timeout", handler.Modes.String(), here)
					}
				}
			}
		}
	}
	walk((&configpb.Params{}).ProtoReflect().Descriptor(), "", func(content string) string { return content })
	assert.GreaterOrEqual(t, seen, 2*11)
}

// A known field in another wire type is not decoded; its section would silently be half there.
func TestKnownFieldsOfAnotherType(t *testing.T) {
	t.Parallel()
	for _, p := range allPlaces() {
		if strings.HasSuffix(p.path, "duration.") || strings.HasSuffix(p.path, "timeout.") {
			continue // the library's own message
		}
		t.Run("in "+p.path, func(t *testing.T) {
			t.Parallel()
			// No field is a fixed32.
			handler, problems := config.Parse(p.wrap(string(protowire.AppendFixed32(protowire.AppendTag(nil, 1, protowire.Fixed32Type), 1))))
			var found bool
			for _, problem := range where(p.path, handler, problems) {
				if strings.HasPrefix(problem.Field, p.path) && strings.HasPrefix(problem.Text, "is encoded as another type") {
					found = true
					assert.NotContains(t, problem.Field, "(field")
				}
			}
			assert.True(t, found, "%v", problems)
			if strings.HasPrefix(p.path, "failure") {
				assert.Equal(t, config.Modes{}, handler.Modes)
			}
		})
	}
	for name, params := range map[string]string{
		"failure as a number":  opened + text(authKey, "abc") + varint(failure, 1),
		"fail_close as a text": opened + text(authKey, "abc") + text(failClose, "true"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler, problems := config.Parse([]byte(params))
			require.Len(t, problems, 1)
			assert.Equal(t, config.Modes{}, handler.Modes)
		})
	}
}

func TestFailCloseBesideFailureOnTheWire(t *testing.T) {
	t.Parallel()
	for _, v := range []uint64{0, 1} {
		handler, problems := config.Parse([]byte(text(authKey, "abc") + opened + varint(failClose, v)))
		assert.Len(t, problems, 1)
		assert.Equal(t, config.Modes{}, handler.Modes)
	}
}

func TestDigestsAreThoseOfTheExpectedValues(t *testing.T) {
	t.Parallel()
	hexadecimal := fmt.Sprintf("%X", sha256.Sum256([]byte("three")))
	handler, problems := config.Parse(encode(t, &configpb.Params{
		AuthKey: proto.String("one "),
		Headers: []*configpb.HeaderCheck{{ActionProperty: proto.String("p"), Values: []string{"two"}, Sha256: []string{hexadecimal}}},
	}))
	require.Empty(t, problems)
	digest := func(value string) config.Digest { return sha256.Sum256([]byte(value)) }
	require.Len(t, handler.Headers, 2)
	assert.Equal(t, []config.Digest{digest("one ")}, handler.Headers[0].Digests, "white space around a value is part of it")
	assert.Equal(t, []config.Digest{digest("two"), digest("three")}, handler.Headers[1].Digests)
}

// gRPC uses its buffers again, so nothing of a handler may point into the bytes.
func TestNothingAliasesTheBytes(t *testing.T) {
	t.Parallel()
	for name, c := range loadCases(t) {
		params := encode(t, c.message)
		want, wantProblems := config.Parse(slices.Clone(params))
		got, gotProblems := config.Parse(params)
		for i := range params {
			params[i] = 'X'
		}
		assert.Equal(t, want, got, name)
		assert.Equal(t, wantProblems, gotProblems, name)
	}
}

// Every prefix of good params decodes, or is a problem; it never panics, and never opens what is not known to be sound.
func TestCutParams(t *testing.T) {
	t.Parallel()
	all := loadCases(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		params := encode(t, all[name].message)
		for end := range params {
			requireInvariants(t, params[:end])
		}
	}
}
