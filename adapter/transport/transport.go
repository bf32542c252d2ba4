// Package transport opens listeners and makes gRPC servers: who may reach the adapter, over what, and how much at once.
package transport

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

// Listen opens a TCP listener. One that others than this machine can reach carries calls and credentials in the clear, so it
// opens only with consent, and with a warning.
func Listen(ctx context.Context, name, address string, allowPlaintext bool, logger *slog.Logger) (net.Listener, error) {
	if !loopback(address) {
		if !allowPlaintext {
			return nil, fmt.Errorf("%s: %s is reachable from other machines, and calls would cross the network in the clear; "+
				"listen on 127.0.0.1, or consent with --allow-plaintext (settings: allow_plaintext: true)", name, address)
		}
		logger.Warn("listening without encryption where other machines can connect", "listener", name, "address", address)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return listener, nil
}

// loopback reports whether only this machine can reach the address. Of names only localhost is believed.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// NewServer makes a gRPC server that receives messages of at most maxMessageBytes and survives panics of its services.
func NewServer(codec encoding.CodecV2, maxMessageBytes int, logger *slog.Logger) *grpc.Server {
	r := recovery{logger}
	// Goroutines that stay keep the stacks that they have grown. More calls than these get one of their own.
	const streamWorkers = 64
	return grpc.NewServer(
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.ChainUnaryInterceptor(r.unary),
		grpc.ChainStreamInterceptor(r.stream),
	)
}

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
