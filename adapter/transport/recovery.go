package transport

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// recovery answers a call that panicked, as a last resort: Mixer reads any gRPC error as INTERNAL, so check calls recover in the door.
type recovery struct {
	logger *slog.Logger
}

func (r recovery) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.answer(info.FullMethod, p)
		}
	}()
	return handle(ctx, request)
}

func (r recovery) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.answer(info.FullMethod, p)
		}
	}()
	return handle(server, stream)
}

func (r recovery) answer(method string, p any) error {
	// The value may hold something of the request; its type and the stack do not.
	r.logger.Error("a call panicked", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return status.Error(codes.Unavailable, "the call could not be answered")
}
