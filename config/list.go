package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Bounds of list checks.
const (
	MaxListChecks = 256
	// MaxEntriesPerCheck is for entries in a handler, which goes with every call. Lists of the settings may be longer.
	MaxEntriesPerCheck = 10_000
	MaxEntryBytes      = 1024
	// MaxPatternSize bounds one regular expression with its repetitions written out, and MaxPatternsSize all those of a handler, or of
	// a list of the settings, in instructions of the program that it becomes.
	MaxPatternSize  = 4096
	MaxPatternsSize = 100_000
)

func lists(problems *Problems, params []*configpb.ListCheck, patterns *Patterns) []ListCheck {
	if len(params) > MaxListChecks {
		problems.add("lists", "has %d checks; use at most %d", len(params), MaxListChecks)
		return nil
	}
	var checks []ListCheck
	for i, list := range params {
		checks = append(checks, listCheck(problems, fmt.Sprintf("lists[%d]", i), list, patterns))
	}
	return checks
}

func listCheck(problems *Problems, field string, list *configpb.ListCheck, patterns *Patterns) ListCheck {
	check := ListCheck{Source: list.GetSource()}
	check.Property = propertyOrInstance(problems, field, list.SubjectProperty, list.ActionProperty)
	check.Name = name(problems, field+".name", list.GetName(), labelOr(check.Property, "value"))
	switch list.GetListed() {
	case configpb.ListCheck_DENIED:
		check.DeniesListed = true
	case configpb.ListCheck_LISTED_UNSPECIFIED:
		problems.add(field+".listed", "is missing; say whether those listed are ALLOWED or DENIED")
	case configpb.ListCheck_ALLOWED:
	}
	switch list.GetEntryType() {
	case configpb.ListCheck_CASE_INSENSITIVE_STRINGS:
		check.Type = CaseInsensitiveStrings
	case configpb.ListCheck_IP_ADDRESSES:
		check.Type = IPAddresses
	case configpb.ListCheck_REGEX:
		check.Type = Regex
	case configpb.ListCheck_ENTRY_TYPE_UNSPECIFIED, configpb.ListCheck_STRINGS:
	}
	if list.GetLifetime() != nil {
		check.Lifetime = duration(problems, field+".lifetime", list.GetLifetime(), MinLifetimeDuration, MaxLifetimeDuration)
	}
	entries := list.GetEntries()
	switch {
	case len(entries) == 0 && check.Source == "":
		problems.add(field, "has no list; add entries, or source with the name of a list from the adapter's settings")
	case len(entries) > 0 && check.Source != "":
		problems.add(field, "has both entries and source; keep one and use a second check for the other")
	case check.Source != "" && list.GetEntryType() != configpb.ListCheck_ENTRY_TYPE_UNSPECIFIED:
		problems.add(field+".entry_type", "stands beside source, of which the adapter's settings say the type; remove it")
	case len(entries) > MaxEntriesPerCheck:
		problems.add(field+".entries", "has %d entries; use at most %d, or source", len(entries), MaxEntriesPerCheck)
		return check
	}
	for i, entry := range entries {
		err := CheckEntry(entry)
		switch {
		case err != nil:
		case check.Type == IPAddresses:
			_, err = ParsePrefix(entry)
		case check.Type == Regex:
			err = patterns.Add(entry)
		}
		if err != nil {
			problems.add(fmt.Sprintf("%s.entries[%d]", field, i), "%s", err)
		}
	}
	check.Entries = entries
	return check
}

// propertyOrInstance returns the property that one of two fields names, or none where neither is there.
func propertyOrInstance(problems *Problems, field string, subject, action *string) (p Property) {
	switch {
	case subject != nil && action != nil:
		problems.add(field, "has both subject_property and action_property; keep the one to compare and use a second check for the other")
	case subject != nil:
		if p.Name = *subject; p.Name == "" {
			problems.add(field+".subject_property", "is empty; name a property of the instance's subject, or remove it to take the instance's own value")
		}
	case action != nil:
		p.Action = true
		if p.Name = *action; p.Name == "" {
			problems.add(field+".action_property", "is empty; name a property of the instance's action, or remove it to take the instance's own value")
		}
	}
	return p
}

func labelOr(p Property, fallback string) string {
	if p.Name == "" {
		return fallback
	}
	return label(p.Name)
}

// CheckEntry says what is wrong with the form of a list's entry, of whatever type, if anything.
func CheckEntry(entry string) error {
	switch {
	case entry == "":
		return errors.New("is empty; write an entry or remove it")
	case len(entry) > MaxEntryBytes:
		return fmt.Errorf("has %d bytes; use at most %d", len(entry), MaxEntryBytes)
	case strings.TrimSpace(entry) != entry:
		return fmt.Errorf("is %s, with white space around it; remove that", quote(entry))
	// Nothing would ever equal such an entry, and whom a list is to stop would pass.
	case strings.ContainsAny(entry, "\r\n"):
		return fmt.Errorf("is %s, with a line break in it; make each line an entry", quote(entry))
	case strings.HasPrefix(entry, "\ufeff"):
		return errors.New("begins with a byte order mark, which no value has; remove it")
	default:
		return nil
	}
}

// ParsePrefix reads an address or a CIDR block. IPv4 addresses mapped into IPv6 become IPv4.
func ParsePrefix(entry string) (netip.Prefix, error) {
	var prefix netip.Prefix
	addr, err := netip.ParseAddr(entry)
	if err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	} else if prefix, err = netip.ParsePrefix(entry); err != nil {
		return netip.Prefix{}, fmt.Errorf("is %s and no address or CIDR block; write one such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32", quote(entry))
	}
	const mapped = 96 // the bits before the IPv4 address
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < mapped {
			return netip.Prefix{}, fmt.Errorf("is %s, which holds IPv4 addresses and others; write the IPv4 block by itself", quote(entry))
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("is %s, an address within the block %s; write the block, or the address without '/'", quote(entry), masked)
	}
	return prefix, nil
}

// Patterns are regular expressions that are bounded together, for a short text can become a large program.
type Patterns struct {
	// Compiled match whole values only.
	Compiled []*regexp.Regexp
	size     int
}

// Add compiles a further regular expression, or says what is wrong with it.
func (p *Patterns) Add(entry string) error {
	parsed, err := syntax.Parse(entry, syntax.Perl)
	if err != nil {
		reason := "cannot be read"
		if wrong, ok := errors.AsType[*syntax.Error](err); ok {
			reason = wrong.Code.String()
		}
		return fmt.Errorf("is %s and no regular expression in RE2's syntax: %s", quote(entry), reason)
	}
	size := program(parsed) + classes(parsed)
	switch {
	case size > MaxPatternSize:
		return fmt.Errorf("is %s, which becomes too large with its repetitions written out; use a simpler one", quote(entry))
	case p.size+size > MaxPatternsSize:
		return errors.New("makes the regular expressions too large together; use fewer or simpler ones")
	}
	p.size += size
	// The parsed form, and not the text: there a "\Q" without an end would take the anchor for its own.
	compiled, err := regexp.Compile(`\A(?:` + parsed.String() + `)\z`)
	if err != nil {
		return fmt.Errorf("is %s, which cannot be compiled", quote(entry))
	}
	p.Compiled = append(p.Compiled, compiled)
	return nil
}

// program estimates how many instructions a regular expression becomes: what is repeated counts as often as it may be.
func program(re *syntax.Regexp) int {
	n := 1
	switch {
	case re.Op == syntax.OpLiteral:
		n = len(re.Rune)
	case re.Op == syntax.OpConcat, re.Op == syntax.OpRepeat && re.Min == re.Max:
		n = 0
	}
	for _, sub := range re.Sub {
		n = min(n+program(sub), MaxPatternSize+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, MaxPatternSize+1)
}

// classes estimates what the character classes of a regular expression take beside its instructions, in the same measure.
func classes(re *syntax.Regexp) int {
	n := 0
	if re.Op == syntax.OpCharClass {
		const perInstruction = 10
		n = len(re.Rune) / perInstruction
	}
	for _, sub := range re.Sub {
		n = min(n+classes(sub), MaxPatternSize+1)
	}
	return n
}
