package observe

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/transport"
)

// Refused counts a connection or call that the transport refused; and logs it at warn, at most once in ten seconds a reason and address.
// Connections that end within the handshake are those of load balancers and scanners, and logged at debug.
func (o *Observer) Refused(r transport.Refusal) {
	o.refused.WithLabelValues(string(r.Reason)).Inc()
	level := slog.LevelWarn
	if r.Reason == transport.HandshakeAborted {
		level = slog.LevelDebug
	}
	host, _, err := net.SplitHostPort(r.Peer)
	if err != nil {
		host = r.Peer
	}
	if more, ok := o.refusals.allow(string(r.Reason) + "/" + host); ok {
		o.logger.Log(context.Background(), level, "a caller was refused", "reason", string(r.Reason), "peer", r.Peer, "method", r.Method,
			"detail", r.Detail, "like_this_since_last_line", more)
	}
}

// Transport is what metrics need of a transport.
type Transport interface {
	// Connections returns how many connections are open.
	Connections() int
	// Files returns what became of the files that are read again and again.
	Files() []transport.File
}

// CountTransport makes the transport's connections and files metrics.
func (o *Observer) CountTransport(t Transport) {
	o.registry.MustRegister(&transportCollector{t})
}

var (
	connections       = describe("tollgate_connections", "Open connections of callers.")
	certificateExpiry = describe("tollgate_certificate_expiry_seconds", "When the first of the certificates in a file expires, in seconds since 1970.", "file")
	reloadFailures    = describe("tollgate_reload_failures_total", "New contents of a certificate or key file that could not be used.", "file")
)

type transportCollector struct{ transport Transport }

// Describe describes all there is.
func (c *transportCollector) Describe(to chan<- *prometheus.Desc) {
	to <- connections
	to <- certificateExpiry
	to <- reloadFailures
}

// Collect reads the state.
func (c *transportCollector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(connections, prometheus.GaugeValue, float64(c.transport.Connections()))
	for _, file := range c.transport.Files() {
		if !file.Expires.IsZero() {
			to <- prometheus.MustNewConstMetric(certificateExpiry, prometheus.GaugeValue, float64(file.Expires.Unix()), file.Setting)
		}
		to <- prometheus.MustNewConstMetric(reloadFailures, prometheus.CounterValue, float64(file.Failures), file.Setting)
	}
}
