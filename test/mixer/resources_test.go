package mixer_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// exampleAddress stands in the examples where a cluster has its Service.
const exampleAddress = "dns:///tollgate.istio-system.svc.cluster.local:44225"

// resource is one Mixer resource.
type resource struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   metadata       `yaml:"metadata"`
	Spec       map[string]any `yaml:"spec"`
}

type metadata struct {
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
}

// parseResources reads the documents of a text, leaving out those that are only comments.
func parseResources(t *testing.T, text string) []resource {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var all []resource
	for {
		var r resource
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		if r.Kind != "" {
			all = append(all, r)
		}
	}
}

func printResources(t *testing.T, all ...resource) string {
	t.Helper()
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	for _, r := range all {
		require.NoError(t, encoder.Encode(r))
	}
	require.NoError(t, encoder.Close())
	return b.String()
}

// newResource makes a resource of the mesh-wide namespace.
func newResource(kind, name string, spec map[string]any) resource {
	return resource{
		APIVersion: "config.istio.io/v1alpha2",
		Kind:       kind,
		Metadata:   metadata{Name: name, Namespace: "istio-system"},
		Spec:       spec,
	}
}

// newRule asks a handler about the requests to one path.
func newRule(name, path, handler, instance string) resource {
	return newResource("rule", name, map[string]any{
		"match":   fmt.Sprintf(`(request.path | "") == %q`, path),
		"actions": []any{map[string]any{"handler": handler, "instances": []string{instance}}},
	})
}

// newHandler makes a handler of Tollgate's.
func newHandler(name, address, timeout string, params map[string]any) resource {
	return newResource("handler", name, map[string]any{
		"adapter":    "tollgate",
		"connection": map[string]any{"address": address, "timeout": timeout},
		"params":     params,
	})
}

// withRules adds, for every handler that no rule of the text names, a rule for the requests whose path is its name.
func withRules(t *testing.T, text string) string {
	t.Helper()
	handlers := map[string]bool{}
	for _, r := range parseResources(t, text) {
		if r.Kind == "handler" {
			handlers[r.Metadata.Name] = true
		}
	}
	for _, r := range parseResources(t, text) {
		if r.Kind == "rule" {
			for name := range handlers {
				if strings.Contains(printResources(t, r), "handler: "+name+"\n") {
					delete(handlers, name)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(handlers)) {
		text += "\n---\n" + printResources(t, newRule(name, "/"+name, name, "request"))
	}
	return text
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(text)
}

// staticResources is what every Mixer has from the start: what operators apply, and the scenarios' handlers.
func staticResources(t *testing.T, version string) map[string]string {
	t.Helper()
	resources := map[string]string{
		"tollgate":         bundle(t),
		"auth-header":      readFile(t, root, "operatorconfig/examples/auth-header.yaml"),
		"rego":             readFile(t, root, "operatorconfig/examples/rego.yaml"),
		"jwt":              readFile(t, root, "operatorconfig/examples/jwt.yaml"),
		"adapter-to-come":  adapterToCome(t),
		"opa-side-by-side": opaSideBySide(t, version),
		"more-attributes":  moreAttributes,
		"matrix":           staticMatrix(t),
	}
	files, err := filepath.Glob("testdata/static/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := "static-" + strings.TrimSuffix(filepath.Base(file), ".yaml")
		resources[name] = withRules(t, readFile(t, file))
	}
	return resources
}

func bundle(t *testing.T) string {
	t.Helper()
	return readFile(t, root, "operatorconfig/tollgate.yaml")
}

// bundledAdapter returns the bundle's adapter resource under another name.
func bundledAdapter(t *testing.T, name string) resource {
	t.Helper()
	for _, r := range parseResources(t, bundle(t)) {
		if r.Kind == "adapter" {
			r.Metadata.Name = name
			return r
		}
	}
	t.Fatal("the bundle has no adapter")
	return resource{}
}

// bundledDescriptors decodes the descriptors of params from the bundle's adapter resource.
func bundledDescriptors(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	encoded, ok := bundledAdapter(t, "tollgate").Spec["config"].(string)
	require.True(t, ok)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(raw, set))
	return set
}

// paramsFile returns the file that declares the message Params.
func paramsFile(t *testing.T, set *descriptorpb.FileDescriptorSet) *descriptorpb.FileDescriptorProto {
	t.Helper()
	for _, file := range set.GetFile() {
		for _, message := range file.GetMessageType() {
			if message.GetName() == "Params" {
				return file
			}
		}
	}
	t.Fatal("no file declares Params")
	return nil
}
