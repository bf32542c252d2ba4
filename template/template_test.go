package template

import (
	"testing"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/template/authorization"
)

func find[T protoreflect.Descriptor](t *testing.T, name protoreflect.FullName) T {
	t.Helper()
	files, err := Files()
	require.NoError(t, err)
	found, err := files.FindDescriptorByName(name)
	require.NoError(t, err)
	descriptor, ok := found.(T)
	require.True(t, ok, "%s is a %T", name, found)
	return descriptor
}

// What Mixer derives from the descriptors: the method's path, the message, and the two options by which it knows a template.
func TestDescriptorsAreWhatMixerReads(t *testing.T) {
	service := find[protoreflect.ServiceDescriptor](t, "authorization.HandleAuthorizationService")
	require.Equal(t, 1, service.Methods().Len())
	method := service.Methods().ByName("HandleAuthorization")
	require.NotNil(t, method)
	assert.EqualValues(t, "authorization.HandleAuthorizationRequest", method.Input().FullName())
	assert.EqualValues(t, "istio.mixer.adapter.model.v1beta1.CheckResult", method.Output().FullName())
	assert.False(t, method.IsStreamingClient() || method.IsStreamingServer())

	encoded, err := proto.Marshal(service.ParentFile().Options())
	require.NoError(t, err)
	options := map[protowire.Number][]byte{}
	for len(encoded) > 0 {
		number, _, size := protowire.ConsumeField(encoded)
		require.Positive(t, size)
		options[number] = encoded[:size]
		encoded = encoded[size:]
	}
	assert.Equal(t, protowire.AppendVarint(protowire.AppendTag(nil, 72295727, protowire.VarintType), 0), options[72295727], "TEMPLATE_VARIETY_CHECK")
	assert.Equal(t, protowire.AppendString(protowire.AppendTag(nil, 72295888, protowire.BytesType), "authorization"), options[72295888])
}

func TestFieldNumbersAreMixers(t *testing.T) {
	for message, fields := range map[protoreflect.FullName]map[protoreflect.Name]protoreflect.FieldNumber{
		"authorization.HandleAuthorizationRequest": {"instance": 1, "adapter_config": 2, "dedup_id": 3},
		"authorization.InstanceMsg":                {"subject": 1, "action": 2, "name": 72295727},
		"authorization.SubjectMsg":                 {"user": 1, "groups": 2, "properties": 3},
		"authorization.ActionMsg":                  {"namespace": 1, "service": 2, "method": 3, "path": 4, "properties": 5},
		"istio.policy.v1beta1.Value": {
			"string_value": 1, "int64_value": 2, "double_value": 3, "bool_value": 4, "ip_address_value": 5, "timestamp_value": 6,
			"duration_value": 7, "email_address_value": 8, "dns_name_value": 9, "uri_value": 10, "string_map_value": 11,
		},
		"istio.mixer.adapter.model.v1beta1.CheckResult": {"status": 1, "valid_duration": 2, "valid_use_count": 3},
	} {
		got := map[protoreflect.Name]protoreflect.FieldNumber{}
		descriptor := find[protoreflect.MessageDescriptor](t, message).Fields()
		for i := range descriptor.Len() {
			got[descriptor.Get(i).Name()] = descriptor.Get(i).Number()
		}
		assert.Equal(t, fields, got, message)
	}
}

// The generated code and the descriptors describe one wire form, read by two libraries that share nothing.
func TestGeneratedCodeAndDescriptorsAgree(t *testing.T) {
	value := func(text string) *policyv1beta1.Value {
		return &policyv1beta1.Value{Value: &policyv1beta1.Value_StringValue{StringValue: text}}
	}
	sent := &authorization.HandleAuthorizationRequest{
		Instance: &authorization.InstanceMsg{
			Name:    "i.instance.ns",
			Subject: &authorization.SubjectMsg{User: "alice", Groups: "admins", Properties: map[string]*policyv1beta1.Value{"a": value("1"), "b": value("2")}},
			Action:  &authorization.ActionMsg{Namespace: "ns", Service: "svc", Method: "GET", Path: "/p", Properties: map[string]*policyv1beta1.Value{"c": value("3")}},
		},
		AdapterConfig: &types.Any{TypeUrl: "type.googleapis.com/a.B", Value: []byte("x")},
		DedupId:       "7",
	}
	encoded, err := sent.Marshal()
	require.NoError(t, err)

	read := dynamicpb.NewMessage(find[protoreflect.MessageDescriptor](t, "authorization.HandleAuthorizationRequest"))
	require.NoError(t, proto.Unmarshal(encoded, read))
	instance, err := protojson.Marshal(read.Get(read.Descriptor().Fields().ByName("instance")).Message().Interface())
	require.NoError(t, err)
	assert.JSONEq(t, `{
		"name": "i.instance.ns",
		"subject": {"user": "alice", "groups": "admins", "properties": {"a": {"stringValue": "1"}, "b": {"stringValue": "2"}}},
		"action": {"namespace": "ns", "service": "svc", "method": "GET", "path": "/p", "properties": {"c": {"stringValue": "3"}}}
	}`, string(instance))

	encodedAgain, err := proto.MarshalOptions{Deterministic: true}.Marshal(read)
	require.NoError(t, err)
	received := &authorization.HandleAuthorizationRequest{}
	require.NoError(t, received.Unmarshal(encodedAgain))
	assert.Equal(t, sent, received)

	// Equal messages encode to equal bytes, whatever order Go walks a map in.
	for range 20 {
		again, err := received.Marshal()
		require.NoError(t, err)
		assert.Equal(t, encoded, again)
	}
}
