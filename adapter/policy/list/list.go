package list

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gaissmai/bart"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/config"
)

// Bounds of a list in a document.
const (
	MaxBytes   = 32 << 20
	MaxEntries = 1_000_000
)

// maxPatternValueBytes bounds what regular expressions are asked about. The time they take grows with it.
const maxPatternValueBytes = 4096

// List is a set of entries of one type. It is immutable.
type List struct {
	entryType config.EntryType
	size      int
	strings   map[string]struct{}
	prefixes  *bart.Lite
	patterns  config.Patterns
}

// Type returns what the entries are.
func (l *List) Type() config.EntryType { return l.entryType }

// Len returns the number of entries.
func (l *List) Len() int { return l.size }

// Parse reads a list from a document: one entry a line, white space around it left out, and so are empty lines and those that begin
// with '#'. One line that is no entry spoils the document, and so does a document without any: half a list might let pass whom the
// other half would stop.
func Parse(document []byte, t config.EntryType) (*List, error) {
	if len(document) > MaxBytes {
		return nil, fmt.Errorf("has more than %d bytes", MaxBytes)
	}
	if !utf8.Valid(document) {
		return nil, errors.New("is no UTF-8 text")
	}
	l := newList(t)
	number := 0
	for line := range strings.Lines(string(document)) {
		number++
		entry := strings.TrimSpace(line)
		if entry == "" || entry[0] == '#' {
			continue
		}
		if err := config.CheckEntry(entry); err != nil {
			return nil, fmt.Errorf("line %d %w", number, err)
		}
		if l.size == MaxEntries {
			return nil, fmt.Errorf("has more than %d entries", l.size)
		}
		if err := l.add(entry); err != nil {
			return nil, fmt.Errorf("line %d %w", number, err)
		}
	}
	if l.size == 0 {
		return nil, errors.New("has no entry")
	}
	return l, nil
}

func newList(t config.EntryType) *List {
	return &List{entryType: t, strings: map[string]struct{}{}, prefixes: &bart.Lite{}}
}

// add puts in an entry, or says what is wrong with it.
func (l *List) add(entry string) error {
	l.size++
	switch l.entryType {
	case config.Strings:
		l.strings[entry] = struct{}{}
	case config.CaseInsensitiveStrings:
		l.strings[fold(entry)] = struct{}{}
	case config.IPAddresses:
		prefix, err := config.ParsePrefix(entry)
		if err != nil {
			return err
		}
		l.prefixes.Insert(prefix)
	case config.Regex:
		return l.patterns.Add(entry)
	}
	return nil
}

// ErrUnreadable means that a value cannot be compared with a list's entries, so that nobody can say whether it is listed.
var ErrUnreadable = errors.New("the value cannot be compared with the list's entries")

// Contains reports whether a value is on the list. The error is ErrUnreadable, or that of ctx where it ends first.
func (l *List) Contains(ctx context.Context, value attribute.Value) (bool, error) {
	if l.entryType == config.IPAddresses {
		addr, ok := address(value)
		if !ok {
			return false, ErrUnreadable
		}
		return l.prefixes.Contains(addr), nil
	}
	text, ok := value.Text()
	if !ok || l.entryType != config.Strings && !utf8.ValidString(text) {
		return false, ErrUnreadable
	}
	if l.entryType == config.Regex {
		return l.matches(ctx, text)
	}
	if l.entryType == config.CaseInsensitiveStrings {
		text = fold(text)
	}
	_, listed := l.strings[text]
	return listed, nil
}

func (l *List) matches(ctx context.Context, text string) (bool, error) {
	if len(text) > maxPatternValueBytes {
		return false, ErrUnreadable
	}
	for _, pattern := range l.patterns.Compiled {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if pattern.MatchString(text) {
			return true, nil
		}
	}
	return false, nil
}

// address returns the address that a value is, or that it has as text.
func address(value attribute.Value) (netip.Addr, bool) {
	if addr := value.Addr(); addr.IsValid() {
		return addr, true
	}
	text, ok := value.Text()
	if !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// fold makes texts equal that differ in upper and lower case alone, as strings.EqualFold has it: lower case would leave letters
// apart that have more than two forms.
func fold(text string) string { return strings.Map(foldRune, text) }

// foldRune returns the smallest of the forms of a letter.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}
	smallest := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		smallest = min(smallest, next)
	}
	return smallest
}
