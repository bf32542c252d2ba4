package wire_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// The two wire types of groups have no name in the package.
const (
	groupStart wire.Type = 3
	groupEnd   wire.Type = 4
)

func tag(number uint64, typ wire.Type) string {
	return string(protowire.AppendVarint(nil, number<<3|uint64(typ)))
}

func TestReaderReadsVarints(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want uint64
		bad  bool
	}{
		"zero":                         {in: "\x00"},
		"one byte":                     {in: "\x7f", want: 127},
		"two bytes":                    {in: "\x80\x01", want: 128},
		"overlong":                     {in: "\x85\x80\x80\x00", want: 5},
		"overlong in ten bytes":        {in: "\x85\x80\x80\x80\x80\x80\x80\x80\x80\x00", want: 5},
		"largest":                      {in: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", want: math.MaxUint64},
		"bits past the 64th are lost":  {in: "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7e", want: 0},
		"eleven bytes":                 {in: "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", bad: true},
		"empty":                        {in: "", bad: true},
		"ends in the middle":           {in: "\x80\x80", bad: true},
		"ends in the middle of ten":    {in: strings.Repeat("\xff", 9), bad: true},
		"ten bytes that all have more": {in: strings.Repeat("\xff", 10), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(c.in)
			assert.Equal(t, c.want, r.Number(wire.Varint))
			assert.Equal(t, c.bad, r.Err() != nil)
			if !c.bad {
				assert.Empty(t, r.Rest())
			}
		})
	}
}

func TestReaderRefusesLengthsThatDoNotFit(t *testing.T) {
	for name, in := range map[string]string{
		"one more than there is": "\x03ab",
		"32 bits":                "\xff\xff\xff\xff\x0fab",
		"63 bits":                "\xff\xff\xff\xff\xff\xff\xff\xff\x7fab",
		"negative":               "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",
		"none":                   "",
	} {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(in)
			assert.Empty(t, r.Text(wire.Bytes))
			require.ErrorIs(t, r.Err(), wire.ErrMalformed)

			r = wire.NewReader(in)
			r.Skip(wire.Bytes)
			require.ErrorIs(t, r.Err(), wire.ErrMalformed)
		})
	}
}

func TestReaderRefusesTags(t *testing.T) {
	for name, c := range map[string]struct {
		in    string
		field int32
		bad   bool
	}{
		"number 0":                {in: tag(0, wire.Varint), bad: true},
		"largest legal number":    {in: tag(1<<29-1, wire.Varint), field: 1<<29 - 1},
		"number of 31 bits":       {in: tag(1<<31-1, wire.Varint), field: 1<<31 - 1},
		"number of 32 bits":       {in: tag(1<<32-1, wire.Varint), bad: true},
		"number that wraps to 1":  {in: tag(1<<32+1, wire.Varint), field: 1},
		"end of a group, unasked": {in: tag(1, groupEnd), bad: true},
		"overlong":                {in: "\x8a\x80\x00", field: 1},
		"cut":                     {in: "\x8a\x80", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(c.in)
			field, _, ok := r.Next()
			assert.Equal(t, c.bad, !ok)
			assert.Equal(t, c.bad, r.Err() != nil)
			if !c.bad {
				assert.Equal(t, c.field, field)
			}
		})
	}
}

func TestReaderSkips(t *testing.T) {
	for name, c := range map[string]struct {
		typ  wire.Type
		in   string
		left string
		bad  bool
	}{
		"varint":                       {typ: wire.Varint, in: "\x80\x01x", left: "x"},
		"64 bits":                      {typ: wire.Fixed64, in: "12345678x", left: "x"},
		"64 bits cut":                  {typ: wire.Fixed64, in: "1234567", bad: true},
		"bytes":                        {typ: wire.Bytes, in: "\x02abx", left: "x"},
		"32 bits":                      {typ: wire.Fixed32, in: "1234x", left: "x"},
		"32 bits cut":                  {typ: wire.Fixed32, in: "123", bad: true},
		"empty group":                  {typ: groupStart, in: "\x0cx", left: "x"},
		"group with fields":            {typ: groupStart, in: "\x08\x01\x12\x01a\x0cx", left: "x"},
		"groups in a group":            {typ: groupStart, in: "\x0b\x0b\x0c\x0c\x0cx", left: "x"},
		"group without an end":         {typ: groupStart, in: "\x08\x01", bad: true},
		"group with a wrong wire type": {typ: groupStart, in: "\x0e\x0c", bad: true},
		"end of a group":               {typ: groupEnd, in: "x", bad: true},
		"end, then start of a group":   {typ: groupEnd, in: "\x0bx", bad: true},
		"wire type 6":                  {typ: 6, in: "x", bad: true},
		"wire type 7":                  {typ: 7, in: "x", bad: true},
		// Neither the stack nor the time may grow with how deep a stranger nests.
		"a million groups deep": {typ: groupStart, in: strings.Repeat("\x0b", 1e6) + strings.Repeat("\x0c", 1e6+1) + "x", left: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			r := wire.NewReader(c.in)
			r.Skip(c.typ)
			assert.Equal(t, c.bad, r.Err() != nil)
			if !c.bad {
				assert.Equal(t, c.left, r.Rest())
			}
		})
	}
}

func TestReaderReadsFieldsOfTheirDeclaredTypeOnly(t *testing.T) {
	const content = "\x01abcdefgh"
	for _, typ := range []wire.Type{wire.Varint, wire.Fixed64, wire.Bytes, groupStart, groupEnd, wire.Fixed32, 6, 7} {
		r := wire.NewReader(content)
		text := r.Text(typ)
		assert.Equal(t, typ == wire.Bytes, r.Err() == nil)
		assert.Equal(t, typ == wire.Bytes, text == "a")

		r = wire.NewReader(content)
		number := r.Number(typ)
		assert.Equal(t, typ == wire.Varint, r.Err() == nil)
		assert.Equal(t, typ == wire.Varint, number == 1)

		r = wire.NewReader(content)
		number = r.Number64(typ)
		assert.Equal(t, typ == wire.Fixed64, r.Err() == nil)
		assert.Equal(t, typ == wire.Fixed64, number == 0x6766656463626101)
	}
}

func TestReaderReturnsNothingAfterAnError(t *testing.T) {
	r := wire.NewReader("\x02ab")
	r.Fail(wire.ErrMalformed)
	assert.Empty(t, r.Text(wire.Bytes))
	assert.Zero(t, r.Number(wire.Varint))
	assert.Zero(t, r.Number64(wire.Fixed64))
	_, _, ok := r.Next()
	assert.False(t, ok)
	assert.Equal(t, wire.ErrMalformed, r.Err())
}

func TestFailKeepsTheFirstError(t *testing.T) {
	r := wire.NewReader("")
	r.Fail(nil)
	require.NoError(t, r.Err())
	r.Fail(assert.AnError)
	r.Fail(wire.ErrMalformed)
	r.Fail(nil)
	require.Equal(t, assert.AnError, r.Err())
}

func TestReaderAllocatesNothing(t *testing.T) {
	const message = "\x08\x80\x01\x12\x01a\x19abcdefgh"
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		r := wire.NewReader(message)
		for _, typ, ok := r.Next(); ok; _, typ, ok = r.Next() {
			if typ == wire.Bytes {
				r.Text(typ)
			} else {
				r.Skip(typ)
			}
		}
		if r.Err() != nil {
			t.Error(r.Err())
		}
	}))
}

// FuzzReader compares with protowire. It differs on purpose: field numbers wrap at 32 bits and have no other bound than the sign, an
// overflowing varint loses bits, and the end of a group is not matched with its start.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"", "\x08\x80\x01\x12\x01a\x19abcdefgh\x255678", "\x0b\x08\x01\x0c", "\x0b\x0c\x0c", "\x0a\x85\x80\x00abcde", "\x8a\x80\x00\x00",
		"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x02\x00", "\x27",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		left := data
		r := wire.NewReader(string(data))
		for {
			require.Len(t, r.Rest(), len(left))
			field, typ, ok := r.Next()
			number, theirs, size := protowire.ConsumeTag(left)
			if !ok {
				require.True(t, len(left) == 0 || size < 0 || theirs == protowire.EndGroupType)
				return
			}
			if size < 0 {
				return // one of the differences
			}
			require.EqualValues(t, number, field)
			require.EqualValues(t, theirs, typ)
			left = left[size:]
			size = protowire.ConsumeFieldValue(number, theirs, left)
			switch typ {
			case wire.Varint:
				v, size := protowire.ConsumeVarint(left)
				got := r.Number(typ)
				if size > 0 {
					require.Equal(t, v, got)
				}
			case wire.Fixed64:
				v, size := protowire.ConsumeFixed64(left)
				got := r.Number64(typ)
				require.Equal(t, size > 0, r.Err() == nil)
				if size > 0 {
					require.Equal(t, v, got)
				}
			case wire.Bytes:
				v, size := protowire.ConsumeBytes(left)
				got := r.Text(typ)
				if size > 0 {
					require.Equal(t, string(v), got)
				}
			case wire.Fixed32, groupStart, groupEnd:
				r.Skip(typ)
			default:
				r.Skip(typ)
			}
			if size < 0 {
				return
			}
			require.NoError(t, r.Err())
			left = left[size:]
		}
	})
}
