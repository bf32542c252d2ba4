package otlp

import (
	"slices"
	"strings"
	"unicode/utf8"

	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// The names of attributes that are ours; semantic conventions have none for these.
const (
	attrRecord      = "tollgate.record.id"
	attrHandler     = "tollgate.handler"
	attrInstance    = "tollgate.instance"
	attrCaller      = "tollgate.caller"
	attrSampleOneIn = "tollgate.sample_one_in"
	attrUndecoded   = "tollgate.undecoded"

	attrTimestamp      = "tollgate.timestamp"
	attrStartTime      = "tollgate.start_time"
	attrEndTime        = "tollgate.end_time"
	attrStartMissing   = "tollgate.start_missing"
	attrEndMissing     = "tollgate.end_missing"
	attrEndBeforeStart = "tollgate.end_before_start"
	attrSpanID         = "tollgate.span_id"
	attrParentSpanID   = "tollgate.parent_span_id"

	resourcePrefix = "monitored_resource."
	// renamedPrefix is put before a name that an operator chose and that is taken, until it is free: nothing is lost for a name.
	renamedPrefix = "reported."
)

// attributes collects the attributes of one record after the other.
type attributes struct {
	list      []*commonpb.KeyValue
	undecoded []*commonpb.AnyValue
	names     map[string]struct{}
	pairs     []pair
}

// pair is what nearly all attributes need, in one piece.
type pair struct {
	key   commonpb.KeyValue
	value commonpb.AnyValue
	text  commonpb.AnyValue_StringValue
}

// begin starts a record's attributes.
func (a *attributes) begin() {
	if a.names == nil {
		a.names = make(map[string]struct{}, 32)
	}
	clear(a.names)
	a.names[attrUndecoded] = struct{}{} // it comes last
	a.list, a.undecoded = a.list[:0], nil
}

// identify adds what tells a record and where it comes from.
func (a *attributes) identify(r *record.Record, handler, instance string) {
	a.text(attrRecord, r.ID())
	a.text(attrHandler, handler)
	a.text(attrInstance, instance)
	a.text(attrCaller, r.Caller)
	if r.Delivery != nil && r.Delivery.SampleOneIn > 1 {
		a.number(attrSampleOneIn, r.Delivery.SampleOneIn)
	}
}

// take ends the record's attributes.
func (a *attributes) take() []*commonpb.KeyValue {
	if a.undecoded != nil {
		array := &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: a.undecoded}}
		a.list = append(a.list, &commonpb.KeyValue{Key: attrUndecoded, Value: &commonpb.AnyValue{Value: array}})
	}
	return slices.Clone(a.list)
}

// add adds an attribute whose name is free, and returns its value, which is null.
func (a *attributes) add(name string) *pair {
	const chunk = 64
	if len(a.pairs) == cap(a.pairs) {
		a.pairs = make([]pair, 0, chunk)
	}
	a.pairs = a.pairs[:len(a.pairs)+1]
	p := &a.pairs[len(a.pairs)-1]
	p.key.Key, p.key.Value = name, &p.value
	a.list = append(a.list, &p.key)
	a.names[name] = struct{}{}
	return p
}

// text adds a text unless it is empty, which in Mixer's messages is the same as absent.
func (a *attributes) text(name, value string) {
	if value != "" {
		a.add(name).setText(value)
	}
}

func (a *attributes) number(name string, value int64) {
	a.add(name).value.Value = &commonpb.AnyValue_IntValue{IntValue: value}
}

// size adds a number unless it is 0, which in Mixer's messages is the same as absent.
func (a *attributes) size(name string, value int64) {
	if value != 0 {
		a.number(name, value)
	}
}

func (a *attributes) double(name string, value float64) {
	a.add(name).value.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: value}
}

func (a *attributes) flag(name string) {
	a.add(name).value.Value = &commonpb.AnyValue_BoolValue{BoolValue: true}
}

// resource adds the monitored resource of a log entry or metric.
func (a *attributes) resource(kind string, dimensions attribute.Map) {
	a.text(resourcePrefix+"type", kind)
	a.values("monitored_resource_dimensions", resourcePrefix, dimensions)
}

// values adds a map that an operator named, by sorted names; of a name that comes twice the last value counts. It sorts values in
// place.
func (a *attributes) values(field, prefix string, values attribute.Map) {
	for i := range values {
		values[i].Name = validText(values[i].Name)
	}
	slices.SortStableFunc(values, func(x, y attribute.Entry) int { return strings.Compare(x.Name, y.Name) })
	var taken []int // their names are looked for when all others have theirs
	for i := range values {
		if i+1 < len(values) && values[i+1].Name == values[i].Name {
			continue
		}
		name := prefix + values[i].Name
		if _, ok := a.names[name]; ok {
			taken = append(taken, i)
			continue
		}
		a.value(field, name, &values[i])
	}
	for _, i := range taken {
		name := prefix + values[i].Name
		for ok := true; ok; _, ok = a.names[name] {
			name = renamedPrefix + name
		}
		a.value(field, name, &values[i])
	}
}

// value adds a value of Mixer's. One that cannot be read is null, and its name is among the undecoded.
func (a *attributes) value(field, name string, entry *attribute.Entry) {
	p := a.add(name)
	switch v := entry.Value; v.Kind() {
	case attribute.Unknown:
		a.undecoded = append(a.undecoded, textValue(field+"."+entry.Name))
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := v.Text()
		p.setText(text)
	case attribute.Int64:
		p.value.Value = &commonpb.AnyValue_IntValue{IntValue: v.Int64()}
	case attribute.Double:
		p.value.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: v.Double()}
	case attribute.Bool:
		p.value.Value = &commonpb.AnyValue_BoolValue{BoolValue: v.Bool()}
	case attribute.Duration:
		p.value.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: v.Duration().Seconds()}
	case attribute.IP:
		p.setText(v.Addr().String())
	case attribute.Timestamp:
		p.setText(timeText(v.Time()))
	}
}

// setText sets a text, or its bytes if it is none.
func (p *pair) setText(text string) {
	if !utf8.ValidString(text) {
		p.value.Value = &commonpb.AnyValue_BytesValue{BytesValue: []byte(text)}
		return
	}
	p.text.StringValue = text
	p.value.Value = &p.text
}

func textValue(text string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: validText(text)}}
}

// validText replaces every byte that is no UTF-8: protobuf's texts have none, and one such text would sink a whole request.
func validText(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}
