package main

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// istioReleases are the Mixers that our templates must equal, with the sums
// of their modules: this module does not require Istio.
var istioReleases = []struct{ release, version, sum string }{
	{"1.5.10", "v0.0.0-20200812220246-25bea56c0eb0", "h1:eEaGtxGf6wkxdfoaBSfuORFsws0rbxpwmcM8/p6Wwxc="},
	{"1.6.14", "v0.0.0-20201120194348-3ddc57b6d1e1", "h1:lIk7XC+bSjXbrh+PRTQcLnXgfLdyfO+sUJY7XJ75imk="},
	{"1.7.8", "v0.0.0-20210223230603-30e54dcb8a1c", "h1:J0Mo4V7SZixhsm5WOaLvi6HaNkhWaxa4ldabiAyfePA="},
}

// TestTemplatesEqualIstios compares each template's descriptor set with the
// one in Istio's resource of the same name. Both may be installed under one
// name, so that neither may say what the other does not.
func TestTemplatesEqualIstios(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads Istio's modules")
	}
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	for _, istio := range istioReleases {
		t.Run(istio.release, func(t *testing.T) {
			out, err := goModule{dir: root}.command(t.Context(), nil, "mod", "download", "-json", "istio.io/istio@"+istio.version)
			require.NoError(t, err)
			var module struct{ Dir, Sum string }
			require.NoError(t, json.Unmarshal(out, &module))
			require.Equal(t, istio.sum, module.Sum)

			for _, src := range sources {
				if src.kind != mixerTemplate {
					continue
				}
				name := filepath.Base(filepath.Dir(src.path))
				ours, err := os.ReadFile(filepath.Join(root, src.descriptorPath()))
				require.NoError(t, err)
				content := istiosResource(t, filepath.Join(module.Dir, "mixer", "template", name))
				var resource struct {
					Metadata struct{ Name string }
					Spec     struct{ Descriptor string }
				}
				require.NoError(t, yaml.Unmarshal(content, &resource))
				theirs, err := base64.StdEncoding.DecodeString(resource.Spec.Descriptor)
				require.NoError(t, err)

				assert.Equal(t, resource.Metadata.Name, name)
				want, got := meaning(t, theirs), meaning(t, ours)
				assert.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
				for file := range want {
					assert.Equal(t, want[file], got[file], file)
				}
			}
		})
	}
}

// istiosResource reads the template resource in a folder of Istio's. It is the
// only YAML file there; most are called template.yaml.
func istiosResource(t *testing.T, dir string) []byte {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	require.Len(t, found, 1, dir)
	content, err := os.ReadFile(found[0])
	require.NoError(t, err)
	return content
}

// meaning reduces a descriptor set to what Mixer reads: every file's
// declarations, in lines. Of the files' options only Mixer's two remain; the
// others steer generators of code. The template's file goes by "template",
// because each repository names it after its own folders.
func meaning(t *testing.T, raw []byte) map[string][]string {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(raw, set))
	declared := map[string][]string{}
	for _, file := range set.GetFile() {
		file.SourceCodeInfo = nil
		slices.Sort(file.Dependency)
		file.Options = mixerOptions(t, file.GetOptions())
		if file.Options != nil {
			file.Name = proto.String("template")
		}
		text, err := prototext.MarshalOptions{Multiline: true, EmitUnknown: true}.Marshal(file)
		require.NoError(t, err)
		declared[file.GetName()] = strings.Split(string(text), "\n")
	}
	return declared
}

// mixerOptions keeps template_variety and template_name.
func mixerOptions(t *testing.T, options *descriptorpb.FileOptions) *descriptorpb.FileOptions {
	t.Helper()
	var kept []byte
	for raw := options.ProtoReflect().GetUnknown(); len(raw) > 0; {
		number, _, size := protowire.ConsumeField(raw)
		require.Positive(t, size)
		if number == 72295727 || number == 72295888 {
			kept = append(kept, raw[:size]...)
		}
		raw = raw[size:]
	}
	if kept == nil {
		return nil
	}
	mixers := &descriptorpb.FileOptions{}
	mixers.ProtoReflect().SetUnknown(kept)
	return mixers
}
