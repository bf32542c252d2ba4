package kubernetes

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serviceName is that of the headless service in the base.
const serviceName = "tollgate.istio-system.svc.cluster.local"

// nameServer is what a cluster's DNS is to a headless service: its name leads to the addresses of the pods that are ready, and of no others.
type nameServer struct {
	addr  string
	mu    sync.Mutex
	ready []string
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	var listen net.ListenConfig
	conn, err := listen.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &nameServer{addr: conn.LocalAddr().String()}
	server := &dns.Server{PacketConn: conn, Handler: n}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		assert.NoError(t, server.ShutdownContext(context.WithoutCancel(t.Context())))
		assert.NoError(t, <-ended)
	})
	return n
}

// add makes the name lead to an address too; remove takes it away.
func (n *nameServer) add(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = append(n.ready, address)
}

func (n *nameServer) remove(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = slices.DeleteFunc(n.ready, func(a string) bool { return a == address })
}

// ServeDNS answers one question. Mixer's gRPC also asks for texts, of a name below this one.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg).SetReply(question)
	if len(question.Question) != 1 || question.Question[0].Name != dns.Fqdn(serviceName) {
		reply.Rcode = dns.RcodeNameError
	} else if question.Question[0].Qtype == dns.TypeA {
		n.mu.Lock()
		for _, address := range n.ready {
			reply.Answer = append(reply.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: dns.Fqdn(serviceName), Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.ParseIP(address),
			})
		}
		n.mu.Unlock()
	}
	_ = w.WriteMsg(reply) // who gets no answer asks again
}
