package transport

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

type callerKey struct{}

// Caller returns who makes the call: the SPIFFE id of the client's certificate, dns: and its DNS name, or the caller's name in the
// settings. It is empty where callers are not authenticated.
func Caller(ctx context.Context) string {
	caller, _ := ctx.Value(callerKey{}).(string)
	return caller
}

// callers tells who may call.
type callers struct {
	certificates bool
	proofs       []proof
	observer     Observer
}

// proof is what one caller presents.
type proof struct {
	caller string
	// header holds the value, after the scheme.
	header, scheme string
	// secret names the accepted values; verifier is for tokens. Exactly one is set.
	secret   string
	verifier *verifier
}

// newCallers returns nil where everybody may call.
func newCallers(ctx context.Context, s settings.Settings, observer Observer, logger *slog.Logger) (*callers, error) {
	c := &callers{certificates: s.TLS.ClientCA != "", observer: observer}
	for _, name := range slices.Sorted(maps.Keys(s.Callers)) {
		caller := s.Callers[name].WithDefaults()
		one := proof{caller: name, header: "authorization", secret: caller.Secret()}
		switch {
		case caller.Header != nil:
			one.header = caller.Header.Name
		case caller.Bearer != "":
			one.scheme = "bearer"
		case caller.JWT != nil:
			one.scheme = "bearer"
			keys, err := newIssuerKeys(ctx, "callers."+name+".jwt", caller.JWT, logger)
			if err != nil {
				return nil, err
			}
			one.verifier = newVerifier(caller.JWT, keys)
		}
		c.proofs = append(c.proofs, one)
	}
	if !c.certificates && len(c.proofs) == 0 {
		return nil, nil //nolint:nilnil // it is what the comment says
	}
	return c, nil
}

// authenticator lets calls pass whose caller it knows.
type authenticator struct {
	*callers
	secrets *secret.Store
}

// openTo says which calls need no caller: probes have no credential.
func openTo(method string) bool { return strings.HasPrefix(method, "/grpc.health.v1.Health/") }

func (a authenticator) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, err := a.authenticate(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handle(ctx, request)
}

func (a authenticator) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, err := a.authenticate(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handle(server, authenticated{stream, ctx})
}

type authenticated struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the stream's context with its caller.
func (a authenticated) Context() context.Context { return a.ctx }

func (a authenticator) authenticate(ctx context.Context, method string) (context.Context, error) {
	if openTo(method) {
		return ctx, nil
	}
	from, ok := peer.FromContext(ctx)
	if !ok {
		from = &peer.Peer{}
	}
	caller, refusal := a.identify(ctx, from)
	if refusal == nil {
		return context.WithValue(ctx, callerKey{}, caller), nil
	}
	refusal.Method = method
	if from.Addr != nil {
		refusal.Peer = from.Addr.String()
	}
	a.observer.Refused(*refusal)
	// The reason is for our log alone: Mixer hands the text on to the end user.
	return nil, status.Error(codes.Unauthenticated, "the caller is not authenticated")
}

// identify returns who calls, or why nobody is believed to.
func (a authenticator) identify(ctx context.Context, from *peer.Peer) (caller string, refusal *Refusal) {
	certificate, ok := from.AuthInfo.(certified)
	if ok && certificate.caller != "" {
		return certificate.caller, nil
	}
	refusal = &Refusal{Reason: NoCredential, Detail: "the call brings neither a client certificate of tls.client_ca nor a credential"}
	if certificate.names != "" {
		refusal = &Refusal{Reason: CertificateName, Detail: "tls.client_names has none of the names in the certificate: " + certificate.names}
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	for i := range a.proofs {
		c := &a.proofs[i]
		value, ok := c.presented(headers)
		if !ok {
			continue
		}
		why := a.accepts(ctx, c, value)
		if why == nil {
			return c.caller, nil
		}
		if slices.Index(telling, why.Reason) > slices.Index(telling, refusal.Reason) {
			refusal = why
		}
	}
	return "", refusal
}

// telling are the reasons of calls, from the one that says least about what has to be mended: where several callers have the same kind of
// credential, a wrong value only says that another of them may be meant.
var telling = []Reason{NoCredential, CertificateName, WrongCredential, InvalidToken, SecretUnavailable, KeysUnavailable, TokenExpired}

// presented returns what a call brings in place of a credential, and false for nothing. Several values are as good as none: nobody knows
// which of them other parties look at.
func (c *proof) presented(headers metadata.MD) (value string, ok bool) {
	values := headers.Get(c.header)
	if len(values) != 1 {
		return "", false
	}
	value = values[0]
	if c.scheme != "" {
		scheme, rest, found := strings.Cut(value, " ")
		if !found || !strings.EqualFold(scheme, c.scheme) {
			return "", false
		}
		value = rest
	}
	return value, value != ""
}

func (a authenticator) accepts(ctx context.Context, c *proof, value string) *Refusal {
	if c.verifier != nil {
		return c.verifier.verify(ctx, value)
	}
	unavailable := func(why any) *Refusal {
		return &Refusal{Reason: SecretUnavailable, Detail: fmt.Sprintf("the secret %s of the caller %s is unavailable: %v", c.secret, c.caller, why)}
	}
	named, ok := a.secrets.Secret(c.secret)
	if !ok {
		return unavailable("there is no file of that name")
	}
	expected, err := named.Digests()
	if err != nil {
		return unavailable(err)
	}
	if credential.Find(credential.Digest(value), expected) != credential.None {
		return nil
	}
	return &Refusal{Reason: WrongCredential, Detail: "no caller has the credential in " + c.header}
}
