package mixer

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/protobuf/encoding/protowire"
)

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
			r := reader{rest: c.in}
			assert.Equal(t, c.want, r.varint())
			assert.Equal(t, c.bad, r.err != nil)
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
			r := reader{rest: in}
			assert.Empty(t, r.bytes())
			assert.ErrorIs(t, r.err, errWire)
		})
	}
}

func TestReaderRefusesTags(t *testing.T) {
	tag := func(v uint64) string { return string(protowire.AppendVarint(nil, v)) }
	for name, c := range map[string]struct {
		in    string
		field int32
		bad   bool
	}{
		"number 0":                {in: tag(0<<3 | wireVarint), bad: true},
		"largest legal number":    {in: tag((1<<29-1)<<3 | wireVarint), field: 1<<29 - 1},
		"number of 31 bits":       {in: tag((1<<31-1)<<3 | wireVarint), field: 1<<31 - 1},
		"number of 32 bits":       {in: tag((1<<32-1)<<3 | wireVarint), bad: true},
		"number that wraps to 1":  {in: tag((1<<32+1)<<3 | wireVarint), field: 1},
		"end of a group, unasked": {in: tag(1<<3 | wireEnd), bad: true},
		"overlong":                {in: "\x8a\x80\x00", field: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader{rest: c.in}
			field, _, ok := r.next()
			assert.Equal(t, c.bad, !ok)
			assert.Equal(t, c.bad, r.err != nil)
			if !c.bad {
				assert.Equal(t, c.field, field)
			}
		})
	}
}

func TestReaderSkips(t *testing.T) {
	for name, c := range map[string]struct {
		wire uint8
		in   string
		left string
		bad  bool
	}{
		"varint":                       {wire: wireVarint, in: "\x80\x01x", left: "x"},
		"64 bits":                      {wire: wire64, in: "12345678x", left: "x"},
		"64 bits cut":                  {wire: wire64, in: "1234567", bad: true},
		"bytes":                        {wire: wireBytes, in: "\x02abx", left: "x"},
		"32 bits":                      {wire: wire32, in: "1234x", left: "x"},
		"32 bits cut":                  {wire: wire32, in: "123", bad: true},
		"empty group":                  {wire: wireGroup, in: "\x0cx", left: "x"},
		"group with fields":            {wire: wireGroup, in: "\x08\x01\x12\x01a\x0cx", left: "x"},
		"groups in a group":            {wire: wireGroup, in: "\x0b\x0b\x0c\x0c\x0cx", left: "x"},
		"group without an end":         {wire: wireGroup, in: "\x08\x01", bad: true},
		"group with a wrong wire type": {wire: wireGroup, in: "\x0e\x0c", bad: true},
		"end of a group":               {wire: wireEnd, in: "x", bad: true},
		"wire type 6":                  {wire: 6, in: "x", bad: true},
		"wire type 7":                  {wire: 7, in: "x", bad: true},
		// Neither the stack nor the time may grow with how deep a stranger nests.
		"a million groups deep": {wire: wireGroup, in: strings.Repeat("\x0b", 1e6) + strings.Repeat("\x0c", 1e6+1) + "x", left: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader{rest: c.in}
			r.skip(c.wire)
			assert.Equal(t, c.bad, r.err != nil)
			if !c.bad {
				assert.Equal(t, c.left, r.rest)
			}
		})
	}
}

func TestReaderReturnsNothingAfterAnError(t *testing.T) {
	r := reader{rest: "\x02ab", err: errWire}
	assert.Empty(t, r.bytes())
	assert.Zero(t, r.varint())
	assert.Zero(t, r.fixed64())
	_, _, ok := r.next()
	assert.False(t, ok)
	assert.Equal(t, errWire, r.err)
}
