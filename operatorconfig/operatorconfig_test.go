package operatorconfig_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	gogoproto "github.com/gogo/protobuf/proto"
	gogodescriptor "github.com/gogo/protobuf/protoc-gen-gogo/descriptor"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/operatorconfig"

	// Register the generated code that the template resources describe.
	_ "github.com/tollgate-mesh/tollgate/template/apikey"
	_ "github.com/tollgate-mesh/tollgate/template/authorization"
	_ "github.com/tollgate-mesh/tollgate/template/checknothing"
	_ "github.com/tollgate-mesh/tollgate/template/edge"
	_ "github.com/tollgate-mesh/tollgate/template/listentry"
	_ "github.com/tollgate-mesh/tollgate/template/logentry"
	_ "github.com/tollgate-mesh/tollgate/template/metric"
	_ "github.com/tollgate-mesh/tollgate/template/quota"
	_ "github.com/tollgate-mesh/tollgate/template/reportnothing"
	_ "github.com/tollgate-mesh/tollgate/template/tracespan"
)

// A resource is one document of the bundle.
type resource struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Spec struct {
		Descriptor   string   `yaml:"descriptor"`
		Description  string   `yaml:"description"`
		SessionBased *bool    `yaml:"session_based"`
		Templates    []string `yaml:"templates"`
		Config       string   `yaml:"config"`
	} `yaml:"spec"`
}

// load reads the bundle strictly: a misspelt field would be ignored by Mixer.
func load(t *testing.T) []resource {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(operatorconfig.Bundle()))
	decoder.KnownFields(true)
	var all []resource
	for {
		var r resource
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, r)
	}
}

func templates(t *testing.T) []resource {
	t.Helper()
	all := load(t)
	return all[:len(all)-1]
}

func adapter(t *testing.T) resource {
	t.Helper()
	all := load(t)
	return all[len(all)-1]
}

// descriptors decodes a descriptor set and checks what Mixer takes for granted.
func descriptors(t *testing.T, encoded string) (*descriptorpb.FileDescriptorSet, []byte) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(raw, set))
	_, err = protodesc.NewFiles(set)
	require.NoError(t, err, "the set must hold every import")
	for _, file := range set.GetFile() {
		assert.Nil(t, file.GetSourceCodeInfo(), "%s carries source positions", file.GetName())
	}
	return set, raw
}

func TestBundleAppliesInOrder(t *testing.T) {
	all := load(t)
	require.GreaterOrEqual(t, len(all), 2)
	defined := map[string]bool{}
	for i, r := range all {
		assert.Equal(t, "config.istio.io/v1alpha2", r.APIVersion)
		assert.Equal(t, "istio-system", r.Metadata.Namespace)
		if i == len(all)-1 {
			assert.Equal(t, "adapter", r.Kind)
			continue
		}
		assert.Equal(t, "template", r.Kind)
		assert.False(t, defined[r.Metadata.Name], "%s is defined twice", r.Metadata.Name)
		defined[r.Metadata.Name] = true
	}
	for _, name := range adapter(t).Spec.Templates {
		assert.True(t, defined[name], "the adapter lists template %s, which the bundle lacks: Mixer would drop the adapter", name)
		delete(defined, name)
	}
	assert.Empty(t, defined, "templates that the adapter does not list")
}

func TestAdapter(t *testing.T) {
	a := adapter(t)
	assert.Equal(t, "tollgate", a.Metadata.Name)
	assert.NotEmpty(t, a.Spec.Description, "Mixer 1.7 rejects an adapter without a description")
	require.NotNil(t, a.Spec.SessionBased)
	assert.False(t, *a.Spec.SessionBased, "a session-based adapter gets no configuration")
}

func TestAdapterConfigIsParams(t *testing.T) {
	set, _ := descriptors(t, adapter(t).Spec.Config)
	var with []*descriptorpb.FileDescriptorProto
	for _, file := range set.GetFile() {
		for _, message := range file.GetMessageType() {
			if message.GetName() == "Params" {
				with = append(with, file)
			}
		}
	}
	require.Len(t, with, 1, "Mixer takes whichever file declares a message Params")
	code := protodesc.ToFileDescriptorProto((&configpb.Params{}).ProtoReflect().Descriptor().ParentFile())
	assert.True(t, proto.Equal(code, with[0]), "the bundle and the Go code describe different Params: run make generate")
}

// TestParamsAreEncodable holds the limits of Mixer's own encoder: a field that
// it cannot encode makes Mixer drop the handler, and traffic passes unchecked.
func TestParamsAreEncodable(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(message protoreflect.MessageDescriptor) {
		if seen[message.FullName()] {
			return
		}
		seen[message.FullName()] = true
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			name := field.FullName()
			assert.NotContains(t, []protoreflect.Kind{protoreflect.BytesKind, protoreflect.GroupKind}, field.Kind(), name)
			if field.IsMap() {
				assert.Equal(t, protoreflect.StringKind, field.MapKey().Kind(), "%s: keys", name)
			}
			if field.Message() == nil {
				continue
			}
			if field.Message().ParentFile().Package() == "google.protobuf" {
				assert.Equal(t, protoreflect.FullName("google.protobuf.Duration"), field.Message().FullName(), name)
				assert.False(t, field.IsList(), "%s: operators could not write a list of durations in Go syntax", name)
				continue
			}
			walk(field.Message())
		}
	}
	walk((&configpb.Params{}).ProtoReflect().Descriptor())
}

// TestTemplates reads each template as Mixer does, with gogo's library.
func TestTemplates(t *testing.T) {
	for _, r := range templates(t) {
		t.Run(r.Metadata.Name, func(t *testing.T) {
			_, raw := descriptors(t, r.Spec.Descriptor)
			set := &gogodescriptor.FileDescriptorSet{}
			require.NoError(t, gogoproto.Unmarshal(raw, set))

			var file *gogodescriptor.FileDescriptorProto
			var handle *gogodescriptor.ServiceDescriptorProto
			for _, f := range set.GetFile() {
				if f.GetOptions() != nil && gogoproto.HasExtension(f.GetOptions(), v1beta1.E_TemplateVariety) {
					require.Nil(t, file, "Mixer wants one file with template_variety")
					file = f
				}
				for _, service := range f.GetService() {
					if strings.HasPrefix(service.GetName(), "Handle") && handle == nil {
						handle = service
						assert.Same(t, f, file, "Mixer calls the first service named Handle…, whatever file it is in")
					}
				}
			}
			require.NotNil(t, file)
			require.NotNil(t, handle)
			assert.Equal(t, r.Metadata.Name, file.GetPackage(), "the package is part of the gRPC method")

			name, err := gogoproto.GetExtension(file.GetOptions(), v1beta1.E_TemplateName)
			require.NoError(t, err)
			assert.Equal(t, &r.Metadata.Name, name)
			assert.Regexp(t, "^[a-zA-Z]+$", r.Metadata.Name)

			require.Len(t, handle.GetMethod(), 1)
			assert.Equal(t, strings.TrimSuffix(handle.GetName(), "Service"), handle.GetMethod()[0].GetName())
			request := file.GetMessage(handle.GetMethod()[0].GetName() + "Request")
			require.NotNil(t, request)
			assert.Equal(t, "adapter_config", request.GetFieldDescriptor("adapter_config").GetName())
			assert.EqualValues(t, 2, request.GetFieldDescriptor("adapter_config").GetNumber())
			assert.EqualValues(t, 3, request.GetFieldDescriptor("dedup_id").GetNumber())
			instance := file.GetMessage("InstanceMsg")
			require.NotNil(t, instance, "Mixer checks instances against InstanceMsg")
			assert.EqualValues(t, 72295727, instance.GetFieldDescriptor("name").GetNumber())

			assertGenerated(t, file)
		})
	}
}

// TestVarieties names every template of the bundle, in its order. Mixer tells
// checks from reports by the variety, and calls the method accordingly.
func TestVarieties(t *testing.T) {
	want := []struct {
		name    string
		variety v1beta1.TemplateVariety
	}{
		{"authorization", v1beta1.TEMPLATE_VARIETY_CHECK},
		{"apikey", v1beta1.TEMPLATE_VARIETY_CHECK},
		{"listentry", v1beta1.TEMPLATE_VARIETY_CHECK},
		{"checknothing", v1beta1.TEMPLATE_VARIETY_CHECK},
		{"quota", v1beta1.TEMPLATE_VARIETY_QUOTA},
		{"logentry", v1beta1.TEMPLATE_VARIETY_REPORT},
		{"metric", v1beta1.TEMPLATE_VARIETY_REPORT},
		{"tracespan", v1beta1.TEMPLATE_VARIETY_REPORT},
		{"edge", v1beta1.TEMPLATE_VARIETY_REPORT},
		{"reportnothing", v1beta1.TEMPLATE_VARIETY_REPORT},
	}
	all := templates(t)
	require.Len(t, all, len(want))
	for i, r := range all {
		t.Run(want[i].name, func(t *testing.T) {
			require.Equal(t, want[i].name, r.Metadata.Name)
			_, raw := descriptors(t, r.Spec.Descriptor)
			set := &gogodescriptor.FileDescriptorSet{}
			require.NoError(t, gogoproto.Unmarshal(raw, set))
			file := set.GetFile()[len(set.GetFile())-1]
			variety, err := gogoproto.GetExtension(file.GetOptions(), v1beta1.E_TemplateVariety)
			require.NoError(t, err, "a check's variety is zero, and must be written all the same")
			assert.Equal(t, &want[i].variety, variety)

			// A check and a quota carry one instance, a report any number.
			field, reply, label := "instance", "CheckResult", gogodescriptor.FieldDescriptorProto_LABEL_OPTIONAL
			switch want[i].variety {
			case v1beta1.TEMPLATE_VARIETY_REPORT:
				field, reply, label = "instances", "ReportResult", gogodescriptor.FieldDescriptorProto_LABEL_REPEATED
			case v1beta1.TEMPLATE_VARIETY_QUOTA:
				reply = "QuotaResult"
			}
			method := file.GetService()[0].GetMethod()[0]
			assert.Equal(t, ".istio.mixer.adapter.model.v1beta1."+reply, method.GetOutputType())
			carried := file.GetMessage(method.GetName() + "Request").GetFieldDescriptor(field)
			require.NotNil(t, carried)
			assert.EqualValues(t, 1, carried.GetNumber())
			assert.Equal(t, label, carried.GetLabel())
		})
	}
}

// assertGenerated checks that the linked Go code comes from this very file.
func assertGenerated(t *testing.T, file *gogodescriptor.FileDescriptorProto) {
	t.Helper()
	compressed := gogoproto.FileDescriptor(file.GetName())
	require.NotNil(t, compressed, "no generated code for %s", file.GetName())
	reader, err := gzip.NewReader(bytes.NewReader(compressed))
	require.NoError(t, err)
	raw, err := io.ReadAll(reader)
	require.NoError(t, err)
	code := &gogodescriptor.FileDescriptorProto{}
	require.NoError(t, gogoproto.Unmarshal(raw, code))
	// The plugin adds options of its own to the copy that it embeds.
	code.Options, file.Options = nil, nil
	assert.True(t, gogoproto.Equal(file, code), "the bundle and the Go code describe different templates: run make generate")
}
