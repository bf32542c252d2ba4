package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// testCase is one entry of a file in testdata/cases.
type testCase struct {
	Params map[string]any `yaml:"params"`
	// Problems are all problems, in order, as an operator reads them.
	Problems []string `yaml:"problems"`
	// Shadow are all problems of the shadow section, in order.
	Shadow []string `yaml:"shadow"`
	// Handler is the handler where there is no problem, as render writes it.
	Handler string `yaml:"handler"`
	// Modes are those in force where there are problems; by default all closed.
	Modes string `yaml:"modes"`
	// HidesAll is whether no value of a report may be shown, for want of knowing which ones.
	HidesAll bool `yaml:"hides_all"`

	message *configpb.Params
}

// loadCases reads testdata/cases. The keys are file and case.
func loadCases(tb testing.TB) map[string]testCase {
	tb.Helper()
	files, err := filepath.Glob("testdata/cases/*.yaml")
	require.NoError(tb, err)
	require.NotEmpty(tb, files)
	all := map[string]testCase{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(tb, err)
		decoder := yaml.NewDecoder(bytes.NewReader(content))
		decoder.KnownFields(true)
		cases := map[string]testCase{}
		require.NoError(tb, decoder.Decode(&cases), file)
		for name, c := range cases {
			name = strings.TrimSuffix(filepath.Base(file), ".yaml") + "/" + name
			require.NotNil(tb, c.Params, "%s: has no params", name)
			require.NotEqual(tb, len(c.Problems) > 0, c.Handler != "", "%s: wants either problems or a handler", name)
			c.message = fromYAML(tb, name, c.Params)
			all[name] = c
		}
	}
	return all
}

// fromYAML reads params as Mixer does: known fields only, enums by name, durations in Go's form.
func fromYAML(tb testing.TB, name string, params map[string]any) *configpb.Params {
	tb.Helper()
	message := &configpb.Params{}
	goDurations(tb, name, params, message.ProtoReflect().Descriptor())
	encoded, err := json.Marshal(params)
	require.NoError(tb, err, name)
	require.NoError(tb, protojson.Unmarshal(encoded, message), name)
	return message
}

// goDurations writes Go's durations as protojson wants them, in seconds.
func goDurations(tb testing.TB, name string, params map[string]any, message protoreflect.MessageDescriptor) {
	tb.Helper()
	for key, value := range params {
		field := message.Fields().ByName(protoreflect.Name(key))
		if field == nil || field.Message() == nil || field.IsMap() {
			continue
		}
		switch value := value.(type) {
		case string:
			d, err := time.ParseDuration(value)
			require.NoError(tb, err, "%s: %s", name, key)
			params[key] = strconv.FormatFloat(d.Seconds(), 'f', 9, 64) + "s"
		case map[string]any:
			goDurations(tb, name, value, field.Message())
		case []any:
			for _, element := range value {
				if element, ok := element.(map[string]any); ok {
					goDurations(tb, name, element, field.Message())
				}
			}
		}
	}
}

// encode returns the bytes that Parse reads.
func encode(tb testing.TB, params *configpb.Params) []byte {
	tb.Helper()
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(params)
	require.NoError(tb, err)
	return encoded
}

// render writes what differs from the defaults, one part a line.
func render(h *config.Handler) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if h.Name != h.Fingerprint {
		line("name %s", h.Name)
	}
	if h.Require != config.All {
		line("require %s", h.Require)
	}
	if !h.HasChecks() {
		line("no check")
	}
	for _, check := range h.Headers {
		text := fmt.Sprintf("check %s: %s, %d digest", check.Name, check.Property, len(check.Digests))
		if len(check.Digests) != 1 {
			text += "s"
		}
		if len(check.Secrets) > 0 {
			text += fmt.Sprintf(", secrets %v", check.Secrets)
		}
		line("%s", text)
	}
	for _, check := range h.JWT {
		line("jwt %s: %s, keys %s, from %q%s", check.Name, check.Property, check.Keys, check.Issuers, renderJWT(check))
	}
	for _, list := range h.Lists {
		line("list %s: %s, listed %s, %s%s", list.Name, orInstance(list.Property), [...]string{"allowed", "denied"}[oneIf(list.DeniesListed)],
			list.Type, part("entries", list.Entries)+part("source", list.Source)+part("lifetime", list.Lifetime))
	}
	for _, keys := range h.APIKeys {
		text := fmt.Sprintf("api keys %s: %s", keys.Name, orInstance(keys.Property))
		for _, key := range keys.Keys {
			text += fmt.Sprintf(", %s %x…", key.Identity, key.Digest[:3])
		}
		line("%s%s", text, part("secrets", keys.Secrets))
	}
	for _, basic := range h.Basic {
		line("basic %s: %s, users %s%s", basic.Name, basic.Property, basic.Users, part("realm", basic.Realm))
	}
	if h.Rego != nil {
		text := fmt.Sprintf("rego v%d %s, %d module", h.Rego.Version, h.Rego.Decision, len(h.Rego.Modules))
		if len(h.Rego.Modules) != 1 {
			text += "s"
		}
		if h.Rego.Source != "" {
			text = fmt.Sprintf("rego %s from %s", h.Rego.Decision, h.Rego.Source)
		}
		line("%s", text)
	}
	for i := range h.Quotas {
		line("%s", renderQuota(&h.Quotas[i]))
	}
	if modes := renderModes(h.Modes); modes != "all closed" {
		line("modes %s", modes)
	}
	switch h.Allow {
	case config.Lifetime{Duration: config.DefaultLifetimeDuration, Uses: config.DefaultLifetimeUses}:
	case config.SingleUse:
		line("allow single-use")
	default:
		line("allow %s, %d uses", h.Allow.Duration, h.Allow.Uses)
	}
	if h.Deny != (config.Lifetime{}) {
		line("deny %s, %d uses", h.Deny.Duration, h.Deny.Uses)
	}
	if h.Denial.Code != config.PermissionDenied || h.Denial.Message != config.DefaultDenialMessage {
		line("denial %s %q", h.Denial.Code, h.Denial.Message)
	}
	if http := h.Denial.HTTP; http != nil {
		text := fmt.Sprintf("http %d %q", http.Status, http.Body)
		for _, key := range slices.Sorted(maps.Keys(http.Headers)) {
			text += fmt.Sprintf(" [%s: %s]", key, http.Headers[key])
		}
		line("%s", text)
	}
	if h.EvaluationTimeout != 0 {
		line("evaluation_timeout %s", h.EvaluationTimeout)
	}
	if text := renderReport(h.Report); text != "" {
		line("report%s", text)
	}
	if d := h.DecisionLog; d.Record != config.RecordNone {
		line("decisions %s%s", [...]string{"none", "denials", "sampled", "all"}[d.Record],
			part("one in", d.SampleOneIn)+part("to", d.Sinks)+part("drop", d.Drop)+part("mask", d.Mask))
	}
	if s := h.Shadow; s != nil && len(s.Problems) == 0 {
		line("shadow, %d%%:\n\t%s", s.Percent, strings.ReplaceAll(strings.TrimSpace(render(s.Candidate)), "\n", "\n\t"))
	}
	return b.String()
}

func renderJWT(check config.JWTCheck) string {
	text := part("for", check.Audiences) + part("algorithms", check.Algorithms) + part("without expiry", check.AllowNoExpiry) + part("max age", check.MaxAge)
	if check.Leeway != config.DefaultLeeway {
		text += fmt.Sprintf(", leeway %s", check.Leeway)
	}
	for _, rule := range check.Claims {
		text += fmt.Sprintf(", claim %q%s%s%s", rule.Path, part("of", rule.Values), part("like", rule.Pattern), part("with", rule.Contains))
	}
	if check.Realm != config.DefaultRealm {
		text += fmt.Sprintf(", realm %q", check.Realm)
	}
	return text
}

func renderQuota(q *config.Quota) string {
	text := fmt.Sprintf("quota %s: %s", q.Name, renderLimit(q.Limit))
	text += part("of", q.Instance) + part("by", q.Dimensions) + part("in", q.Store)
	if q.MaxKeys != config.DefaultQuotaKeys {
		text += part("keys", q.MaxKeys)
	}
	for _, o := range q.Overrides {
		text += fmt.Sprintf(", for %v %s", o.Dimensions, renderLimit(o.Limit))
	}
	return text
}

func renderLimit(l config.QuotaLimit) string {
	if l.Refill == 0 {
		return fmt.Sprintf("%d in %s", l.Amount, l.Window)
	}
	return fmt.Sprintf("%d at once, %d back in %s", l.Amount, l.Refill, l.Window)
}

func orInstance(p config.Property) string {
	if p.Name == "" {
		return "the instance's own"
	}
	return p.String()
}

func oneIf(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

func renderReport(r config.Report) string {
	return part("to", r.Sinks) + part("one in", r.SampleOneIn) + part("only", r.Only) + part("drop", r.Drop) + part("mask", r.Mask) +
		part("hide all", r.HideAll) + part("severities", r.Severities) + part("metrics", r.Metrics)
}

// part writes a value with its name, and nothing for a zero one.
func part(name string, value any) string {
	if reflect.ValueOf(value).IsZero() {
		return ""
	}
	return fmt.Sprintf(", %s %v", name, value)
}

func renderModes(modes config.Modes) string {
	text := modes.String()
	if modes.ClosedCode() != config.Unavailable {
		text += ", with " + modes.ClosedCode().String()
	}
	return text
}

func TestCases(t *testing.T) {
	t.Parallel()
	for name, c := range loadCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler, problems := config.Parse(encode(t, c.message))
			var texts []string
			for _, problem := range problems {
				texts = append(texts, problem.String())
			}
			assert.Equal(t, c.Problems, texts)
			assert.Equal(t, c.Shadow, shadowProblems(handler))
			if len(c.Problems) == 0 {
				assert.Equal(t, c.Handler, render(handler))
			} else {
				if c.Modes == "" {
					c.Modes = "all closed"
				}
				assert.Equal(t, c.Modes, renderModes(handler.Modes))
			}
			assert.Equal(t, c.HidesAll, handler.Report.HideAll)
			requireHidden(t, c.message, problems)
			requireHidden(t, c.message.GetShadow().GetCandidate(), problemsOf(handler))
		})
	}
}

// problemsOf returns the problems of the shadow section.
func problemsOf(h *config.Handler) config.Problems {
	if h.Shadow == nil {
		return nil
	}
	return h.Shadow.Problems
}

func shadowProblems(h *config.Handler) (texts []string) {
	for _, problem := range problemsOf(h) {
		texts = append(texts, problem.String())
	}
	return texts
}

// quoted finds the string constants of a policy.
var quoted = regexp.MustCompile(`"([^"]{4,})"`)

// requireHidden fails if a problem shows an expected value or a policy's constant.
func requireHidden(t *testing.T, params *configpb.Params, problems config.Problems) {
	t.Helper()
	hidden := []string{params.GetAuthKey()}
	for _, header := range params.GetHeaders() {
		hidden = append(hidden, slices.Concat(header.GetValues(), header.GetSha256())...)
	}
	for _, check := range params.GetApiKeys() {
		for _, key := range check.GetKeys() {
			hidden = append(hidden, key.GetSha256())
		}
	}
	for _, module := range params.GetPolicy() {
		for _, constant := range quoted.FindAllStringSubmatch(module, -1) {
			hidden = append(hidden, constant[1])
		}
	}
	hidden = append(hidden, slices.Collect(maps.Values(params.GetDenial().GetHttp().GetHeaders()))...)
	for _, value := range hidden {
		// What is shorter occurs in English.
		if len(strings.TrimSpace(value)) >= 4 {
			require.NotContains(t, problems.Error(), value)
		}
	}
}

// A field, or an enum's value, that no accepted case uses has no test: write one in testdata/cases.
func TestCasesCoverEveryField(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, c := range loadCases(t) {
		if len(c.Problems) == 0 {
			collectUsed(c.message.ProtoReflect(), used)
		}
	}
	for path := range allPaths((&configpb.Params{}).ProtoReflect().Descriptor()) {
		assert.True(t, used[path], "no case uses %s", path)
	}
}

// allPaths returns the full name of every field at any depth, and of every enum value but the first, which is "unspecified".
func allPaths(message protoreflect.MessageDescriptor) map[string]bool {
	paths := map[string]bool{}
	addPaths(paths, message)
	return paths
}

func addPaths(paths map[string]bool, message protoreflect.MessageDescriptor) {
	fields := message.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if paths[string(field.FullName())] {
			continue // params have a candidate, which is params
		}
		paths[string(field.FullName())] = true
		switch {
		case field.IsMap():
		case field.Enum() != nil:
			for j := 1; j < field.Enum().Values().Len(); j++ {
				paths[enumValue(field, field.Enum().Values().Get(j).Number())] = true
			}
		case field.Message() != nil && field.Message().FullName() != "google.protobuf.Duration":
			addPaths(paths, field.Message())
		}
	}
}

func enumValue(field protoreflect.FieldDescriptor, number protoreflect.EnumNumber) string {
	// Eight fields share Failure.Mode; one of them that is closed in so many words is enough.
	if field.Enum().FullName() == "tollgate.config.v1.Failure.Mode" {
		return fmt.Sprintf("%s = %d", field.Enum().FullName(), number)
	}
	return fmt.Sprintf("%s = %d", field.FullName(), number)
}

func collectUsed(message protoreflect.Message, used map[string]bool) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		used[string(field.FullName())] = true
		switch {
		case field.IsMap():
		case field.IsList() && field.Message() != nil:
			for i := range value.List().Len() {
				collectUsed(value.List().Get(i).Message(), used)
			}
		case field.Message() != nil:
			collectUsed(value.Message(), used)
		case field.Enum() != nil:
			used[enumValue(field, value.Enum())] = true
		}
		return true
	})
}
