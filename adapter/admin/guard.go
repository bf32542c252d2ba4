package admin

import (
	"net"
	"net/http"
	"strings"
)

// forPeople guards what people look at, or change, in a browser: it is not kept, not framed, and not for pages of others.
func forPeople(next http.Handler) http.Handler {
	// Requests that change something come from our own pages or from no browser.
	next = http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if onLoopback(r) && !isLoopback(r.Host) {
			// Anybody can let a name of theirs lead to this machine, and then a browser takes our pages for theirs.
			http.Error(w, "this listener is for this machine: ask for localhost, 127.0.0.1 or [::1]", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// notForOthers refuses what pages of others have a browser ask for. They cannot read the answer, but a profile takes time of the process for
// as long as whoever asks for it says.
func notForOthers(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "none", "same-origin":
			next(w, r)
		default:
			http.Error(w, "a page of another site asks for a profile; open it from the page here, or by its address", http.StatusForbidden)
		}
	}
}

// onLoopback reports whether the connection came in at an address that only this machine reaches.
func onLoopback(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	tcp, ok := local.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// isLoopback reports whether an address, with a port or without, is this machine's own.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// forwarding are headers of requests that something else passed on. What it passes on may come from anywhere, while its own address is
// this machine's: so does a sidecar.
var forwarding = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Envoy-External-Address", "X-Request-Id"}

// fromThisMachine reports whether a request comes from a process on this machine and was not passed on by it.
func fromThisMachine(r *http.Request) bool {
	for _, name := range forwarding {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	// A sidecar that looks at no HTTP adds no header, but comes to the pod's address.
	return onLoopback(r) && isLoopback(r.RemoteAddr)
}
