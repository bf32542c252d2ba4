// Package constant is a test adapter: a second out-of-process adapter beside Tollgate, so that tests can see how Mixer
// merges the answers of two. It answers a check with whatever the request itself asks for.
package constant

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"istio.io/api/mixer/adapter/model/v1beta1"
)

// Answer is what to answer, field by field as it goes over the wire.
type Answer struct {
	Code      codes.Code
	ValidFor  time.Duration
	ValidUses int32
}

// String writes the answer as it must stand in the instance's subject.user.
func (a Answer) String() string {
	return fmt.Sprintf("%d %s %d", uint32(a.Code), a.ValidFor, a.ValidUses)
}

// parse reads what String writes.
func parse(text string) (a Answer, err error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return a, fmt.Errorf("%q is not code, duration and uses", text)
	}
	code, err1 := strconv.ParseUint(fields[0], 10, 32)
	validFor, err2 := time.ParseDuration(fields[1])
	uses, err3 := strconv.ParseInt(fields[2], 10, 32)
	return Answer{Code: codes.Code(code), ValidFor: validFor, ValidUses: int32(uses)}, errors.Join(err1, err2, err3)
}

// Server is a running adapter.
type Server struct {
	// Addr is where it listens.
	Addr string

	server  *grpc.Server
	headers atomic.Pointer[metadata.MD]
}

// Start starts the adapter on a free port of the loopback.
func Start() (*Server, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: lis.Addr().String(), server: grpc.NewServer(grpc.ForceServerCodec(codec{}))}
	handler := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		headers, _ := metadata.FromIncomingContext(ctx)
		s.headers.Store(&headers)
		return handle(decode)
	}
	s.server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "authorization.HandleAuthorizationService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "HandleAuthorization", Handler: handler}},
	}, nil)
	go func() { _ = s.server.Serve(lis) }()
	return s, nil
}

// Headers returns the headers of the call that came last.
func (s *Server) Headers() metadata.MD { return *s.headers.Load() }

// Stop ends it.
func (s *Server) Stop() { s.server.Stop() }

func handle(decode func(any) error) (any, error) {
	var request raw
	if err := decode(&request); err != nil {
		return nil, err
	}
	// HandleAuthorizationRequest.instance, InstanceMsg.subject and SubjectMsg.user all have the number 1.
	answer, err := parse(string(field1(field1(field1(request)))))
	if err != nil {
		return nil, err
	}
	result := &v1beta1.CheckResult{ValidDuration: answer.ValidFor, ValidUseCount: answer.ValidUses}
	if answer.Code != codes.OK {
		result.Status.Code = int32(answer.Code)
		result.Status.Message = "the constant adapter says so"
	}
	return result, nil
}

// field1 returns the bytes of a message's first field 1, nil if it has none.
func field1(message []byte) []byte {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil
		}
		message = message[size:]
		if number == 1 && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			return value
		}
		if size = protowire.ConsumeFieldValue(number, kind, message); size < 0 {
			return nil
		}
		message = message[size:]
	}
	return nil
}

// raw is a message that stays encoded.
type raw []byte

// codec hands requests through and encodes Istio's gogo types.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) ([]byte, error) {
	message, ok := v.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return nil, fmt.Errorf("cannot encode a %T", v)
	}
	return message.Marshal()
}

func (codec) Unmarshal(data []byte, v any) error {
	message, ok := v.(*raw)
	if !ok {
		return fmt.Errorf("cannot decode into a %T", v)
	}
	*message = append(raw(nil), data...)
	return nil
}
