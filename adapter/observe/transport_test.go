package observe_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/transport"
)

// access is a transport with two files.
type access struct{}

func (access) Connections() int { return 3 }

func (access) Files() []transport.File {
	return []transport.File{{Setting: "tls.cert", Expires: time.Unix(1_800_000_000, 0), Failures: 2}, {Setting: "callers.a.jwt.keys_file"}}
}

func TestTransportMetrics(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountTransport(access{})
	assert.Equal(t, map[string]int{"": 3}, samples(t, o, "tollgate_connections"))
	assert.Equal(t, map[string]int{"file=tls.cert": 1_800_000_000}, samples(t, o, "tollgate_certificate_expiry_seconds"))
	assert.Equal(t, map[string]int{"file=tls.cert": 2, "file=callers.a.jwt.keys_file": 0}, samples(t, o, "tollgate_reload_failures_total"))
}

func TestRefusalsAreToldOnceAReasonAndAddress(t *testing.T) {
	t.Parallel()
	o, log := newObserver(t, "info")
	for _, peer := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "@"} {
		o.Refused(transport.Refusal{Reason: transport.WrongCredential, Peer: peer, Method: "/a/B", Detail: "d"})
	}
	o.Refused(transport.Refusal{Reason: transport.NotTLS, Peer: "192.0.2.1:3", Detail: "e"})
	o.Refused(transport.Refusal{Reason: transport.HandshakeAborted, Peer: "192.0.2.1:3"})
	assert.Equal(t, map[string]int{"reason=wrong_credential": 4, "reason=not_tls": 1, "reason=handshake_aborted": 1}, samples(t, o, "tollgate_refused_total"))
	line := func(reason, peer, method, detail string) map[string]any {
		return map[string]any{
			"level": "WARN", "msg": "a caller was refused", "reason": reason, "peer": peer, "method": method, "detail": detail, "like_this_since_last_line": 0.0,
		}
	}
	assert.Equal(t, []map[string]any{
		line("wrong_credential", "192.0.2.1:1", "/a/B", "d"), line("wrong_credential", "192.0.2.2:1", "/a/B", "d"), line("wrong_credential", "@", "/a/B", "d"),
		line("not_tls", "192.0.2.1:3", "", "e"),
	}, lines(t, log))
}
