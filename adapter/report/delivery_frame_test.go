package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// choosySink takes metrics only.
type choosySink struct{ fakeSink }

func (*choosySink) Takes(kind record.Kind) bool { return kind == record.KindMetric }

var delivery = &record.Delivery{
	SampleOneIn: 10,
	Severities:  []record.Severity{{Text: "Loud", Number: record.SeverityError}},
	Metrics:     []record.MetricRule{{Instance: "m", Kind: record.MetricHistogram, Bounds: []float64{1, 2}}},
}

// What a handler said about delivery reaches the sink, from disks too.
func TestDeliveryTravelsWithTheRecords(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{}
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: gathering(5)})
		with := call("a", "b")
		with.Delivery = string(delivery.Append(nil))
		require.NoError(t, p.Accept(t.Context(), with))
		accept(t, p.Pipeline, "c", "d", "e")
		p.settled(t, "fake")
		got := sink.taken()
		require.Len(t, got, 5)
		assert.Equal(t, delivery, got[0].Delivery)
		assert.Same(t, got[0].Delivery, got[1].Delivery, "parsed once for a call")
		for _, r := range got[2:] {
			assert.Nil(t, r.Delivery)
		}
	})
}

func TestCallsGoToTheSinksTheyName(t *testing.T) {
	sinks := map[string]*fakeSink{"a": {}, "b": {}, "c": {}}
	var lanes []Lane
	for _, name := range []string{"a", "b", "c"} {
		lanes = append(lanes, Lane{Name: name, Sink: sinks[name], Queue: memory(t), Batching: quick()})
	}
	p := start(t, 0, lanes...)
	for text, names := range map[string][]string{"to a": {"a"}, "to b and c": {"c", "b"}, "to all": nil} {
		to := call(text)
		to.Sinks = names
		require.NoError(t, p.Accept(t.Context(), to))
	}
	for name, want := range map[string][]string{"a": {"to a", "to all"}, "b": {"to b and c", "to all"}, "c": {"to b and c", "to all"}} {
		s := p.settled(t, name)
		assert.ElementsMatch(t, want, raws(sinks[name].taken()), name)
		assert.EqualValues(t, len(want), s.Accepted.Records)
	}
}

// A call that names a sink that is not there is refused as a whole, and leaves no room taken.
func TestCallsToUnknownSinksAreRefused(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{}
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: quick()})
		accept(t, p.Pipeline, "before")
		p.settled(t, "fake")
		room := p.stats().Room
		for range 3 {
			bad := call("lost")
			bad.Sinks = []string{"fake", "other"}
			require.ErrorContains(t, p.Accept(t.Context(), bad), `no sink "other"`)
		}
		s := p.stats()
		assert.Equal(t, room, s.Room)
		assert.EqualValues(t, 1, s.Accepted.Frames)
		accept(t, p.Pipeline, "after")
		p.settled(t, "fake")
		assert.Equal(t, []string{"before", "after"}, raws(sink.taken()))
	})
}

func TestChoosersGetWhatTheyTake(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		choosy, all := &choosySink{}, &fakeSink{}
		p := start(t, 0, Lane{Name: "choosy", Sink: choosy, Queue: q, Batching: quick()}, Lane{Name: "all", Sink: all, Queue: memory(t), Batching: quick()})
		for _, kind := range record.Kinds() {
			c := call(kind.String(), kind.String())
			c.Kind = kind
			require.NoError(t, p.Accept(t.Context(), c))
		}
		s := p.settled(t, "choosy")
		assert.Equal(t, []string{"metric", "metric"}, raws(choosy.taken()))
		assert.EqualValues(t, 2*(len(record.Kinds())-1), s.Filtered)
		assert.EqualValues(t, 2*len(record.Kinds()), s.Done.Records)
		s = p.settled(t, "all")
		assert.Zero(t, s.Filtered)
		assert.Len(t, all.taken(), 2*len(record.Kinds()))
	})
}

// A frame whose delivery another version wrote is kept whole for it, and stands in nobody's way.
func TestFrameWithMalformedDelivery(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink, letters := &fakeSink{}, &fakeLetters{}
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: quick(), DeadLetters: letters})
		accept(t, p.Pipeline, "before")
		bad := call("x", "y", "z")
		bad.Delivery = "\x0a"
		require.NoError(t, p.Accept(t.Context(), bad))
		accept(t, p.Pipeline, "after")
		s := p.settled(t, "fake")
		assert.Equal(t, []string{"before", "after"}, raws(sink.taken()))
		assert.EqualValues(t, 3, s.DeadLettered)
		assert.EqualValues(t, 5, s.Done.Records)
		require.Len(t, letters.letters(), 1)
		letter := letters.letters()[0]
		assert.Equal(t, string(appendFrame(nil, bad, p.origin)), letter.Raw)
		assert.Zero(t, letter.Kind)
		require.ErrorIs(t, letters.causes[0], errFrame)
		require.ErrorContains(t, letters.causes[0], "delivery: malformed protobuf")
	})
}
