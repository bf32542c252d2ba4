// Package mixertest plays Mixer's part in tests: it builds calls, and sends their bytes as they are, however wrong.
package mixertest

import (
	"context"
	"fmt"

	"github.com/gogo/protobuf/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/authorization"
)

// Method is the authorization template's one method.
const Method = "/authorization.HandleAuthorizationService/HandleAuthorization"

// Params encodes a handler configuration.
func Params(params *configpb.Params) []byte {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(params)
	if err != nil {
		panic(err)
	}
	return encoded
}

// Request is a whole call that presents a token to a handler.
func Request(params []byte, token string) *authorization.HandleAuthorizationRequest {
	return &authorization.HandleAuthorizationRequest{
		Instance: &authorization.InstanceMsg{
			Name: "authinstance.instance.istio-system",
			Subject: &authorization.SubjectMsg{
				User:       "alice",
				Properties: map[string]*policyv1beta1.Value{config.AuthKeyProperty: Text(token)},
			},
			Action: &authorization.ActionMsg{Namespace: "default", Service: "bookings", Method: "GET", Path: "/bookings/1"},
		},
		AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: params},
		DedupId:       "12",
	}
}

// Text is a string value.
func Text(text string) *policyv1beta1.Value {
	return &policyv1beta1.Value{Value: &policyv1beta1.Value_StringValue{StringValue: text}}
}

// Bytes encodes a call.
func Bytes(request *authorization.HandleAuthorizationRequest) []byte {
	encoded, err := request.Marshal()
	if err != nil {
		panic(err)
	}
	return encoded
}

// Call is the bytes of a call that presents a token to a handler.
func Call(params *configpb.Params, token string) []byte { return Bytes(Request(Params(params), token)) }

// Send makes a call of the authorization template, of the given bytes.
func Send(ctx context.Context, connection grpc.ClientConnInterface, call []byte, options ...grpc.CallOption) (*v1beta1.CheckResult, error) {
	return SendCheck(ctx, connection, Method, call, options...)
}

// SendCheck makes a call of any check template.
func SendCheck(ctx context.Context, connection grpc.ClientConnInterface, method string, call []byte, options ...grpc.CallOption) (*v1beta1.CheckResult, error) {
	var reply []byte
	if err := connection.Invoke(ctx, method, call, &reply, append(options, grpc.ForceCodecV2(Raw{}))...); err != nil {
		return nil, err
	}
	result := &v1beta1.CheckResult{}
	if err := result.Unmarshal(reply); err != nil {
		return nil, err
	}
	return result, nil
}

// Raw is a codec for messages that are bytes: []byte to send, *[]byte to receive. It calls itself proto, as Mixer's client does.
type Raw struct{}

var _ encoding.CodecV2 = Raw{}

// Name returns "proto".
func (Raw) Name() string { return "proto" }

// Marshal hands the bytes through.
func (Raw) Marshal(v any) (mem.BufferSlice, error) {
	content, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(content)}, nil
}

// Unmarshal copies the bytes, whose buffers gRPC uses again.
func (Raw) Unmarshal(data mem.BufferSlice, v any) error {
	content, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no pointer to bytes", v)
	}
	*content = data.Materialize()
	return nil
}
