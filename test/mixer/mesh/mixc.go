package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// MixcResult is one answer that mixc printed.
type MixcResult struct {
	// Failed says that the call itself failed; Code and Message are then those of the gRPC error.
	Failed bool
	// Code and Message are the decision's.
	Code    codes.Code
	Message string
	// ValidFor and ValidUses are the decision's lifetime.
	ValidFor  time.Duration
	ValidUses int32
	// Referenced are the attributes that the decision depends on, written as in Verdict.
	Referenced []string
	// Quotas are the answers to the quotas that were asked for.
	Quotas map[string]QuotaVerdict
	// Output is what mixc printed, without what gRPC logs in between.
	Output string
}

// OK says whether the request may pass.
func (r *MixcResult) OK() bool { return !r.Failed && r.Code == codes.OK }

// Mixc runs the release's own client, mixc check, against this Mixer. The arguments are what a user would type
// after it, but for the address; MixcArgs makes them from attributes.
func (m *Mixer) Mixc(ctx context.Context, args ...string) (*MixcResult, error) {
	out, err := m.runMixc(ctx, append([]string{"check"}, args...))
	if err != nil {
		return nil, err
	}
	return parseMixc(out)
}

// MixcReport runs mixc report.
func (m *Mixer) MixcReport(ctx context.Context, args ...string) (string, error) {
	return m.runMixc(ctx, append([]string{"report"}, args...))
}

func (m *Mixer) runMixc(ctx context.Context, args []string) (string, error) {
	binary, err := m.binaries.Mixc(ctx, m.Version)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, binary, append(args, "-m", m.Addr)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("mixc: %w\n%s", err, out.String())
	}
	return withoutLog(out.String()), nil
}

// withoutLog removes what gRPC logs into the output of the older releases' mixc.
func withoutLog(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !mixerLogLine.MatchString(line) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// MixcArgs turns attributes into mixc's options. It fails on what mixc's simple list syntax cannot say: commas
// anywhere, and semicolons and colons in maps.
func MixcArgs(attributes Attributes) ([]string, error) {
	lists := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		flag, text, err := mixcValue(attributes[name])
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if strings.ContainsAny(name, ",=") || strings.Contains(text, ",") {
			return nil, fmt.Errorf("attribute %s: mixc has no way to write %q", name, text)
		}
		lists[flag] = append(lists[flag], name+"="+text)
	}
	var args []string
	for _, flag := range slices.Sorted(maps.Keys(lists)) {
		args = append(args, "--"+flag, strings.Join(lists[flag], ","))
	}
	return args, nil
}

func mixcValue(value any) (flag, text string, err error) {
	switch v := value.(type) {
	case string:
		return "string_attributes", v, nil
	case bool:
		return "bool_attributes", strconv.FormatBool(v), nil
	case int:
		return "int64_attributes", strconv.Itoa(v), nil
	case int64:
		return "int64_attributes", strconv.FormatInt(v, 10), nil
	case float64:
		return "double_attributes", strconv.FormatFloat(v, 'g', -1, 64), nil
	case time.Time:
		return "timestamp_attributes", v.Format(time.RFC3339Nano), nil
	case time.Duration:
		return "duration_attributes", v.String(), nil
	case []byte:
		return "bytes_attributes", mixcBytes(v), nil
	case net.IP:
		return "bytes_attributes", mixcBytes(v), nil
	case netip.Addr:
		return "bytes_attributes", mixcBytes(v.AsSlice()), nil
	case map[string]string:
		var pairs []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if strings.ContainsAny(key, ":;") || strings.Contains(v[key], ";") {
				return "", "", fmt.Errorf("mixc has no way to write %q: %q", key, v[key])
			}
			pairs = append(pairs, key+":"+v[key])
		}
		return "stringmap_attributes", strings.Join(pairs, ";"), nil
	default:
		return "", "", fmt.Errorf("mixc has no attributes of type %T", v)
	}
}

func mixcBytes(data []byte) string {
	parts := make([]string, len(data))
	for i, b := range data {
		parts[i] = strconv.FormatUint(uint64(b), 16)
	}
	return strings.Join(parts, ":")
}

const (
	mixcDecided    = "Check RPC completed successfully. Check status was "
	mixcFailed     = "Check RPC failed with: "
	mixcReferenced = "  Referenced Attributes\n"
	mixcQuotas     = "  Quota "
)

var (
	// The message may have any number of lines, so the end of the first is not the end of the status.
	mixcLifetime = regexp.MustCompile(`\n  Valid use count: (-?\d+), valid duration: (\S+)\n`)
	mixcStatus   = regexp.MustCompile(`(?s)^(\w+(?: \d+|\(\d+\))?)(?: \((.*)\))?$`)
)

func parseMixc(out string) (*MixcResult, error) {
	r := &MixcResult{Output: out}
	if text, ok := strings.CutPrefix(out, mixcFailed); ok {
		r.Failed = true
		return r, r.setStatus(strings.TrimRight(text, "\n"))
	}
	text, ok := strings.CutPrefix(out, mixcDecided)
	if !ok {
		return nil, fmt.Errorf("not an answer of mixc check: %q", out)
	}
	at := mixcLifetime.FindStringSubmatchIndex(text)
	if at == nil {
		return nil, fmt.Errorf("no lifetime in what mixc printed: %q", out)
	}
	if err := r.setStatus(text[:at[0]]); err != nil {
		return nil, err
	}
	uses, err := strconv.ParseInt(text[at[2]:at[3]], 10, 32)
	if err != nil {
		return nil, err
	}
	r.ValidUses = int32(uses)
	if r.ValidFor, err = time.ParseDuration(text[at[4]:at[5]]); err != nil {
		return nil, err
	}
	if _, list, ok := strings.Cut(text[at[1]:], mixcReferenced); ok {
		r.Referenced = mixcAttributes(list)
	}
	if _, list, ok := strings.Cut(text[at[1]:], mixcQuotas); ok {
		r.Quotas, err = mixcGrants(list)
	}
	return r, err
}

// mixcGrants reads the table of quotas behind the first word of its head.
func mixcGrants(list string) (map[string]QuotaVerdict, error) {
	grants := make(map[string]QuotaVerdict)
	_, list, _ = strings.Cut(list, "\n")
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			break
		}
		amount, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return nil, err
		}
		validFor, err := time.ParseDuration(fields[2])
		if err != nil {
			return nil, err
		}
		grants[fields[0]] = QuotaVerdict{Granted: amount, ValidFor: validFor}
	}
	return grants, nil
}

// setStatus reads a code's name and, in parentheses, a message.
func (r *MixcResult) setStatus(text string) error {
	parts := mixcStatus.FindStringSubmatch(text)
	if parts == nil {
		return fmt.Errorf("not a status: %q", text)
	}
	code, err := parseCode(parts[1])
	if err != nil {
		return err
	}
	r.Code, r.Message = code, parts[2]
	return nil
}

// parseCode reads a code as mixc writes it: PERMISSION_DENIED for a decision's, PermissionDenied for a failed
// call's, and "Code 99" or "Code(99)" for one without a name.
func parseCode(name string) (codes.Code, error) {
	plain := strings.ToLower(strings.ReplaceAll(name, "_", ""))
	if plain == "cancelled" {
		plain = "canceled"
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if strings.ToLower(code.String()) == plain {
			return code, nil
		}
	}
	if number, ok := strings.CutPrefix(name, "Code"); ok {
		n, err := strconv.ParseUint(strings.Trim(number, " ()"), 10, 32)
		return codes.Code(n), err
	}
	return 0, errors.New("unknown status code " + strconv.Quote(name))
}

func mixcAttributes(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			break
		}
		name, key, isMap := strings.Cut(fields[0], "::")
		if isMap {
			name += "[" + key + "]"
		}
		if fields[1] == "ABSENCE" {
			name = "!" + name
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
