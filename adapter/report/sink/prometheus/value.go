package promsink

import (
	"math"
	"strconv"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
)

// appendValue appends a value as the text that it is in docs/records.md, without the quotes; nothing for one that cannot be read.
func appendValue(dst []byte, v attribute.Value) []byte {
	switch v.Kind() {
	case attribute.Unknown:
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := v.Text()
		return appendUTF8(dst, text)
	case attribute.Int64:
		return strconv.AppendInt(dst, v.Int64(), 10)
	case attribute.Double:
		return appendDouble(dst, v.Double())
	case attribute.Bool:
		return strconv.AppendBool(dst, v.Bool())
	case attribute.IP:
		return v.Addr().AppendTo(dst)
	case attribute.Timestamp:
		return v.Time().AppendFormat(dst, time.RFC3339Nano)
	case attribute.Duration:
		return appendSeconds(dst, v.Duration())
	}
	return dst
}

func appendDouble(dst []byte, v float64) []byte {
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}

// appendSeconds writes a duration exactly, which a double of seconds is not.
func appendSeconds(dst []byte, d time.Duration) []byte {
	left := uint64(d)
	if d < 0 {
		dst, left = append(dst, '-'), -left
	}
	const second = uint64(time.Second)
	dst = strconv.AppendUint(dst, left/second, 10)
	left %= second
	if left == 0 {
		return dst
	}
	for dst = append(dst, '.'); left > 0; left = left * 10 % second {
		dst = append(dst, '0'+byte(left*10/second))
	}
	return dst
}
