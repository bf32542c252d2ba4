package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// Listen opens a listener: for TCP, or for unix:///PATH. A plaintext one that others than this machine can reach carries calls and
// credentials in the clear, so it opens only with consent, and with a warning.
func Listen(ctx context.Context, name, address string, allowPlaintext bool, logger *slog.Logger) (net.Listener, error) {
	if !Loopback(address) {
		if !allowPlaintext {
			remedy := "listen on 127.0.0.1"
			if name == "listen" { // the admin listener has no TLS
				remedy = "set tls.cert and tls.key, listen on 127.0.0.1"
			}
			return nil, fmt.Errorf("%s: %s is reachable from other machines, and what is said there would cross the network in the clear; "+
				"%s, or consent with --allow-plaintext (settings: allow_plaintext: true)", name, address, remedy)
		}
		logger.Warn("listening without encryption where other machines can connect", "listener", name, "address", address)
	}
	return listen(ctx, name, address)
}

func listen(ctx context.Context, name, address string) (net.Listener, error) {
	var (
		listener net.Listener
		err      error
	)
	if path, ok := settings.SocketPath(address); ok {
		listener, err = listenUnix(ctx, path)
	} else {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, "tcp", address)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is taken by another process, or by the other listener; end that, or choose another port: %w", name, address, err)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("%s: %s is no address of this machine; use one of its own, or 0.0.0.0 for all of them: %w", name, address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return listener, nil
}

// Loopback reports whether only this machine can reach the address.
func Loopback(address string) bool {
	if _, ok := settings.SocketPath(address); ok {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && settings.ThisMachine(host)
}

// socketMode lets the process's user and group connect.
const socketMode = 0o660

// socket is a listener whose file goes with it.
type socket struct {
	net.Listener
	path string
	made fs.FileInfo
	once sync.Once
	err  error
}

// listenUnix makes the socket under another name, where nobody else can reach it, and moves it to its place with its permissions set.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := notInUse(ctx, path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the directory %s does not exist; make it, or choose another path", filepath.Dir(path))
	}
	directory, err := os.MkdirTemp(filepath.Dir(path), ".tollgate-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	made := filepath.Join(directory, "s")
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	if l, ok := listener.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false) // it has another name by then
	}
	s := &socket{Listener: listener, path: path}
	err = os.Chmod(made, socketMode)
	if err == nil {
		s.made, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return s, nil
}

// notInUse makes sure that nothing but a socket that nobody listens to any more would be replaced.
func notInUse(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket; remove it or choose another path", path)
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = connection.Close()
		return fmt.Errorf("another process listens on %s; end it or choose another path", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil // its process is gone
	}
	return err
}

// Addr returns where the socket is.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close closes the socket and removes its file, unless that is another one's by now.
func (s *socket) Close() error {
	s.once.Do(func() {
		if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.made) {
			s.err = os.Remove(s.path)
		}
		s.err = errors.Join(s.err, s.Listener.Close())
	})
	return s.err
}

// boundedListener refuses connections past its bounds at once, so that those who hold too many are told, and nobody else waits.
type boundedListener struct {
	net.Listener
	max, maxPerAddress int
	observer           Observer

	mu        sync.Mutex // guards everything below
	open      int
	byAddress map[netip.Prefix]int
	// shaking are the connections whose handshake is under way.
	shaking map[*boundedConnection]bool
}

func newBoundedListener(l net.Listener, s settings.Connections, observer Observer) *boundedListener {
	return &boundedListener{
		Listener: l, max: s.Max, maxPerAddress: s.MaxPerAddress, observer: observer, byAddress: map[netip.Prefix]int{}, shaking: map[*boundedConnection]bool{},
	}
}

// Accept returns the next connection that is within the bounds.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := addressOf(connection.RemoteAddr())
		if refusal := l.admit(address); refusal != nil {
			refusal.Peer = connection.RemoteAddr().String()
			l.observer.Refused(*refusal)
			_ = connection.Close()
			continue
		}
		bounded := &boundedConnection{Conn: connection, listener: l, address: address}
		l.mu.Lock()
		l.shaking[bounded] = true
		l.mu.Unlock()
		return bounded, nil
	}
}

// lastHandshakes is how long handshakes may take that are under way when nobody else is let in.
const lastHandshakes = time.Second

// Close closes the listener, and soon after it the connections that are still within their handshake: a server that stops waits for them
// before it asks the other callers to leave, so that whoever connects and says nothing would have their calls cut off.
func (l *boundedListener) Close() error {
	time.AfterFunc(lastHandshakes, func() {
		l.mu.Lock()
		shaking := slices.Collect(maps.Keys(l.shaking))
		l.mu.Unlock()
		for _, connection := range shaking {
			_ = connection.Close()
		}
	})
	return l.Listener.Close()
}

// addressOf returns what counts as one address: all of an IPv6 /64 are one party's. It is zero for a socket.
func addressOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

func (l *boundedListener) admit(address netip.Prefix) *Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.max {
		return &Refusal{Reason: TooManyConnections, Detail: fmt.Sprintf("connections.max is %d", l.max)}
	}
	if address.IsValid() {
		if l.byAddress[address] >= l.maxPerAddress {
			return &Refusal{Reason: TooManyOfAddress, Detail: fmt.Sprintf("connections.max_per_address is %d, and %s has as many", l.maxPerAddress, address)}
		}
		l.byAddress[address]++
	}
	l.open++
	return nil
}

func (l *boundedListener) leave(c *boundedConnection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.shaking, c)
	l.open--
	if l.byAddress[c.address]--; l.byAddress[c.address] <= 0 {
		delete(l.byAddress, c.address)
	}
}

func (l *boundedListener) shook(c *boundedConnection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.shaking, c)
}

func (l *boundedListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// boundedConnection makes room when it is closed.
type boundedConnection struct {
	net.Conn
	listener *boundedListener
	address  netip.Prefix
	left     atomic.Bool
}

// SetDeadline is how gRPC bounds a handshake, and says that it is over: then there is no deadline any more.
func (c *boundedConnection) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.listener.shook(c)
	}
	return c.Conn.SetDeadline(t)
}

// Close closes the connection, any number of times.
func (c *boundedConnection) Close() error {
	if c.left.CompareAndSwap(false, true) {
		defer c.listener.leave(c)
	}
	return c.Conn.Close()
}
