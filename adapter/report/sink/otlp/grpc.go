package otlp

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcExporter has one connection, which is made when it is needed.
type grpcExporter struct {
	options *Options
	conn    *grpc.ClientConn
	call    []grpc.CallOption
}

func newGRPCExporter(o *Options) (*grpcExporter, error) {
	host, _, err := net.SplitHostPort(o.Endpoint)
	if err != nil {
		return nil, err
	}
	config, err := o.tls(host).Config()
	if err != nil {
		return nil, err
	}
	secured := insecure.NewCredentials()
	if config != nil {
		secured = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("dns:///"+o.Endpoint,
		grpc.WithTransportCredentials(secured),
		grpc.WithUserAgent("tollgate"),
		// The lane tries again, and a resolver has no say in how we do.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// The lane's pauses are the ones that count. By default gRPC's grow to two minutes, and an outage would outlast itself.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		// A machine that is gone without a word is noticed when its answers stay out, and not when TCP gives up.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	if err != nil {
		return nil, err
	}
	g := &grpcExporter{options: o, conn: conn, call: []grpc.CallOption{
		grpc.MaxCallSendMsgSize(64 << 20), grpc.MaxCallRecvMsgSize(4 << 20),
	}}
	if o.Compression != compressionNone {
		g.call = append(g.call, grpc.UseCompressor(gzip.Name))
	}
	return g, nil
}

func (g *grpcExporter) export(ctx context.Context, r *request) error {
	headers, err := g.options.headers()
	if err != nil {
		return err
	}
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(headers))
	return classifyStatus(status.Convert(g.conn.Invoke(ctx, r.signal.method(), r.message, r.answer, g.call...)), headers)
}

func (g *grpcExporter) close() error { return g.conn.Close() }
