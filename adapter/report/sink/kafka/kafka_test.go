package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"least":    {func(*Options) {}, ""},
		"all":      {func(o *Options) { *o = full() }, ""},
		"IPv6":     {func(o *Options) { o.Brokers = []string{"[::1]:9092"} }, ""},
		"smallest": {func(o *Options) { o.MaxMessageBytes = 1024 }, ""},
		"largest":  {func(o *Options) { o.MaxMessageBytes = 64 << 20 }, ""},

		"no brokers":         {func(o *Options) { o.Brokers = nil }, "brokers is empty"},
		"broker, no port":    {func(o *Options) { o.Brokers = []string{"a:1", "b"} }, `brokers[1] is "b"`},
		"broker, no host":    {func(o *Options) { o.Brokers = []string{":9092"} }, `brokers[0] is ":9092"`},
		"broker, name port":  {func(o *Options) { o.Brokers = []string{"a:kafka"} }, `brokers[0] is "a:kafka"`},
		"broker, port 0":     {func(o *Options) { o.Brokers = []string{"a:0"} }, `brokers[0] is "a:0"`},
		"broker, large port": {func(o *Options) { o.Brokers = []string{"a:65536"} }, `brokers[0] is "a:65536"`},
		"no topic":           {func(o *Options) { o.Topic = "" }, `topic is ""`},
		"topic of dots":      {func(o *Options) { o.Topic = ".." }, `topic is ".."`},
		"topic with space":   {func(o *Options) { o.Topic = "a b" }, `topic is "a b"`},
		"long topic":         {func(o *Options) { o.Topic = strings.Repeat("t", 250) }, "topic is"},
		"tls":                {func(o *Options) { o.TLS.CA = "ca" }, `tls.ca is "ca"`},
		"mechanism":          {func(o *Options) { o.SASL.Mechanism = "PLAIN" }, `sasl.mechanism is "PLAIN"`},
		"no user":            {func(o *Options) { o.SASL = SASL{Mechanism: "plain", Password: client.Credential{File: "p"}} }, "sasl.user.file is empty"},
		"no password":        {func(o *Options) { o.SASL = SASL{Mechanism: "scram-sha-256", User: client.Credential{File: "u"}} }, "sasl.password.file is empty"},
		"no mechanism":       {func(o *Options) { o.SASL.Password.File = "p" }, `sasl.password.file is "p" without`},
		"compression":        {func(o *Options) { o.Compression = "brotli" }, `compression is "brotli"`},
		"key":                {func(o *Options) { o.Key = "user" }, `key is "user"`},
		"too small":          {func(o *Options) { o.MaxMessageBytes = 1023 }, "max_message_bytes is 1023"},
		"too large":          {func(o *Options) { o.MaxMessageBytes = 64<<20 + 1 }, "max_message_bytes is 67108865"},
		"negative":           {func(o *Options) { o.MaxMessageBytes = -1 }, "max_message_bytes is -1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Brokers: []string{"host.test:9092"}, Topic: "records"}
			c.change(&o)
			err := o.Validate()
			sink, newErr := New(o, slog.New(slog.DiscardHandler))
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, newErr)
				p, err := newProducer(t.Context(), sink.options, sink.logger)
				require.NoError(t, err, "the library takes it too")
				p.close()
				return
			}
			require.ErrorContains(t, err, c.want)
			assert.Equal(t, err, newErr)
		})
	}
	err := Options{Compression: "x", Key: "y"}.Validate()
	for _, want := range []string{"brokers", "topic", "compression", "key"} {
		require.ErrorContains(t, err, want)
	}
}

func full() Options {
	return Options{
		Brokers: []string{"a.test:9093", "b.test:9093"}, Topic: "tollgate.records_v1-x", TLS: client.TLS{Enabled: true, CA: "ca", Cert: "cert", Key: "key"},
		SASL:        SASL{Mechanism: "scram-sha-512", User: client.Credential{File: "u"}, Password: client.Credential{File: "p"}},
		Compression: "lz4", Key: KeyTrace, MaxMessageBytes: 1 << 20,
	}
}

// field is a field of a protobuf message.
func field(number protowire.Number, content string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), content))
}

const nameField = 72295727

func entry(kind record.Kind, index int, raw string) record.Record {
	return record.Record{
		Spool: record.SpoolID{1}, Sequence: 7, Index: index, Kind: kind, Handler: "bookinfo", Arrived: time.Unix(1_795_262_400, 5_000_000), Raw: raw,
	}
}

func everyKind() []record.Record {
	name := field(nameField, "some.instance.istio-system")
	decision := record.Decision{Instance: "some.instance.istio-system", Outcome: "deny"}
	return []record.Record{
		entry(record.KindLogEntry, 0, field(3, "info")+name),
		entry(record.KindMetric, 1, name),
		entry(record.KindTraceSpan, 2, field(1, "463ac35c9f6413ad")+name),
		entry(record.KindEdge, 3, name),
		entry(record.KindNothing, 4, name),
		entry(record.KindDecision, 5, string(decision.Append(nil))),
		entry(record.KindTraceSpan, 6, ""),
	}
}

func TestMessages(t *testing.T) {
	records := everyKind()
	for key, want := range map[Key]func(r *record.Record) string{
		"":         (*record.Record).ID,
		KeyRecord:  (*record.Record).ID,
		KeyHandler: func(*record.Record) string { return "bookinfo" },
		KeyInstance: func(r *record.Record) string {
			if r.Index == 6 {
				return r.ID()
			}
			return "some.instance.istio-system"
		},
		KeyTrace: func(r *record.Record) string {
			if r.Index == 2 {
				return "463ac35c9f6413ad"
			}
			return r.ID()
		},
	} {
		t.Run(string(key), func(t *testing.T) {
			m := messages{key: key}
			m.build(t.Context(), append(everyKind(), everyKind()...)) // memory that is used again must not show
			m.build(t.Context(), records)
			require.Len(t, m.records, len(records))
			for i := range records {
				require.NoError(t, m.failed[i])
				line, err := record.AppendJSON(nil, &records[i])
				require.NoError(t, err)
				got := m.records[i]
				assert.Equal(t, string(line), string(got.Value))
				assert.Equal(t, want(&records[i]), string(got.Key))
				assert.Equal(t, records[i].Arrived, got.Timestamp)
				assert.Equal(t, []kgo.RecordHeader{
					{Key: "tollgate-record-id", Value: []byte(records[i].ID())},
					{Key: "tollgate-kind", Value: []byte(records[i].Kind.String())},
					{Key: "tollgate-handler", Value: []byte("bookinfo")},
				}, got.Headers)
			}
		})
	}
}

func TestMessagesOfUnreadableRecords(t *testing.T) {
	for _, key := range []Key{KeyRecord, KeyHandler, KeyInstance, KeyTrace} {
		m := messages{key: key}
		m.build(t.Context(), []record.Record{entry(record.KindTraceSpan, 0, "\xff"), entry(99, 1, ""), entry(record.KindNothing, 2, "")})
		require.ErrorContains(t, m.failed[0], "-7-0 cannot be")
		require.ErrorContains(t, m.failed[1], "-7-1 cannot be")
		require.NoError(t, m.failed[2])
		assert.NotEmpty(t, m.records[2].Key)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m messages
	m.build(t.Context(), []record.Record{entry(record.KindNothing, 0, field(nameField, strings.Repeat("n", keptBytes)))})
	m.release()
	assert.Zero(t, cap(m.bytes))
	assert.Nil(t, m.records[0].Value, "nothing holds on to it")
}

func TestResults(t *testing.T) {
	away := errors.New("a fake broker is away")
	end := context.DeadlineExceeded
	large := fmt.Errorf("%w (uncompressed_bytes=7)", kerr.MessageTooLarge)
	for name, c := range map[string]struct {
		outcome   []error
		end       error
		permanent bool
		records   []int
		cause     error
	}{
		"all":                        {[]error{nil, nil}, nil, false, nil, nil},
		"all, at the end":            {[]error{nil, nil}, end, false, nil, nil},
		"some are away":              {[]error{nil, away, nil, away}, nil, false, []int{1, 3}, away},
		"too large":                  {[]error{nil, large}, nil, true, []int{1}, kerr.MessageTooLarge},
		"invalid":                    {[]error{kerr.InvalidRecord, nil}, nil, true, []int{0}, kerr.InvalidRecord},
		"time":                       {[]error{kerr.InvalidTimestamp}, nil, true, []int{0}, kerr.InvalidTimestamp},
		"list":                       {[]error{kerr.RecordListTooLarge}, nil, true, []int{0}, kerr.RecordListTooLarge},
		"ours":                       {[]error{&refusal{io.EOF}, nil}, nil, true, []int{0}, io.EOF},
		"unknown topic":              {[]error{kerr.UnknownTopicOrPartition}, nil, false, []int{0}, kerr.UnknownTopicOrPartition},
		"not allowed":                {[]error{kerr.TopicAuthorizationFailed}, nil, false, []int{0}, kerr.TopicAuthorizationFailed},
		"corrupt":                    {[]error{kerr.CorruptMessage}, nil, false, []int{0}, kerr.CorruptMessage},
		"refused and away":           {[]error{large, away, nil}, nil, false, []int{0, 1}, away},
		"cut off":                    {[]error{nil, errOpen}, end, false, []int{1}, end},
		"closed at the end":          {[]error{nil, kgo.ErrClientClosed}, end, false, []int{1}, end},
		"canceled at the end":        {[]error{context.Canceled, nil}, end, false, []int{0}, end},
		"closed by nobody":           {[]error{nil, kgo.ErrClientClosed}, nil, false, []int{1}, kgo.ErrClientClosed},
		"open, as if by a mistake":   {[]error{nil, errOpen}, nil, false, []int{1}, errOpen},
		"cut off, and refused ones":  {[]error{large, errOpen, nil}, end, false, []int{0, 1}, end},
		"cut off, nothing was open":  {[]error{large, nil}, end, true, []int{0}, kerr.MessageTooLarge},
		"cut off, and others failed": {[]error{away, errOpen}, end, false, []int{0, 1}, away},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResults(len(c.outcome))
			for i, err := range c.outcome {
				r.set(i, err)
			}
			err := r.undelivered(c.end)
			if c.cause == nil {
				require.NoError(t, err)
				return
			}
			u, ok := errors.AsType[*report.Undelivered](err)
			require.True(t, ok)
			assert.Equal(t, c.permanent, u.Permanent)
			assert.Equal(t, c.records, u.Records)
			require.ErrorIs(t, err, c.cause)
		})
	}
}

func open(t *testing.T, o Options) *Sink {
	t.Helper()
	sink, err := New(o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sink.Close(context.Background())) })
	return sink
}

func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	listener.Close()
	err = open(t, Options{Brokers: []string{address}, Topic: "records"}).Deliver(t.Context(), everyKind())
	require.ErrorContains(t, err, "no broker answers")
	require.ErrorContains(t, err, "refused")
	_, classified := errors.AsType[*report.Undelivered](err)
	assert.False(t, classified, "it is retryable")
}

// Who takes the connection and says nothing costs the attempt and no more.
func TestHang(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	arrived := make(chan net.Conn, 10)
	go func() {
		defer close(arrived)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			arrived <- conn
		}
	}()
	sink := open(t, Options{Brokers: []string{listener.Addr().String()}, Topic: "records"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sink.Deliver(ctx, everyKind()) }()
	conn := <-arrived
	_, err = conn.Read(make([]byte, 1)) // it has asked, and waits for the answer
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	conn.Close()
	listener.Close()
	for conn := range arrived {
		conn.Close()
	}
}

func BenchmarkBuild(b *testing.B) {
	part := make([]record.Record, 1000)
	for i := range part {
		part[i] = entry(record.KindLogEntry, i, field(3, "info")+field(nameField, "accesslog.instance.istio-system"))
	}
	for _, key := range []Key{KeyRecord, KeyInstance} {
		b.Run(string(key), func(b *testing.B) {
			m := messages{key: key}
			b.ReportAllocs()
			for b.Loop() {
				m.build(b.Context(), part)
				m.release()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(part)), "ns/record")
		})
	}
}
