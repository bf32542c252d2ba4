// Package slowlink delays what a server sends, so that a test decides which of two servers is heard first.
package slowlink

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Link forwards connections to a server.
type Link struct {
	// Addr is where it listens.
	Addr string

	lis    net.Listener
	target string
	delay  atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
}

// Start listens on a free port of the loopback. Everything that the target sends arrives later by the delay; what is
// sent to it arrives at once.
func Start(target string, delay time.Duration) (*Link, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{Addr: lis.Addr().String(), lis: lis, target: target}
	l.SetDelay(delay)
	go l.accept()
	return l, nil
}

// SetDelay changes by how much later things arrive that the target sends from now on.
func (l *Link) SetDelay(delay time.Duration) { l.delay.Store(int64(delay)) }

// Stop ends the link and its connections.
func (l *Link) Stop() {
	_ = l.lis.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}

func (l *Link) accept() {
	for {
		client, err := l.lis.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", l.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, client, server)
		l.mu.Unlock()
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		go func() {
			l.copyLate(client, server)
			_ = client.Close()
		}()
	}
}

// piece is what one read returned, and when to pass it on.
type piece struct {
	data []byte
	due  time.Time
}

// copyLate delays every byte by the same time: a piece does not wait for the one before it to be passed on.
func (l *Link) copyLate(to io.Writer, from io.Reader) {
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				pieces <- piece{buffer[:n], time.Now().Add(time.Duration(l.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			return
		}
	}
}
