package mixer_test

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// adapterToCome is the adapter resource of a version that does not exist yet: today's, with more fields and values.
// Mixer encodes params by it, so that today's binary gets what it does not know.
func adapterToCome(t *testing.T) string {
	t.Helper()
	set := bundledDescriptors(t)
	file := paramsFile(t, set)

	params := messageNamed(t, file.GetMessageType(), "Params")
	params.Field = append(params.Field, stringField("lockdown", 1000))
	combine := enumNamed(t, params.GetEnumType(), "Require")
	combine.Value = append(combine.Value, enumValue("MOST", 9))

	header := messageNamed(t, file.GetMessageType(), "HeaderCheck")
	header.Field = append(header.Field, stringField("pattern", 1000))

	failure := messageNamed(t, file.GetMessageType(), "Failure")
	mode := enumNamed(t, failure.GetEnumType(), "Mode")
	mode.Value = append(mode.Value, enumValue("SOMETIMES", 9))

	_, err := protodesc.NewFiles(set)
	require.NoError(t, err)
	raw, err := proto.Marshal(set)
	require.NoError(t, err)
	adapter := bundledAdapter(t, "tollgate-future")
	adapter.Spec["config"] = base64.StdEncoding.EncodeToString(raw)
	return printResources(t, adapter)
}

func stringField(name string, number int32) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{
		Name:     proto.String(name),
		JsonName: proto.String(name),
		Number:   proto.Int32(number),
		Type:     descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		Label:    descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
}

func enumValue(name string, number int32) *descriptorpb.EnumValueDescriptorProto {
	return &descriptorpb.EnumValueDescriptorProto{Name: proto.String(name), Number: proto.Int32(number)}
}

func messageNamed(t *testing.T, messages []*descriptorpb.DescriptorProto, name string) *descriptorpb.DescriptorProto {
	t.Helper()
	for _, m := range messages {
		if m.GetName() == name {
			return m
		}
	}
	t.Fatalf("no message %s", name)
	return nil
}

func enumNamed(t *testing.T, enums []*descriptorpb.EnumDescriptorProto, name string) *descriptorpb.EnumDescriptorProto {
	t.Helper()
	for _, e := range enums {
		if e.GetName() == name {
			return e
		}
	}
	t.Fatalf("no enum %s", name)
	return nil
}

// testVersionToCome has a replica that was not upgraded yet get handlers that use what a newer version knows. To pass over
// a check that it does not know would let through what the operator meant to stop.
func testVersionToCome(t *testing.T, s *suite) {
	right := token("planted-key")
	s.expect(t, allowed, "/future-unused", right...)
	s.expect(t, denied, "/future-unused", token("planted-wrong")...)
	for handler, want := range map[string]answer{
		"future-field":      refused,
		"future-field-open": allowedOnce,
		"future-nested":     refused,
		"future-enum":       refused,
		"future-enum-open":  allowedOnce,
		"future-mode":       refused,
	} {
		t.Run(handler, func(t *testing.T) {
			v := s.expect(t, want, "/"+handler, right...)
			if want == refused {
				assert.Equal(t, handler+".handler.istio-system:the request could not be checked (configuration)", v.Message)
			}
		})
	}
	for _, problem := range []string{
		"(field 1000): is not known to this version",
		"headers[0].(field 1000): is not known to this version",
		"require: has the value 9",
		"failure.timeout: has the value 9",
	} {
		assert.True(t, s.tollgate.Log.Contains(problem), "the log does not say: %s", problem)
	}
}
