package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
)

// Key identifies a count, or a call. It is a SHA-256, so that a count takes the same room whatever its dimensions are, and shows
// nothing of them where it is stored.
type Key [sha256.Size]byte

// countKey returns the key of a count: of a quota, for an instance and the values of the given dimensions, or of all where names is nil.
func countKey(quota, instance string, dimensions attribute.Map, names []string) Key {
	var room [512]byte
	b := appendText(room[:0], quota)
	b = appendText(b, instance)
	if names == nil {
		var few [8]attribute.Entry
		// In wire order, which Mixer draws by lot. Of equal names the last counts, as in every map.
		sorted := append(attribute.Map(few[:0]), dimensions...)
		slices.SortStableFunc(sorted, func(a, b attribute.Entry) int { return strings.Compare(a.Name, b.Name) })
		for i, entry := range sorted {
			if i+1 == len(sorted) || sorted[i+1].Name != entry.Name {
				b = appendValue(appendText(b, entry.Name), entry.Value)
			}
		}
		return sha256.Sum256(b)
	}
	for _, name := range names {
		b = appendText(b, name)
		if value, ok := dimensions.Get(name); ok {
			b = appendValue(b, value)
		} else {
			b = append(b, absent)
		}
	}
	return sha256.Sum256(b)
}

// repeatKey returns the key of a call. A call for another amount is another call, whatever its id.
func repeatKey(count Key, id string, amount int64, bestEffort bool) Key {
	var room [256]byte
	b := appendText(append(room[:0], count[:]...), id)
	b = strconv.AppendBool(b, bestEffort)
	b = strconv.AppendInt(b, amount, 10)
	return sha256.Sum256(b)
}

// absent stands where other values have their kind.
const absent = 0xff

// appendText puts the length first: "ab", "c" are not "a", "bc".
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendValue(b []byte, value attribute.Value) []byte {
	b = append(b, byte(value.Kind()))
	if text, ok := value.Text(); ok {
		return appendText(b, text)
	}
	return appendText(b, asText(value))
}

// asText returns a value as operators write it in an override; "" for one that is not known.
func asText(value attribute.Value) string {
	switch value.Kind() {
	case attribute.Int64:
		return strconv.FormatInt(value.Int64(), 10)
	case attribute.Double:
		return strconv.FormatFloat(value.Double(), 'f', -1, 64)
	case attribute.Bool:
		return strconv.FormatBool(value.Bool())
	case attribute.IP:
		return value.Addr().String()
	case attribute.Timestamp:
		return value.Time().Format(time.RFC3339Nano)
	case attribute.Duration:
		return value.Duration().String()
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := value.Text()
		return text
	case attribute.Unknown:
	}
	return ""
}
