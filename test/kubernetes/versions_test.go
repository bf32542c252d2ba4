package kubernetes

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// formerFields are the fields of Params that the older version does not have: a kind of check, and a field within another.
var formerFields = map[string]string{
	"repeated ListCheck lists = 16;": "repeated ListCheck lists = 1016;",
	"repeated string sha256 = 5;":    "repeated string sha256 = 1005;",
}

// olderTollgate builds an older version: this one's source, with a config.proto in which newer fields have other numbers, so that the binary knows
// nothing of those that today's params bring. A clone without history has no other older version to offer.
func olderTollgate(t *testing.T) string {
	t.Helper()
	source := t.TempDir()
	run := func(directory string, arguments ...string) {
		command := exec.CommandContext(t.Context(), "go", arguments...)
		command.Dir = directory
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		output, err := command.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(arguments, " "), output)
	}
	for _, folder := range []string{"adapter", "cmd", "config", "operatorconfig", "template", "tools/proto"} {
		require.NoError(t, os.CopyFS(filepath.Join(source, folder), os.DirFS(filepath.Join(root, folder))))
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		require.NoError(t, os.WriteFile(filepath.Join(source, file), []byte(read(t, file)), 0o600))
	}
	text := read(t, "config/config.proto")
	for field, elsewhere := range formerFields {
		require.Contains(t, text, field)
		text = strings.Replace(text, field, elsewhere, 1)
	}
	require.NoError(t, os.WriteFile(source+"/config/config.proto", []byte(text), 0o600))
	run(source+"/tools/proto", "run", "./protogen", "-root", source)
	binary := filepath.Join(source, "tollgate")
	run(source, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-X main.version=older", "-o", binary, "./cmd/tollgate")
	return binary
}

// olderAdapter is the bundle's adapter resource as it was released first, when Params had no lists, under a name of its own.
func olderAdapter(t *testing.T) string {
	t.Helper()
	released, err := os.ReadFile(root + "/config/testdata/released.binpb")
	require.NoError(t, err)
	bundle := objects(t, read(t, "operatorconfig/tollgate.yaml"))
	adapter := bundle[slices.IndexFunc(bundle, func(o object) bool { return o.GetKind() == "adapter" })]
	adapter.SetName("tollgate-older")
	adapter.Object["spec"].(map[string]any)["config"] = base64.StdEncoding.EncodeToString(released)
	return string(document(t, adapter))
}

// TestTwoVersions has replicas of two versions decide side by side while the adapter resource and the handlers are of one or the other, in every
// combination that an upgrade or a way back passes through, and in those that it must not.
func TestTwoVersions(t *testing.T) {
	t.Parallel()
	const unhurried = "evaluation_timeout: 5s\n" // on a busy machine a handler may not be compiled within the default
	newer := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: unhurried})
	older := meshtest.Tollgate(t, mesh.TollgateOptions{Path: olderTollgate(t), Settings: unhurried})
	refused, allowedOnce := answer{codes.Unavailable, 0, 0}, answer{codes.OK, -time.Second, 1}
	const (
		plain  = `{auth_key: abc, lifetimes: {allow: {duration: 5s, uses: 1000}}}`
		lists  = `{auth_key: abc, lists: [{subject_property: custom_token_header, listed: ALLOWED, entries: [abc]}], lifetimes: {allow: {duration: 5s, uses: 1000}}}`
		nested = `{headers: [{subject_property: custom_token_header, values: [abc], sha256: ["%064d"]}], lifetimes: {allow: {duration: 5s, uses: 1000}}}`
		opened = `{auth_key: abc, lists: [{subject_property: custom_token_header, listed: ALLOWED, entries: [abc]}], failure: {configuration: OPEN}}`
	)
	cases := []struct {
		name, adapter, params string
		replica               *mesh.Tollgate
		right, wrong          answer
		// dropped says that Mixer does not take the handler.
		dropped bool
	}{
		// What an upgrade starts from, and where a way back ends.
		{"older resource, older replica", "tollgate-older", plain, older, allowed, denied, false},
		// The replicas come first,
		{"older resource, newer replica", "tollgate-older", plain, newer, allowed, denied, false},
		// then the resource,
		{"newer resource, newer replica", "tollgate", plain, newer, allowed, denied, false},
		// and replicas that are still old go on as long as handlers say nothing new.
		{"newer resource, older replica", "tollgate", plain, older, allowed, denied, false},
		// The new fields come last: every replica has to know them. One that does not skips nothing.
		{"new check, newer replica", "tollgate", lists, newer, allowed, denied, false},
		{"new check, older replica", "tollgate", lists, older, refused, refused, false},
		{"new field in a check, newer replica", "tollgate", fmt.Sprintf(nested, 0), newer, allowed, denied, false},
		{"new field in a check, older replica", "tollgate", fmt.Sprintf(nested, 0), older, refused, refused, false},
		// As the handler wants it, and for one request.
		{"new check, older replica, opened", "tollgate", opened, older, allowedOnce, allowedOnce, false},
		// What must not be: the fields before the resource. Mixer drops the handler, and everything passes.
		{"new check, older resource", "tollgate-older", lists, newer, nobodys, nobodys, true},
	}
	resources := map[string]string{
		"tollgate": read(t, "operatorconfig/tollgate.yaml"),
		"older":    olderAdapter(t),
		"subject": `
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: subject, namespace: istio-system}
spec:
  template: authorization
  params: {subject: {properties: {custom_token_header: 'request.headers["x-custom-token"] | ""'}}}
`,
	}
	for i, c := range cases {
		resources[fmt.Sprintf("case-%d", i)] = fmt.Sprintf(`
apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: case-%[1]d, namespace: istio-system}
spec:
  adapter: %[2]s
  connection: {address: "%[3]s", timeout: 10s}
  params: %[4]s
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: case-%[1]d, namespace: istio-system}
spec:
  match: (request.path | "") == "/%[1]d"
  actions: [{handler: case-%[1]d, instances: [subject]}]
`, i, c.adapter, c.replica.Addr, c.params)
	}
	for _, version := range mesh.Versions {
		mixer := meshtest.LenientMixer(t, version, mesh.MixerOptions{Resources: resources})
		complaints := strings.Join(mixer.ConfigErrors(), "\n")
		for i, c := range cases {
			t.Run(version+"/"+c.name, func(t *testing.T) {
				assert.Equal(t, c.dropped, strings.Contains(complaints, fmt.Sprintf("case-%d", i)), complaints)
				for token, want := range map[string]answer{"abc": c.right, "wrong": c.wrong} {
					v, err := mixer.Check(context.WithoutCancel(t.Context()), mesh.Attributes{
						"context.reporter.kind": "inbound", "destination.namespace": "default", "request.path": fmt.Sprintf("/%d", i),
						"request.headers": map[string]string{"x-custom-token": token},
					})
					require.NoError(t, err)
					assert.Equal(t, want, answer{v.Code, v.ValidFor, v.ValidUses}, "%s: %s", token, v.Message)
					if want == refused {
						assert.Contains(t, v.Message, "the request could not be checked (configuration)")
					}
				}
			})
		}
	}
	for _, problem := range []string{"(field 16): is not known to this version", "headers[0].(field 5): is not known to this version"} {
		assert.True(t, older.Log.Contains(problem), "the older one's log does not say: %s", problem)
		assert.False(t, newer.Log.Contains(problem), "the newer one's log says: %s", problem)
	}
}
