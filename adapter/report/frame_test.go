package report

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

func sampleFrame() spool.Frame {
	c := &Call{Kind: record.KindEdge, Handler: "bookinfo", Caller: "spiffe://mixer", Instances: []string{"a", "", string(make([]byte, 300))}}
	return spool.Frame{Sequence: 7, Arrival: time.Unix(1795262400, 5), Records: 3, Payload: appendFrame(nil, c, record.SpoolID{1, 2, 3})}
}

func TestFrame(t *testing.T) {
	f := sampleFrame()
	records, err := decodeFrame(&f)
	require.NoError(t, err)
	require.Len(t, records, 3)
	for i, raw := range []string{"a", "", string(make([]byte, 300))} {
		assert.Equal(t, record.Record{
			Spool: record.SpoolID{1, 2, 3}, Sequence: 7, Index: i, Kind: record.KindEdge, Handler: "bookinfo", Caller: "spiffe://mixer",
			Arrived: f.Arrival, Raw: raw,
		}, records[i])
	}
}

func TestDecodeDeadFrame(t *testing.T) {
	f := sampleFrame()
	want, err := DecodeFrame(&f)
	require.NoError(t, err)
	letter := record.Record{Sequence: f.Sequence, Arrived: f.Arrival, Raw: string(f.Payload)}
	records, err := DecodeDeadFrame(&letter)
	require.NoError(t, err)
	assert.Equal(t, want, records)
	for name, letter := range map[string]record.Record{
		"another version": {Raw: "\x02" + letter.Raw[1:]},
		"a record":        {Spool: record.SpoolID{1}, Raw: letter.Raw},
		"of a kind":       {Kind: record.KindEdge, Raw: letter.Raw},
	} {
		_, err := DecodeDeadFrame(&letter)
		require.ErrorIs(t, err, errFrame, name)
	}
}

func TestFrameSizeIsABound(t *testing.T) {
	for _, n := range []int{0, 127, 128, 70000} {
		c := &Call{Handler: string(make([]byte, n)), Caller: string(make([]byte, n)), Instances: []string{string(make([]byte, n)), ""}}
		assert.LessOrEqual(t, len(appendFrame(nil, c, record.SpoolID{})), frameSize(c))
	}
}

func TestFrameCutAnywhere(t *testing.T) {
	whole := sampleFrame()
	for n := range whole.Payload {
		f := whole
		f.Payload = whole.Payload[:n]
		_, err := decodeFrame(&f)
		require.ErrorIs(t, err, errFrame, "%d bytes", n)
	}
	for _, spoil := range []func(f *spool.Frame){
		func(f *spool.Frame) { f.Payload[0]++ },
		func(f *spool.Frame) { f.Records++ },
		func(f *spool.Frame) { f.Records = -1 },
	} {
		f := sampleFrame()
		spoil(&f)
		_, err := decodeFrame(&f)
		require.ErrorIs(t, err, errFrame)
	}
}

// Whatever a payload is, decoding ends, takes no more memory than the payload is worth, and what it returns encodes to the same records.
func FuzzDecodeFrame(f *testing.F) {
	sample := sampleFrame()
	f.Add(sample.Payload, sample.Records)
	f.Add(sample.Payload[:25], 0)
	f.Add([]byte{1, 1}, -5)
	f.Add(append(make([]byte, 0, 40), "\x01\x010123456789abcdef\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"...), 1)
	f.Fuzz(func(t *testing.T, payload []byte, n int) {
		frame := spool.Frame{Sequence: 3, Records: n, Payload: payload}
		records, err := decodeFrame(&frame)
		if err != nil {
			require.ErrorIs(t, err, errFrame)
			return
		}
		require.Len(t, records, n)
		if n == 0 {
			return
		}
		c := &Call{Kind: records[0].Kind, Handler: records[0].Handler, Caller: records[0].Caller}
		for _, r := range records {
			c.Instances = append(c.Instances, r.Raw)
		}
		again := spool.Frame{Sequence: 3, Records: n, Payload: appendFrame(nil, c, records[0].Spool)}
		back, err := decodeFrame(&again)
		require.NoError(t, err)
		require.Equal(t, records, back)
		require.LessOrEqual(t, len(again.Payload), frameSize(c))
	})
}
