package mixer_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// Mixer's built-in opa adapter and Tollgate stand side by side in one Mixer, with the same params and the same instances,
// told apart by the last part of the request's path. Only what selects the adapter differs, and the connection.
const (
	builtIn = "built-in"
	ours    = "ours"
)

// opaDocumentation holds, in the comment of its message Params, the params that Istio documents for the adapter.
const opaDocumentation = "mixer/adapter/opa/config/config.proto"

// moreAttributes are of the kinds that Mixer's own attributes are not.
const moreAttributes = `apiVersion: config.istio.io/v1alpha2
kind: attributemanifest
metadata: {name: more, namespace: istio-system}
spec:
  attributes:
    test.string: {valueType: STRING}
    test.int64: {valueType: INT64}
    test.double: {valueType: DOUBLE}
    test.bool: {valueType: BOOL}
    test.ip: {valueType: IP_ADDRESS}
    test.timestamp: {valueType: TIMESTAMP}
    test.duration: {valueType: DURATION}
    test.email: {valueType: EMAIL_ADDRESS}
    test.dns: {valueType: DNS_NAME}
    test.uri: {valueType: URI}
`

func readYAML[T any](t *testing.T, path string) (value T) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, path)), &value))
	return value
}

// documentedParams returns the example from Istio's documentation, byte for byte.
func documentedParams(t *testing.T, version string) string {
	t.Helper()
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	proto, err := binaries.IstioFile(t.Context(), version, opaDocumentation)
	require.NoError(t, err)
	var params strings.Builder
	inside := false
	for line := range strings.Lines(string(proto)) {
		text, isComment := strings.CutPrefix(line, "//")
		text = strings.TrimPrefix(text, " ")
		switch {
		case strings.HasPrefix(text, "```yaml"):
			inside = true
		case inside && strings.HasPrefix(text, "```"):
			require.Contains(t, params.String(), "checkMethod")
			return params.String()
		case inside && isComment:
			params.WriteString(text)
		}
	}
	t.Fatal("Istio's documentation has no example of params")
	return ""
}

// opaInstances makes both forms of the instances.
func opaInstances(t *testing.T) string {
	t.Helper()
	var all []resource
	for name, params := range readYAML[map[string]map[string]any](t, "testdata/opa/instances.yaml") {
		all = append(all,
			newResource("instance", name+"-"+builtIn, map[string]any{"compiledTemplate": "authorization", "params": params}),
			newResource("instance", name+"-"+ours, map[string]any{"template": "authorization", "params": params}))
	}
	return printResources(t, all...)
}

// opaHandlers makes both forms of a handler, with the text of its params as it stands, and a rule for each instance.
func opaHandlers(t *testing.T, name, params string) string {
	t.Helper()
	var b strings.Builder
	for form, selects := range map[string]string{
		builtIn: "  compiledAdapter: opa\n",
		ours:    "  adapter: tollgate\n  connection: {address: \"tollgate:44225\", timeout: 5s}\n",
	} {
		handler := name + "-" + form
		_, _ = fmt.Fprintf(&b, "---\napiVersion: config.istio.io/v1alpha2\nkind: handler\nmetadata: {name: %s, namespace: istio-system}\nspec:\n%s  params:\n%s",
			handler, selects, indented(params))
		for _, instance := range []string{"full", "without-properties", "method-alone", "without-subject"} {
			b.WriteString("---\n" + printResources(t, newRule(handler+"-"+instance, opaPath(name, instance, form), handler, instance+"-"+form)))
		}
	}
	return b.String()
}

func opaPath(handler, instance, form string) string {
	return "/opa/" + handler + "/" + instance + "/" + form
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

func printYAML(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	require.NoError(t, err)
	return string(text)
}

// opaRequest is one request that both adapters are asked about.
type opaRequest struct {
	name     string
	instance string // full if not said
	headers  []string
	attrs    mesh.Attributes
	allowed  bool
}

// The requests by handler. They carry no "planted" value: a built-in adapter's messages are not ours to keep clean.
var opaRequests = map[string][]opaRequest{
	"documented": {
		{name: "as documented", headers: []string{"x-user", "bucket-admins", "x-method", "storage.buckets.get"}, allowed: true},
		{name: "other user", headers: []string{"x-user", "guests", "x-method", "storage.buckets.get"}},
		{name: "other method", headers: []string{"x-user", "bucket-admins", "x-method", "storage.buckets.delete"}},
		{name: "nothing"},
		{name: "nothing at all", instance: "method-alone"},
	},
	"groups": {
		{name: "member", headers: []string{"x-method", "member", "x-groups", "admins"}, allowed: true},
		{name: "no member", headers: []string{"x-method", "member", "x-groups", "guests"}},
		{name: "two in one string", headers: []string{"x-method", "member", "x-groups", "admins,guests"}},
		{name: "one", headers: []string{"x-method", "one", "x-groups", "admins,guests"}, allowed: true},
		{name: "none", headers: []string{"x-method", "none"}, allowed: true},
		{name: "empty", headers: []string{"x-method", "none", "x-groups", ""}, allowed: true},
	},
	"fields": {
		{name: "user", headers: []string{"x-method", "user", "x-user", "alice"}, allowed: true},
		{name: "other user", headers: []string{"x-method", "user", "x-user", "bob"}},
		{name: "whole action", headers: []string{"x-method", "action", "x-namespace", "shop", "x-service", "cart", "x-path", "/1"}, allowed: true},
		{name: "action in part", headers: []string{"x-method", "action", "x-namespace", "shop", "x-path", "/1"}},
		{name: "action's property", headers: []string{"x-method", "property", "x-version", "v2"}, allowed: true},
		{name: "no properties", instance: "without-properties", headers: []string{"x-method", "property", "x-version", "v2"}},
		{name: "empty property", headers: []string{"x-method", "empty-property"}, allowed: true},
		{name: "no user", headers: []string{"x-method", "no-user", "x-user", ""}, allowed: true},
		{name: "a user", headers: []string{"x-method", "no-user", "x-user", "alice"}},
	},
	"whole": {
		{name: "empty fields left out", instance: "without-properties", headers: []string{"x-method", "get"}, allowed: true},
		{name: "empty subject", instance: "method-alone", headers: []string{"x-method", "get"}, allowed: true},
		{name: "user", instance: "without-properties", headers: []string{"x-method", "get", "x-user", "alice"}},
		{name: "properties", headers: []string{"x-method", "get"}},
	},
	"kinds": {
		kind("string", "test.string", "text", true),
		kind("string", "test.string", "Text", false),
		kind("int64", "test.int64", int64(-7), true),
		kind("int64", "test.int64", int64(7), false),
		kind("double", "test.double", 1.5, true),
		kind("double", "test.double", 1.25, false),
		kind("greater", "test.double", 100000001.0, true),
		kind("greater", "test.double", 1e8, false),
		kind("bool", "test.bool", true, true),
		kind("bool", "test.bool", false, false),
		kind("timestamp", "test.timestamp", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), true),
		kind("timestamp", "test.timestamp", time.Date(2026, 1, 2, 3, 4, 5, 1, time.UTC), false),
		kind("before", "test.timestamp", time.Date(2026, 5, 31, 23, 59, 59, 999, time.UTC), true),
		kind("before", "test.timestamp", time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), false),
		kind("duration", "test.duration", 1500*time.Millisecond, true),
		kind("duration", "test.duration", -1500*time.Millisecond, false),
		kind("email", "test.email", "alice@example.com", true),
		kind("email", "test.email", "bob@example.com", false),
		kind("dns", "test.dns", "www.example.com", true),
		kind("dns", "test.dns", "example.com", false),
		kind("uri", "test.uri", "https://example.com/a?b=c", true),
		kind("uri", "test.uri", "https://example.com/a?b=d", false),
		{name: "constant", headers: []string{"x-method", "constant"}, allowed: true},
	},
	"ip": {
		kind("ip", "test.ip", netip.MustParseAddr("10.1.2.3"), true),
		kind("ip", "test.ip", netip.MustParseAddr("10.1.2.4"), false),
	},
	"text": {
		text("string", "test.string", "text", `"text"`),
		text("string", "test.string", "caf\u00e9", "\"caf\u00e9\""),
		text("string", "test.string", "a\xff\xfeb", "\"a\uFFFD\uFFFDb\""),
		text("int64", "test.int64", int64(1<<53+1), "9007199254740993"),
		text("int64", "test.int64", int64(-1<<63), "-9223372036854775808"),
		text("double", "test.double", 1.5, "1.5"),
		text("double", "test.double", 2.0, "2"),
		text("double", "test.double", 1e8, "100000000"),
		text("double", "test.double", 123456789.25, "123456789.25"),
		text("double", "test.double", 1e21, "1e+21"),
		text("double", "test.double", 1e-7, "1e-7"),
		text("bool", "test.bool", true, "true"),
		text("ip", "test.ip", netip.MustParseAddr("10.1.2.3"), `"CgECAw=="`),
		text("ip", "test.ip", netip.MustParseAddr("2001:db8::1"), `"IAENuAAAAAAAAAAAAAAAAQ=="`),
		text("ip", "", nil, `"AAAAAAAAAAAAAP//wAACBw=="`), // what ip("192.0.2.7") makes
		text("timestamp", "test.timestamp", time.Date(1900, 1, 2, 3, 4, 5, 120000000, time.UTC), `"1900-01-02T03:04:05.12Z"`),
		text("duration", "test.duration", -90*time.Second, "-90000000000"),
		text("duration", "", nil, "0"),
		text("email", "", nil, `"nobody@example.com"`),
		text("dns", "", nil, `"example.com"`),
		text("uri", "", nil, `"https://example.com/"`),
	},
	"two-modules": {
		{name: "allowed", headers: []string{"x-user", "root"}, allowed: true},
		{name: "denied", headers: []string{"x-user", "alice"}},
	},
}

// kind asks about a value of one kind.
func kind(method, attribute string, value any, allowed bool) opaRequest {
	return opaRequest{
		name: fmt.Sprintf("%s %v", method, value), headers: []string{"x-method", method},
		attrs: mesh.Attributes{attribute: value}, allowed: allowed,
	}
}

// text asks what the text of a value is.
func text(property, attribute string, value any, expected string) opaRequest {
	r := opaRequest{
		name: fmt.Sprintf("%s %q", property, fmt.Sprint(value)), headers: []string{"x-method", property, "x-expected", expected},
		allowed: true,
	}
	if attribute != "" {
		r.attrs = mesh.Attributes{attribute: value}
	}
	return r
}

// failClose are the forms that the params can have. A handler in which Mixer finds mistakes, and which does not say
// fail_close: true, is dropped with its rules.
var failClose = []struct {
	name, params  string
	builtIn, ours answer
}{
	{"closed", "fail_close: true\n", denied, denied},
	{"open", "fail_close: false\n", mixersOwn, allowedOnce},
	{"absent", "", mixersOwn, refused},
}

func failingHandler(name, mode string) string { return name + "-" + mode }

// opaSideBySide makes the handlers of both forms that can decide.
func opaSideBySide(t *testing.T, version string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(opaInstances(t))
	b.WriteString(opaHandlers(t, "documented", documentedParams(t, version)))
	for name, params := range readYAML[map[string]map[string]any](t, "testdata/opa/handlers.yaml") {
		b.WriteString(opaHandlers(t, name, printYAML(t, params)))
	}
	return b.String()
}

// opaFailing makes the handlers that cannot decide. Mixer drops the built-in form of most of them or complains.
func opaFailing(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for name, params := range readYAML[map[string]map[string]any](t, "testdata/opa/failing.yaml") {
		for _, mode := range failClose {
			b.WriteString(opaHandlers(t, failingHandler(name, mode.name), printYAML(t, params)+mode.params))
		}
	}
	return b.String()
}

func testOPA(t *testing.T, s *suite) {
	t.Run("descriptor", testParamsHaveJSONNames)
	asked := 0
	for _, handler := range slices.Sorted(maps.Keys(opaRequests)) {
		for _, r := range opaRequests[handler] {
			t.Run(handler+" "+r.name, func(t *testing.T) {
				asked++
				attributes := request("", r.headers...).With(r.attrs)
				theirs := s.checkFreely(t, attributes.With(mesh.Attributes{"request.path": opaPath(handler, or(r.instance, "full"), builtIn)}))
				own := s.check(t, attributes.With(mesh.Attributes{"request.path": opaPath(handler, or(r.instance, "full"), ours)}))
				assert.Equal(t, theirs.Code, own.Code, "the two differ: %v and %v", theirs, own)
				want := denied
				if r.allowed {
					want = mixersOwn
				}
				assert.Equal(t, want.String(), answerOf(theirs).String(), "Mixer's own adapter answers otherwise: %v", theirs)
				if r.allowed {
					assert.Equal(t, allowed.String(), answerOf(own).String())
				}
			})
		}
	}
	t.Run("failing", func(t *testing.T) {
		require.NoError(t, s.mixer.ApplyAndSync(t.Context(), "opa-failing", s.addresses.Replace(opaFailing(t))))
		defer func() { require.NoError(t, s.mixer.Delete("opa-failing")) }()
		for _, problem := range s.mixer.ConfigErrors() {
			assert.NotContains(t, problem, "-"+ours)
		}
		for name := range readYAML[map[string]any](t, "testdata/opa/failing.yaml") {
			for _, mode := range failClose {
				t.Run(name+" "+mode.name, func(t *testing.T) {
					asked++
					ask := func(form string) *mesh.Verdict {
						return s.checkFreely(t, request(opaPath(failingHandler(name, mode.name), "full", form), "x-method", "get"))
					}
					theirs, own := ask(builtIn), ask(ours)
					assert.Equal(t, mode.builtIn.String(), answerOf(theirs).String(), "built-in: %v", theirs)
					assert.Equal(t, mode.ours.String(), answerOf(own).String(), "ours: %v", own)
				})
			}
		}
	})
	t.Run("without a subject", func(t *testing.T) {
		// Mixer's own adapter panics, which Mixer answers with an error. Tollgate decides upon an empty subject.
		_, err := s.mixer.Check(t.Context(), request(opaPath("fields", "without-subject", builtIn), "x-method", "no-user"))
		assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
		s.expect(t, allowed, opaPath("fields", "without-subject", ours), "x-method", "no-user")
	})
	t.Run("newer engine", func(t *testing.T) {
		// OPA 0.8.2, which Mixer embeds, reads large numbers in policies as floating-point ones, and takes `input` for
		// something else once a part of it was named in the same rule.
		for _, c := range []struct {
			instance   string
			attributes mesh.Attributes
		}{
			{"full", request("", "x-method", "large-number").With(mesh.Attributes{"test.int64": int64(1<<53 + 1)})},
			{"without-properties", request("", "x-method", "whole")},
		} {
			ask := func(form string) *mesh.Verdict {
				return s.checkFreely(t, c.attributes.With(mesh.Attributes{"request.path": opaPath("newer-engine", c.instance, form)}))
			}
			assert.Equal(t, denied.String(), answerOf(ask(builtIn)).String())
			assert.Equal(t, allowed.String(), answerOf(ask(ours)).String())
		}
	})
	t.Logf("%d requests to Mixer %s's opa adapter and to Tollgate", asked, s.mixer.Version)
	assert.GreaterOrEqual(t, asked, 20)
}

// testParamsHaveJSONNames holds that Mixer accepts the params' fields in camelCase too, in which Istio documents them.
func testParamsHaveJSONNames(t *testing.T) {
	names := map[string]string{}
	for _, message := range paramsFile(t, bundledDescriptors(t)).GetMessageType() {
		for _, field := range message.GetField() {
			assert.NotEmpty(t, field.GetJsonName(), "%s.%s", message.GetName(), field.GetName())
			if message.GetName() == "Params" {
				names[field.GetName()] = field.GetJsonName()
			}
		}
	}
	assert.Equal(t, "checkMethod", names["check_method"])
	assert.Equal(t, "failClose", names["fail_close"])
}
