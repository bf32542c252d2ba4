package mesh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports are taken from below the range that Linux gives to outgoing connections: a port from that range could be
// taken by some client between being found free and being listened on.
const (
	firstPort = 20000
	lastPort  = 32000
)

// ports are those that were handed out, with the file of each that other processes see locked. The files stay open for as long as the process lives.
var ports struct {
	sync.Mutex
	given map[int]*os.File
}

// FreePort returns a TCP port that is free on all addresses and was not handed out before by this process, nor by another that still runs: the tests of
// several packages run at the same time, and a server that is stopped for a while, or has not begun to listen, must find its port free.
func FreePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = make(map[int]*os.File)
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if ports.given[port] != nil {
			continue
		}
		lock, err := lockPort(port)
		if err != nil {
			return 0, err
		}
		if lock == nil {
			continue
		}
		if !portFree(port) {
			_ = lock.Close()
			continue
		}
		ports.given[port] = lock
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

// lockPort locks a port against other processes of this user until the file is closed; nil means that one of them has it.
func lockPort(port int) (*os.File, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tollgate-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	return lock, nil
}

// portFree tries to listen on all addresses, because mixs serves its metrics on all of them and has no option to
// do otherwise.
func portFree(port int) bool {
	lis, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	return lis.Close() == nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
