package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// Masked is what stands in place of a masked value.
const Masked = "***"

// Rules say which named values of a record are kept, by the names of variables, dimensions, monitored resource dimensions and span
// tags. A name may end in "*", which stands for anything. The fields that a template has of its own are not named values.
type Rules struct {
	// Only keeps these alone; empty keeps all.
	Only []string
	// Drop removes these, also where Only names them.
	Drop []string
	// Mask replaces the values of these by Masked, unless they are removed.
	Mask []string
}

// Filter is compiled Rules. It is immutable and used by many goroutines at once. A nil Filter keeps everything.
type Filter struct {
	limited    bool // Rules had an Only
	only       names
	drop, mask names
}

// Compile makes the filter of the rules, which is nil if there is nothing to do.
func (r Rules) Compile() (*Filter, error) {
	f := &Filter{limited: len(r.Only) > 0}
	for _, list := range []struct {
		field    string
		patterns []string
		into     *names
	}{{"only", r.Only, &f.only}, {"drop", r.Drop, &f.drop}, {"mask", r.Mask, &f.mask}} {
		for i, pattern := range list.patterns {
			if err := list.into.add(pattern); err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", list.field, i, err)
			}
		}
	}
	if !f.limited && f.drop.empty() && f.mask.empty() {
		return nil, nil //nolint:nilnil // a nil filter is a usable one
	}
	return f, nil
}

// Apply returns the wire form of a record without the values that the rules drop, with Masked in place of those that they mask,
// and with every other byte as it was; and whether that differs from raw. If nothing matches, that is raw itself.
//
// It is meant for what Check has accepted. Of anything else it gives as much as could be read, since what cannot be read might be
// a value that must not get out.
func (f *Filter) Apply(kind Kind, raw string) (string, bool) {
	if f == nil {
		return raw, false
	}
	var out strings.Builder
	copied := 0 // how much of raw is dealt with
	r := wire.NewReader(raw)
	for {
		start := len(raw) - len(r.Rest())
		field, typ, ok := r.Next()
		act, name := keep, ""
		switch {
		case !ok:
		case hasNames(kind, field):
			name = entryName(&r, typ)
			act = f.action(name)
		default:
			r.Skip(typ)
		}
		if r.Err() != nil {
			return out.String() + raw[copied:start], true
		}
		if !ok {
			break
		}
		if act == keep {
			continue
		}
		end := len(raw) - len(r.Rest())
		if act == mask && isMasked(raw[start:end], field, name) {
			continue
		}
		if out.Len() == 0 {
			out.Grow(len(raw) + 64) // a masked value may be longer than what it stands for
		}
		out.WriteString(raw[copied:start])
		if act == mask {
			var space [128]byte
			out.Write(appendMasked(space[:0], field, name))
		}
		copied = end
	}
	if copied == 0 {
		return raw, false
	}
	out.WriteString(raw[copied:])
	return out.String(), true
}

// hasNames reports whether a field of a kind is a map of named values.
func hasNames(kind Kind, field int32) bool {
	switch kind {
	case KindLogEntry:
		return field == 1 || field == 5
	case KindMetric:
		return field == 2 || field == 4
	case KindTraceSpan:
		return field == 7
	case KindEdge, KindNothing, KindDecision:
	}
	return false
}

// entryName reads the key of a map's entry. It comes last if it comes twice, and is empty if it does not come.
func entryName(r *wire.Reader, typ wire.Type) (name string) {
	entry := wire.NewReader(r.Text(typ))
	for field, typ, ok := entry.Next(); ok; field, typ, ok = entry.Next() {
		if field == 1 {
			name = entry.Text(typ)
		} else {
			entry.Skip(typ)
		}
	}
	r.Fail(entry.Err())
	return name
}

// appendMasked appends the entry that a masked value becomes. Nothing of the old one remains but its name.
func appendMasked(dst []byte, field int32, name string) []byte {
	const value = "\x12\x05\x0a\x03" + Masked // field 2, a Value, of which field 1, a string
	size := 1 + varintSize(len(name)) + len(name) + len(value)
	dst = binary.AppendUvarint(dst, uint64(field)<<3|uint64(wire.Bytes)) //nolint:gosec // a field's number is positive
	dst = binary.AppendUvarint(dst, uint64(size))                        //nolint:gosec // a size is not negative
	dst = append(dst, 1<<3|byte(wire.Bytes))
	dst = append(binary.AppendUvarint(dst, uint64(len(name))), name...)
	return append(dst, value...)
}

func varintSize(v int) (size int) {
	for size = 1; v >= 0x80; size++ {
		v >>= 7
	}
	return size
}

// isMasked reports whether an entry is masked already, so that a second pass finds nothing to do.
func isMasked(entry string, field int32, name string) bool {
	if !strings.HasSuffix(entry, Masked) {
		return false
	}
	var space [128]byte
	return entry == string(appendMasked(space[:0], field, name))
}

type action uint8

const (
	keep action = iota
	mask
	drop
)

func (f *Filter) action(name string) action {
	switch {
	case f.drop.match(name), f.limited && !f.only.match(name):
		return drop
	case f.mask.match(name):
		return mask
	default:
		return keep
	}
}

// names is a set of names and of prefixes of names.
type names struct {
	exact    map[string]struct{}
	prefixes []string
}

func (n *names) add(pattern string) error {
	prefix, wild := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "":
		return errors.New("is empty")
	case strings.Contains(prefix, "*"):
		return fmt.Errorf("%.100q: a * stands at the end or nowhere", pattern)
	case wild:
		n.prefixes = append(n.prefixes, prefix)
	default:
		if n.exact == nil {
			n.exact = map[string]struct{}{}
		}
		n.exact[pattern] = struct{}{}
	}
	return nil
}

func (n *names) empty() bool { return len(n.exact) == 0 && len(n.prefixes) == 0 }

func (n *names) match(name string) bool {
	if _, ok := n.exact[name]; ok {
		return true
	}
	for _, prefix := range n.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
