package mixer

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/authorization"
)

// The wire, written by hand.

func lengthDelimited(number protowire.Number, parts ...string) string {
	content := strings.Join(parts, "")
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), content))
}

func varintField(number protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v))
}

func fixed64Field(number protowire.Number, v uint64) string {
	return string(protowire.AppendFixed64(protowire.AppendTag(nil, number, protowire.Fixed64Type), v))
}

// overlong is a field whose length has two bytes more than it needs, as Mixer's encoder writes lengths.
func overlong(number protowire.Number, content string) string {
	return string(protowire.AppendTag(nil, number, protowire.BytesType)) + string([]byte{byte(len(content)) | 0x80, 0x80, 0x00}) + content
}

func mapEntry(name string, value ...string) string {
	return lengthDelimited(1, name) + lengthDelimited(2, value...)
}

func subjectCall(subject ...string) string {
	return lengthDelimited(1, lengthDelimited(1, subject...))
}

// wireSamples are calls in every form that once was, or might be, read wrongly. They are the fuzzers' seeds.
func wireSamples() map[string]string {
	full := string(mixertest.Bytes(fullRequest()))
	token := mapEntry("custom_token_header", lengthDelimited(1, "abc"))
	handler := string(mixertest.Params(&configpb.Params{AuthKey: proto.String("abc")}))
	configured := lengthDelimited(2, lengthDelimited(1, config.TypeURL), lengthDelimited(2, handler))
	samples := map[string]string{
		"empty":                  "",
		"all fields":             full,
		"allowed":                subjectCall(lengthDelimited(3, token)) + configured,
		"denied":                 subjectCall(lengthDelimited(3, mapEntry("custom_token_header", lengthDelimited(1, "abd")))) + configured,
		"fields in reverse":      "\x1a\x0212" + configured + subjectCall(lengthDelimited(3, token), lengthDelimited(1, "alice")),
		"config in two parts":    lengthDelimited(2, lengthDelimited(1, config.TypeURL)) + lengthDelimited(2, lengthDelimited(2, handler)),
		"config twice":           configured + configured,
		"config empty":           lengthDelimited(2),
		"subject merged":         lengthDelimited(1, lengthDelimited(1, lengthDelimited(1, "a"), lengthDelimited(3, token)), lengthDelimited(1, lengthDelimited(1, "b"))),
		"instance merged":        subjectCall(lengthDelimited(1, "a")) + lengthDelimited(1, lengthDelimited(2, lengthDelimited(4, "/x"))) + subjectCall(lengthDelimited(2, "g")),
		"subject empty":          subjectCall(),
		"action empty":           lengthDelimited(1, lengthDelimited(2)),
		"user twice":             subjectCall(lengthDelimited(1, "a"), lengthDelimited(1, "b")),
		"key twice":              subjectCall(lengthDelimited(3, token), lengthDelimited(3, mapEntry("custom_token_header", lengthDelimited(1, "other")))),
		"entry empty":            subjectCall(lengthDelimited(3)),
		"entry without a value":  subjectCall(lengthDelimited(3, lengthDelimited(1, "k"))),
		"entry without a key":    subjectCall(lengthDelimited(3, lengthDelimited(2, lengthDelimited(1, "v")))),
		"entry backwards":        subjectCall(lengthDelimited(3, lengthDelimited(2, lengthDelimited(1, "v")), lengthDelimited(1, "k"))),
		"entry's value twice":    subjectCall(lengthDelimited(3, lengthDelimited(1, "k"), lengthDelimited(2, varintField(2, 5)), lengthDelimited(2, lengthDelimited(1, "v")))),
		"entry's key a number":   subjectCall(lengthDelimited(3, varintField(1, 1)+"k")),
		"entry's key too long":   subjectCall(lengthDelimited(3, "\x0a\x05k"), lengthDelimited(1, "alice")),
		"entry with an end":      subjectCall(lengthDelimited(3, "\x14\x00")),
		"oneof twice":            subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(1, "v"), varintField(2, 5)))),
		"oneof twice, back":      subjectCall(lengthDelimited(3, mapEntry("k", varintField(2, 5), lengthDelimited(1, "v")))),
		"IP split over two":      subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(5, lengthDelimited(1, "abcd")), lengthDelimited(5)))),
		"IP of 3 bytes":          subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(5, lengthDelimited(1, "abc"))))),
		"IP empty":               subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(5)))),
		"string map":             subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(11, lengthDelimited(1, mapEntry("a", "b")))))),
		"string map, malformed":  subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(11, "\x0a\x7f")))),
		"string and string map":  subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(11), lengthDelimited(1, "v")))),
		"value from the future":  subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(12, "x")))),
		"time out of range":      subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6, lengthDelimited(1, varintField(1, 1<<62), varintField(2, 1e9)))))),
		"time negative nanos":    subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6, lengthDelimited(1, varintField(2, math.MaxUint64)))))),
		"time far away":          subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6, lengthDelimited(1, varintField(1, 1<<63)))))),
		"time without a value":   subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6)))),
		"time in two parts":      subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6, lengthDelimited(1, varintField(1, 7)), lengthDelimited(1, varintField(2, 8)))))),
		"nanos of 64 bits":       subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(6, lengthDelimited(1, varintField(2, 1<<40|5)))))),
		"duration out of range":  subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(7, lengthDelimited(1, varintField(1, 1<<62)))))),
		"bool of many bits":      subjectCall(lengthDelimited(3, mapEntry("k", varintField(4, 1<<40)))),
		"int64 of ten bytes":     subjectCall(lengthDelimited(3, mapEntry("k", varintField(2, math.MaxUint64)))),
		"NaN":                    subjectCall(lengthDelimited(3, mapEntry("k", fixed64Field(3, math.Float64bits(math.NaN()))))),
		"double as a varint":     subjectCall(lengthDelimited(3, mapEntry("k", varintField(3, 1)))),
		"overlong lengths":       overlong(1, overlong(1, overlong(1, "a")+overlong(3, overlong(1, "k")+overlong(2, overlong(1, "v"))))),
		"overlong tags":          "\x8a\x80\x00\x03" + "\x8a\x00\x00",
		"varint too long":        "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
		"varint overflows":       "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7e",
		"length negative":        "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"length huge":            "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
		"truncated":              full[:len(full)/2],
		"field 0":                "\x02\x00",
		"field of 32 bits":       string(protowire.AppendVarint(nil, (1<<32-1)<<3)) + "\x00",
		"field that wraps":       string(protowire.AppendVarint(nil, (1<<32+1)<<3|2)) + "\x00",
		"field of 29 bits":       varintField(1<<29-1, 1),
		"group":                  "\x23\x08\x01\x12\x01a\x24",
		"group unended":          "\x23\x08\x01",
		"group ended twice":      "\x23\x24\x24",
		"group that ends others": "\x23\x2c",
		"groups, deep":           strings.Repeat("\x23", 20_000) + strings.Repeat("\x24", 20_000),
		"messages, deep":         deep(10_000),
		"instance a group":       "\x0b\x0c",
		"instance a number":      "\x08\x01",
		"wire type 7":            "\x27",
		"no UTF-8":               subjectCall(lengthDelimited(1, "\xff\xfe"), lengthDelimited(3, mapEntry("\xff", lengthDelimited(1, "\xff")))),
		"NUL":                    subjectCall(lengthDelimited(1, "\x00")),
	}
	for i := range 12 {
		samples["value member "+string(rune('a'+i))] = subjectCall(lengthDelimited(3, mapEntry("k", lengthDelimited(protowire.Number(i)))))
	}
	return samples
}

// deep is a length-delimited field within a field, and so on, in a field that nobody knows.
func deep(levels int) string {
	content := ""
	for range levels {
		content = string(protowire.AppendTag(nil, 9, protowire.BytesType)) + string(protowire.AppendVarint(nil, uint64(len(content)))) + content
	}
	return content
}

func fullRequest() *authorization.HandleAuthorizationRequest {
	stamp := &policyv1beta1.TimeStamp{Value: &types.Timestamp{Seconds: 1_600_000_000, Nanos: 5}}
	values := map[string]*policyv1beta1.Value{
		"string":    mixertest.Text("abc"),
		"int64":     {Value: &policyv1beta1.Value_Int64Value{Int64Value: -5}},
		"double":    {Value: &policyv1beta1.Value_DoubleValue{DoubleValue: 1.5}},
		"bool":      {Value: &policyv1beta1.Value_BoolValue{BoolValue: true}},
		"IPv4":      {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: &policyv1beta1.IPAddress{Value: []byte{10, 0, 0, 1}}}},
		"IPv6":      {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: &policyv1beta1.IPAddress{Value: []byte("0123456789abcdef")}}},
		"timestamp": {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: stamp}},
		"duration":  {Value: &policyv1beta1.Value_DurationValue{DurationValue: &policyv1beta1.Duration{Value: &types.Duration{Seconds: -3, Nanos: -7}}}},
		"email":     {Value: &policyv1beta1.Value_EmailAddressValue{EmailAddressValue: &policyv1beta1.EmailAddress{Value: "a@example.com"}}},
		"DNS name":  {Value: &policyv1beta1.Value_DnsNameValue{DnsNameValue: &policyv1beta1.DNSName{Value: "example.com"}}},
		"URI":       {Value: &policyv1beta1.Value_UriValue{UriValue: &policyv1beta1.Uri{Value: "https://example.com/"}}},
		"":          mixertest.Text(""),
		"none":      {},
	}
	return &authorization.HandleAuthorizationRequest{
		Instance: &authorization.InstanceMsg{
			Name:    "i.instance.ns",
			Subject: &authorization.SubjectMsg{User: "alice", Groups: "admins", Properties: values},
			Action:  &authorization.ActionMsg{Namespace: "ns", Service: "svc", Method: "GET", Path: "/p", Properties: values},
		},
		AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: []byte("params")},
		DedupId:       "1",
	}
}

// decoded decodes a whole authorization call.
func decoded(message string) (c call, err error) {
	err = decodeCheck(message, decodeAuthorization, &c)
	return c, err
}

func TestDecodeAuthorizationReadsEveryField(t *testing.T) {
	got, err := decoded(string(mixertest.Bytes(fullRequest())))
	require.NoError(t, err)
	assert.True(t, got.hasConfig)
	assert.Equal(t, config.TypeURL, got.typeURL)
	assert.Equal(t, "params", got.params)
	assert.Equal(t, "i.instance.ns", got.request.Instance)

	subject, action := got.request.Subject, got.request.Action
	assert.Equal(t, []string{"alice", "admins"}, []string{subject.User, subject.Groups})
	assert.Equal(t, []string{"ns", "svc", "GET", "/p"}, []string{action.Namespace, action.Service, action.Method, action.Path})
	want := map[string]attribute.Value{
		"string":    attribute.OfText(attribute.String, "abc"),
		"int64":     attribute.OfInt64(-5),
		"double":    attribute.OfDouble(1.5),
		"bool":      attribute.OfBool(true),
		"IPv4":      attribute.OfIP("\x0a\x00\x00\x01"),
		"IPv6":      attribute.OfIP("0123456789abcdef"),
		"timestamp": attribute.OfTimestamp(1_600_000_000, 5),
		"duration":  attribute.OfDuration(-3, -7),
		"email":     attribute.OfText(attribute.Email, "a@example.com"),
		"DNS name":  attribute.OfText(attribute.DNSName, "example.com"),
		"URI":       attribute.OfText(attribute.URI, "https://example.com/"),
		"":          attribute.OfText(attribute.String, ""),
		"none":      {},
	}
	assert.Equal(t, want, byName(subject.Properties))
	assert.Equal(t, want, byName(action.Properties))
}

func byName(properties attribute.Map) map[string]attribute.Value {
	values := make(map[string]attribute.Value, len(properties))
	for _, p := range properties {
		values[p.Name], _ = properties.Get(p.Name)
	}
	return values
}

func TestDecodeAuthorizationReadsTheWireAsProtobufDoes(t *testing.T) {
	samples := wireSamples()
	subject := func(t *testing.T, sample string) *policy.Subject {
		t.Helper()
		got, err := decoded(samples[sample])
		require.NoError(t, err)
		require.NotNil(t, got.request.Subject)
		return got.request.Subject
	}
	value := func(t *testing.T, sample string) attribute.Value {
		t.Helper()
		got, ok := subject(t, sample).Properties.Get("k")
		require.True(t, ok)
		return got
	}
	t.Run("parts of one message are merged", func(t *testing.T) {
		merged := subject(t, "subject merged")
		assert.Equal(t, "b", merged.User)
		assert.Len(t, merged.Properties, 1)
		got, err := decoded(samples["instance merged"])
		require.NoError(t, err)
		assert.Equal(t, policy.Subject{User: "a", Groups: "g"}, *got.request.Subject)
		assert.Equal(t, policy.Action{Path: "/x"}, *got.request.Action)
		got, err = decoded(samples["config in two parts"])
		require.NoError(t, err)
		assert.Equal(t, config.TypeURL, got.typeURL)
		assert.NotEmpty(t, got.params)
	})
	t.Run("an empty message is not an absent one", func(t *testing.T) {
		got, err := decoded(samples["empty"])
		require.NoError(t, err)
		assert.Equal(t, call{}, got)
		got, err = decoded(samples["config empty"])
		require.NoError(t, err)
		assert.Equal(t, call{hasConfig: true}, got)
		assert.Equal(t, policy.Subject{}, *subject(t, "subject empty"))
	})
	t.Run("the last of several counts", func(t *testing.T) {
		assert.Equal(t, "b", subject(t, "user twice").User)
		token, _ := subject(t, "key twice").Properties.Get("custom_token_header")
		assert.Equal(t, attribute.OfText(attribute.String, "other"), token)
		assert.Equal(t, attribute.OfInt64(5), value(t, "oneof twice"))
		text := attribute.OfText(attribute.String, "v")
		assert.Equal(t, text, value(t, "oneof twice, back"))
		assert.Equal(t, text, value(t, "entry's value twice"))
		assert.Equal(t, text, value(t, "entry backwards"))
	})
	t.Run("overlong varints are read", func(t *testing.T) {
		assert.Equal(t, "a", subject(t, "overlong lengths").User)
		assert.Equal(t, attribute.OfText(attribute.String, "v"), value(t, "overlong lengths"))
		assert.Empty(t, subject(t, "overlong tags").User)
	})
	t.Run("a value that cannot be read is unknown", func(t *testing.T) {
		for _, sample := range []string{
			"IP of 3 bytes", "IP empty", "IP split over two", "string map", "string map, malformed", "string and string map", "value from the future",
			"time out of range", "time far away", "time negative nanos", "time without a value", "duration out of range", "entry without a value",
		} {
			assert.Equal(t, attribute.Unknown, value(t, sample).Kind(), sample)
		}
	})
	t.Run("numbers are truncated as declared", func(t *testing.T) {
		assert.Equal(t, attribute.OfTimestamp(0, 5), value(t, "nanos of 64 bits"))
		assert.Equal(t, attribute.OfTimestamp(7, 8), value(t, "time in two parts"))
		assert.Equal(t, attribute.OfBool(true), value(t, "bool of many bits"))
		assert.Equal(t, attribute.OfInt64(-1), value(t, "int64 of ten bytes"))
	})
	t.Run("what is malformed is refused", func(t *testing.T) {
		for _, sample := range []string{
			"truncated", "field 0", "field of 32 bits", "varint too long", "length negative", "length huge", "group unended", "group ended twice",
			"instance a group", "instance a number", "wire type 7", "double as a varint", "entry's key a number", "entry's key too long", "entry with an end",
		} {
			_, err := decoded(samples[sample])
			assert.ErrorIs(t, err, wire.ErrMalformed, sample)
		}
	})
}

// Every prefix of a call is either a call or refused; none may be read past its end.
func TestDecodeAuthorizationOfEveryPrefix(t *testing.T) {
	full := mixertest.Bytes(fullRequest())
	for i := range full {
		compareWithGenerated(t, full[:i])
	}
}

func TestDecodeAuthorizationAgreesWithGeneratedCode(t *testing.T) {
	for name, sample := range wireSamples() {
		t.Run(name, func(t *testing.T) { compareWithGenerated(t, []byte(sample)) })
	}
}

func FuzzDecodeAuthorization(f *testing.F) {
	for _, sample := range wireSamples() {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareWithGenerated(t, data) })
}

// compareWithGenerated decodes with our decoder and with gogo/protobuf's. They differ on purpose in this alone:
//
//   - The generated code does not look at the wire types of map entries and lets their fields run over the entry's end. Ours
//     refuses such entries: no encoder writes them.
//   - string_map_value, which no Mixer sends, and members that are not known make a value unknown here, even beside a member
//     that is known, and their content is not read.
//   - Addresses that are not 4 or 16 bytes and times out of range are unknown values.
func compareWithGenerated(t *testing.T, data []byte) {
	t.Helper()
	theirs := &authorization.HandleAuthorizationRequest{}
	theirErr := theirs.Unmarshal(data)
	ours, err := decoded(string(data))
	odd := oddities{}
	odd.request(data)

	if (err == nil) != (theirErr == nil) {
		require.True(t, err == nil && odd.stranger || theirErr == nil && odd.entry, "ours: %v, generated: %v", err, theirErr)
		return
	}
	if err != nil {
		return
	}
	require.False(t, odd.entry, "a malformed map entry was accepted")
	require.Equal(t, theirs.AdapterConfig != nil, ours.hasConfig)
	if theirs.AdapterConfig != nil {
		require.Equal(t, theirs.AdapterConfig.TypeUrl, ours.typeURL)
		require.Equal(t, string(theirs.AdapterConfig.Value), ours.params)
	}
	instance := theirs.Instance
	if instance == nil {
		instance = &authorization.InstanceMsg{}
	}
	require.Equal(t, instance.Name, ours.request.Instance)
	require.Equal(t, instance.Subject != nil, ours.request.Subject != nil)
	require.Equal(t, instance.Action != nil, ours.request.Action != nil)
	if s := instance.Subject; s != nil {
		require.Equal(t, []string{s.User, s.Groups}, []string{ours.request.Subject.User, ours.request.Subject.Groups})
		compareProperties(t, s.Properties, ours.request.Subject.Properties, odd.stranger)
	}
	if a := instance.Action; a != nil {
		o := ours.request.Action
		require.Equal(t, []string{a.Namespace, a.Service, a.Method, a.Path}, []string{o.Namespace, o.Service, o.Method, o.Path})
		compareProperties(t, a.Properties, o.Properties, odd.stranger)
	}
}

func compareProperties(t *testing.T, theirs map[string]*policyv1beta1.Value, ours attribute.Map, stranger bool) {
	t.Helper()
	got := byName(ours)
	require.Len(t, got, len(theirs))
	for name, value := range theirs {
		mine, ok := got[name]
		require.True(t, ok)
		if stranger && mine.Kind() == attribute.Unknown {
			continue
		}
		require.Equal(t, fromGenerated(value), mine)
	}
}

func fromGenerated(v *policyv1beta1.Value) attribute.Value {
	switch m := v.GetValue().(type) {
	case *policyv1beta1.Value_StringValue:
		return attribute.OfText(attribute.String, m.StringValue)
	case *policyv1beta1.Value_Int64Value:
		return attribute.OfInt64(m.Int64Value)
	case *policyv1beta1.Value_DoubleValue:
		return attribute.OfDouble(m.DoubleValue)
	case *policyv1beta1.Value_BoolValue:
		return attribute.OfBool(m.BoolValue)
	case *policyv1beta1.Value_IpAddressValue:
		return attribute.OfIP(string(m.IpAddressValue.GetValue()))
	case *policyv1beta1.Value_TimestampValue:
		if stamp := m.TimestampValue.GetValue(); stamp != nil {
			return attribute.OfTimestamp(stamp.Seconds, stamp.Nanos)
		}
	case *policyv1beta1.Value_DurationValue:
		if d := m.DurationValue.GetValue(); d != nil {
			return attribute.OfDuration(d.Seconds, d.Nanos)
		}
	case *policyv1beta1.Value_EmailAddressValue:
		return attribute.OfText(attribute.Email, m.EmailAddressValue.GetValue())
	case *policyv1beta1.Value_DnsNameValue:
		return attribute.OfText(attribute.DNSName, m.DnsNameValue.GetValue())
	case *policyv1beta1.Value_UriValue:
		return attribute.OfText(attribute.URI, m.UriValue.GetValue())
	}
	return attribute.Value{}
}

// The wire types of protobuf, for a walk that shares nothing with the decoder.
const (
	wireVarint byte = iota
	wire64
	wireBytes
	wireGroup
	wireEnd
	wire32
)

// oddities finds what compareWithGenerated excuses. It shares no code with the decoder.
type oddities struct {
	// entry is a map entry that the generated code reads and we do not.
	entry bool
	// stranger is a value with a member other than the ten that are read.
	stranger bool
}

func (o *oddities) request(data []byte) {
	walk(data, func(number int32, wire byte, instance []byte) {
		if number != 1 || wire != wireBytes {
			return
		}
		walk(instance, func(number int32, wire byte, part []byte) {
			properties := map[int32]int32{1: 3, 2: 5}[number]
			if properties == 0 || wire != wireBytes {
				return
			}
			walk(part, func(number int32, wire byte, entry []byte) {
				if number == properties && wire == wireBytes {
					o.properties(entry)
				}
			})
		})
	})
}

func (o *oddities) properties(entry []byte) {
	whole := walk(entry, func(number int32, wire byte, value []byte) {
		if number <= 0 || (number == 1 || number == 2) && wire != wireBytes || wire == wireEnd {
			o.entry = true
		}
		if number == 2 && wire == wireBytes {
			walk(value, func(number int32, _ byte, _ []byte) { o.stranger = o.stranger || number < 1 || number > 10 })
		}
	})
	o.entry = o.entry || !whole
}

// walk visits the fields of a message until something is malformed, and reports whether nothing was. Content is that of
// length-delimited fields.
func walk(data []byte, visit func(number int32, wire byte, content []byte)) (whole bool) {
	for len(data) > 0 {
		tag, n := looseVarint(data)
		if n == 0 {
			return false
		}
		number, wire := int32(tag>>3), byte(tag&7)
		size, head := looseSize(wire, data[n:])
		if size < 0 {
			visit(number, wireEnd, nil)
			return false
		}
		visit(number, wire, data[n+head:n+size])
		data = data[n+size:]
	}
	return true
}

// looseSize returns how long a field's value is, and how much of that is a length; -1 where it is malformed.
func looseSize(wire byte, data []byte) (size, head int) {
	switch wire {
	case wireVarint:
		_, n := looseVarint(data)
		if n == 0 {
			return -1, 0
		}
		return n, 0
	case wire64, wire32:
		size = map[byte]int{wire64: 8, wire32: 4}[wire]
		if len(data) < size {
			return -1, 0
		}
		return size, 0
	case wireBytes:
		length, n := looseVarint(data)
		if n == 0 || length > uint64(len(data)-n) {
			return -1, 0
		}
		return n + int(length), n
	case wireGroup:
		for open := 1; open > 0; {
			tag, n := looseVarint(data[size:])
			if n == 0 {
				return -1, 0
			}
			size += n
			switch inner := byte(tag & 7); inner {
			case wireGroup:
				open++
			case wireEnd:
				open--
			default:
				n, _ := looseSize(inner, data[size:])
				if n < 0 {
					return -1, 0
				}
				size += n
			}
		}
		return size, 0
	default:
		return -1, 0
	}
}

// looseVarint reads at most ten bytes and drops bits past the 64th, as the generated code does.
func looseVarint(data []byte) (v uint64, n int) {
	end := slices.IndexFunc(data[:min(len(data), 10)], func(b byte) bool { return b < 0x80 })
	for i := range end + 1 {
		v |= uint64(data[i]&0x7f) << (7 * i)
	}
	return v, end + 1
}
