package mesh

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/gogo/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	mixerpb "istio.io/api/mixer/v1"
)

const (
	checkMethod  = "/istio.mixer.v1.Mixer/Check"
	reportMethod = "/istio.mixer.v1.Mixer/Report"
)

// Attributes describe one request to Mixer. A value is a string, bool, int, int64, float64, time.Time, time.Duration,
// []byte, net.IP, netip.Addr or map[string]string.
type Attributes map[string]any

// With returns a copy with the given attributes added or replaced.
func (a Attributes) With(more Attributes) Attributes {
	merged := maps.Clone(a)
	if merged == nil {
		merged = Attributes{}
	}
	maps.Copy(merged, more)
	return merged
}

// Verdict is what Mixer answers to a check.
type Verdict struct {
	Code    codes.Code
	Message string
	// ValidFor and ValidUses say how long a proxy may reuse the answer, exactly as Mixer sent them.
	ValidFor  time.Duration
	ValidUses int32
	// Referenced are the attributes that the answer depends on: a proxy's cache key. A key of a map is written
	// name[key], and an absent one starts with "!".
	Referenced []string
	// Direct is the HTTP response that the proxy gives itself, nil without one.
	Direct *DirectResponse
	// RequestHeaders and ResponseHeaders are what the proxy does to the headers.
	RequestHeaders, ResponseHeaders []HeaderOperation
	// Quotas are the answers to the quotas that were asked for.
	Quotas map[string]QuotaVerdict
}

// OK says whether the request may pass.
func (v *Verdict) OK() bool { return v.Code == codes.OK }

// MixersOwnLifetime says whether the lifetime is the one that Mixer makes up when no handler stated any: a minute
// or ten thousand uses.
func (v *Verdict) MixersOwnLifetime() bool {
	return v.OK() && v.ValidFor == time.Minute && v.ValidUses == 10000
}

// String prints it on one line.
func (v *Verdict) String() string {
	text := fmt.Sprintf("%v %q for %v, %d uses", v.Code, v.Message, v.ValidFor, v.ValidUses)
	if v.Direct != nil {
		text += fmt.Sprintf(", HTTP %d %q", v.Direct.Code, v.Direct.Body)
	}
	return text
}

// DirectResponse is an HTTP response made by a policy. Its headers are the verdict's ResponseHeaders.
type DirectResponse struct {
	Code int
	Body string
}

// HeaderOperation is one change to a header; Operation is REPLACE, REMOVE or APPEND.
type HeaderOperation struct {
	Name, Value, Operation string
}

// QuotaVerdict is what Mixer grants of one quota.
type QuotaVerdict struct {
	Granted  int64
	ValidFor time.Duration
}

// Check asks Mixer's Check API about one request. An error is the failure of the call itself, with Mixer's gRPC
// status; a denial is a Verdict.
func (m *Mixer) Check(ctx context.Context, attributes Attributes) (*Verdict, error) {
	return m.CheckQuota(ctx, attributes, nil)
}

// QuotaRequest is an amount that is asked for. Without BestEffort it is all or nothing.
type QuotaRequest struct {
	Amount     int64
	BestEffort bool
}

// CheckQuota asks about one request and for amounts of quotas, best effort, as a proxy does. Mixer answers about
// quotas only if the request may pass.
func (m *Mixer) CheckQuota(ctx context.Context, attributes Attributes, amounts map[string]int64) (*Verdict, error) {
	quotas := make(map[string]QuotaRequest, len(amounts))
	for name, amount := range amounts {
		quotas[name] = QuotaRequest{Amount: amount, BestEffort: true}
	}
	return m.CheckQuotas(ctx, attributes, strconv.FormatInt(time.Now().UnixNano(), 10), quotas)
}

// CheckQuotas is CheckQuota with everything that a proxy chooses. Calls with the same id are repeats.
func (m *Mixer) CheckQuotas(ctx context.Context, attributes Attributes, id string, quotas map[string]QuotaRequest) (*Verdict, error) {
	conn, err := m.client()
	if err != nil {
		return nil, err
	}
	compressed, err := compress(attributes)
	if err != nil {
		return nil, err
	}
	request := &mixerpb.CheckRequest{Attributes: compressed}
	if len(quotas) > 0 {
		request.DeduplicationId = id
		request.Quotas = make(map[string]mixerpb.CheckRequest_QuotaParams, len(quotas))
		for name, q := range quotas {
			request.Quotas[name] = mixerpb.CheckRequest_QuotaParams(q)
		}
	}
	reply := &mixerpb.CheckResponse{}
	if err := conn.Invoke(ctx, checkMethod, request, reply); err != nil {
		return nil, err
	}
	return verdict(reply), nil
}

// Report sends the records of requests that passed, each as one entry of a single call.
func (m *Mixer) Report(ctx context.Context, records ...Attributes) error {
	conn, err := m.client()
	if err != nil {
		return err
	}
	request := &mixerpb.ReportRequest{
		// Each entry stands alone, rather than being the difference from the one before.
		RepeatedAttributesSemantics: mixerpb.INDEPENDENT_ENCODING,
	}
	for _, record := range records {
		compressed, err := compress(record)
		if err != nil {
			return err
		}
		request.Attributes = append(request.Attributes, compressed)
	}
	return conn.Invoke(ctx, reportMethod, request, &mixerpb.ReportResponse{})
}

func verdict(reply *mixerpb.CheckResponse) *Verdict {
	p := reply.Precondition
	v := &Verdict{
		Code:       codes.Code(p.Status.Code),
		Message:    p.Status.Message,
		ValidFor:   p.ValidDuration,
		ValidUses:  p.ValidUseCount,
		Referenced: referenced(p.ReferencedAttributes),
	}
	if d := p.RouteDirective; d != nil {
		v.RequestHeaders = headerOperations(d.RequestHeaderOperations)
		v.ResponseHeaders = headerOperations(d.ResponseHeaderOperations)
		if d.DirectResponseCode != 0 || d.DirectResponseBody != "" {
			v.Direct = &DirectResponse{Code: int(d.DirectResponseCode), Body: d.DirectResponseBody}
		}
	}
	for name, q := range reply.Quotas {
		if v.Quotas == nil {
			v.Quotas = make(map[string]QuotaVerdict)
		}
		v.Quotas[name] = QuotaVerdict{Granted: q.GrantedAmount, ValidFor: q.ValidDuration}
	}
	return v
}

func headerOperations(ops []mixerpb.HeaderOperation) []HeaderOperation {
	var out []HeaderOperation
	for _, op := range ops {
		out = append(out, HeaderOperation{Name: op.Name, Value: op.Value, Operation: op.Operation.String()})
	}
	return out
}

func referenced(attrs *mixerpb.ReferencedAttributes) []string {
	if attrs == nil {
		return nil
	}
	word := func(index int32) string {
		if i := int(-index - 1); i >= 0 && i < len(attrs.Words) {
			return attrs.Words[i]
		}
		return fmt.Sprintf("word %d", index)
	}
	var names []string
	for _, match := range attrs.AttributeMatches {
		name := word(match.Name)
		if match.MapKey != 0 {
			name += "[" + word(match.MapKey) + "]"
		}
		if match.Condition == mixerpb.ABSENCE {
			name = "!" + name
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// dictionary gives every word of one message a number. Proxies number the most common words once and for all; a
// message that brings all its words along needs no such agreement.
type dictionary struct {
	words   []string
	numbers map[string]int32
}

// number returns the word's number; those of a message's own words are negative.
func (d *dictionary) number(word string) int32 {
	n, ok := d.numbers[word]
	if !ok {
		d.words = append(d.words, word)
		n = -int32(len(d.words))
		d.numbers[word] = n
	}
	return n
}

func compress(attributes Attributes) (mixerpb.CompressedAttributes, error) {
	d := dictionary{numbers: make(map[string]int32)}
	c := mixerpb.CompressedAttributes{
		Strings:    map[int32]int32{},
		Int64S:     map[int32]int64{},
		Doubles:    map[int32]float64{},
		Bools:      map[int32]bool{},
		Timestamps: map[int32]time.Time{},
		Durations:  map[int32]time.Duration{},
		Bytes:      map[int32][]byte{},
		StringMaps: map[int32]mixerpb.StringMap{},
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		n := d.number(name)
		switch v := attributes[name].(type) {
		case string:
			c.Strings[n] = d.number(v)
		case bool:
			c.Bools[n] = v
		case int:
			c.Int64S[n] = int64(v)
		case int64:
			c.Int64S[n] = v
		case float64:
			c.Doubles[n] = v
		case time.Time:
			c.Timestamps[n] = v
		case time.Duration:
			c.Durations[n] = v
		case []byte:
			c.Bytes[n] = v
		case net.IP:
			c.Bytes[n] = v
		case netip.Addr:
			c.Bytes[n] = v.AsSlice()
		case map[string]string:
			entries := make(map[int32]int32, len(v))
			for key, value := range v {
				entries[d.number(key)] = d.number(value)
			}
			c.StringMaps[n] = mixerpb.StringMap{Entries: entries}
		default:
			return c, fmt.Errorf("attribute %s: Mixer has no attributes of type %T", name, v)
		}
	}
	c.Words = d.words
	return c, nil
}

// gogoCodec encodes Mixer's messages, which are gogo's and unknown to the current protobuf runtime.
type gogoCodec struct{}

func (gogoCodec) Name() string { return "proto" }

func (gogoCodec) Marshal(v any) ([]byte, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("cannot encode %T", v)
	}
	return proto.Marshal(message)
}

func (gogoCodec) Unmarshal(data []byte, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("cannot decode into %T", v)
	}
	return proto.Unmarshal(data, message)
}

// quickReconnect keeps the wait for a starting server short.
func quickReconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
		MinConnectTimeout: 5 * time.Second,
	}
}
