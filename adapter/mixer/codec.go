package mixer

import (
	"strings"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// message is a call as it arrived. Its text is a copy, the only one that is made: gRPC reuses its buffers, and everything a
// decoder takes from the text may outlive the call.
type message struct {
	text string
}

// marshaler is what gogo/protobuf generates. Messages of google.golang.org/protobuf do not have it.
type marshaler interface {
	Marshal() ([]byte, error)
}

// Codec is the door's codec for a whole gRPC server. It hands Mixer's calls through as bytes and encodes Istio's gogo types;
// everything else, such as health and reflection, takes gRPC's own proto codec.
type Codec struct {
	proto encoding.CodecV2
}

// NewCodec returns the codec to force upon the server that a Door is registered with.
func NewCodec() Codec { return Codec{proto: encoding.GetCodecV2(grpcproto.Name)} }

// Name returns "proto", which is what the codec's bytes are.
func (Codec) Name() string { return grpcproto.Name }

// Marshal encodes a reply.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(marshaler)
	if !ok {
		return c.proto.Marshal(v)
	}
	encoded, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(encoded)}, nil
}

// Unmarshal takes over a call's bytes, or decodes a message of one of gRPC's own services.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return c.proto.Unmarshal(data, v)
	}
	var text strings.Builder
	text.Grow(data.Len())
	for _, buffer := range data {
		text.Write(buffer.ReadOnlyData())
	}
	m.text = text.String()
	return nil
}
