// Package transport opens listeners and makes gRPC servers: who may reach the adapter, over what, and how much at once.
package transport

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/keepalive"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/clientname"
)

// Transport is what stands between the network and the services.
type Transport struct {
	settings     settings.Settings
	secrets      *secret.Store
	observer     Observer
	logger       *slog.Logger
	certificates *certificates // nil for plaintext
	names        clientname.List
	callers      *callers // nil where everybody may call
	listener     *boundedListener
}

// New reads the certificates and keys that the settings name, all but those of a URL. The settings must be valid.
func New(ctx context.Context, s settings.Settings, secrets *secret.Store, observer Observer, logger *slog.Logger) (*Transport, error) {
	t := &Transport{settings: s, secrets: secrets, observer: observer, logger: logger}
	var err error
	if s.TLS.Enabled() {
		if t.certificates, err = openCertificates(s.TLS); err != nil {
			return nil, err
		}
		if t.names, err = clientname.ParseList(s.TLS.ClientNames); err != nil {
			return nil, fmt.Errorf("tls.client_names%w", err)
		}
	}
	if t.callers, err = newCallers(ctx, s, observer, logger); err != nil {
		return nil, err
	}
	return t, nil
}

// Listen opens the listener for calls.
func (t *Transport) Listen(ctx context.Context) (net.Listener, error) {
	var (
		l   net.Listener
		err error
		s   = t.settings
	)
	if t.certificates != nil {
		l, err = listen(ctx, "listen", s.Listen)
	} else {
		l, err = Listen(ctx, "listen", s.Listen, s.AllowPlaintext, t.logger)
	}
	if err != nil {
		return nil, err
	}
	if t.callers == nil && !Loopback(s.Listen) {
		t.logger.Warn("whoever can connect may call; name the callers in tls.client_ca or callers", "listener", "listen", "address", s.Listen)
	}
	t.listener = newBoundedListener(l, s.Connections, t.observer)
	return t.listener, nil
}

// Connections returns how many connections are open.
func (t *Transport) Connections() int {
	if t.listener == nil {
		return 0
	}
	return t.listener.count()
}

// Files returns what became of the files that are read again and again, and of the keys that are fetched.
func (t *Transport) Files() (files []File) {
	if t.certificates != nil {
		files = append(files, t.certificates.pair.file())
		if t.certificates.clientCAs != nil {
			files = append(files, t.certificates.clientCAs.file())
		}
	}
	for _, keys := range t.issuerKeys() {
		files = append(files, keys.file())
	}
	return files
}

func (t *Transport) issuerKeys() (all []*issuerKeys) {
	if t.callers == nil {
		return nil
	}
	for _, c := range t.callers.proofs {
		if c.verifier != nil {
			all = append(all, c.verifier.keys)
		}
	}
	return all
}

// Run follows certificates and keys until ctx is done. It calls begun as soon as every issuer was asked for its keys, whether it answered
// or not, so that the first calls need not wait for them.
func (t *Transport) Run(ctx context.Context, begun func()) {
	var all sync.WaitGroup
	if t.certificates != nil {
		all.Go(func() { t.certificates.pair.follow(ctx, t.logger) })
		if t.certificates.clientCAs != nil {
			all.Go(func() { t.certificates.clientCAs.follow(ctx, t.logger) })
		}
	}
	documents := follow.Documents[*jwt.Keys]{}
	var first []<-chan struct{}
	for _, keys := range t.issuerKeys() {
		documents[keys.setting] = keys.document
		first = append(first, keys.document.Next())
	}
	all.Go(func() { _ = documents.Run(ctx) })
	for _, ended := range first {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	begun()
	all.Wait()
}

// NewServer makes a gRPC server that knows its callers, keeps connections within their bounds, and survives panics of its services.
func (t *Transport) NewServer(codec encoding.CodecV2) *grpc.Server {
	r := recovery{t.logger}
	unary, stream := []grpc.UnaryServerInterceptor{r.unary}, []grpc.StreamServerInterceptor{r.stream}
	if t.callers != nil {
		a := authenticator{callers: t.callers, secrets: t.secrets}
		unary, stream = append(unary, a.unary), append(stream, a.stream)
	}
	c := t.settings.Connections
	// Goroutines that stay keep the stacks that they have grown. More calls than these get one of their own.
	const streamWorkers = 64
	options := []grpc.ServerOption{
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec),
		grpc.MaxRecvMsgSize(t.settings.Limits.MessageBytes),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.ConnectionTimeout(c.HandshakeTimeout),
		grpc.MaxConcurrentStreams(narrow(c.Streams)),
		grpc.MaxHeaderListSize(narrow(c.HeaderBytes)),
		grpc.ReadBufferSize(c.BufferBytes),
		grpc.WriteBufferSize(c.BufferBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: c.MaxAge, MaxConnectionAgeGrace: c.MaxAgeGrace, Time: c.Keepalive, Timeout: c.KeepaliveTimeout,
		}),
		// Callers may ask while no call is under way: Mixer's connections are idle for long.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: c.MinPingInterval, PermitWithoutStream: true}),
	}
	if t.certificates != nil {
		options = append(options, grpc.Creds(newHandshaker(t.certificates, t.names, t.observer)))
	}
	return grpc.NewServer(options...)
}

// narrow is for settings whose bounds are far below.
func narrow(n int) uint32 { return uint32(n) } //nolint:gosec // see above
