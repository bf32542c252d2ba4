package mesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrNoRedis means that there is no redis-server to start.
var ErrNoRedis = errors.New("redis-server is missing; hack/redis.sh gets it")

// Redis is a running redis-server that keeps nothing on a disk.
type Redis struct {
	// Addr is where it listens; a restart keeps it.
	Addr string
	// Log is what it wrote, over all restarts.
	Log *Log

	binary, dir string
	args        []string
	slot        slot
}

// FindRedis returns the redis-server of the path, or else the one that hack/redis.sh got.
func FindRedis() (string, error) {
	if binary, err := exec.LookPath("redis-server"); err == nil {
		return binary, nil
	}
	binaries, err := defaultBinaries()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(binaries.Root, "bin", "redis", "redis-server")
	if _, err := os.Stat(binary); err != nil {
		return "", ErrNoRedis
	}
	return binary, nil
}

// StartRedis starts the redis-server that FindRedis finds, with its files in dir.
func StartRedis(ctx context.Context, dir string) (*Redis, error) {
	binary, err := FindRedis()
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	r := &Redis{
		Addr: loopback(port), Log: &Log{path: filepath.Join(dir, "redis.log")}, binary: binary, dir: dir,
		args: []string{"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no"},
	}
	return r, r.Start(ctx)
}

// Start starts it again after Kill, without what it had, and waits until it answers.
func (r *Redis) Start(ctx context.Context) error {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	p, err := startProcess("redis-server", r.binary, r.args, nil, r.dir, r.Log)
	if err != nil {
		return err
	}
	r.slot.set(p)
	return p.waitReady(ctx, r.ping)
}

func (r *Redis) ping(ctx context.Context) error { return r.Do(ctx, "PING") }

// Do sends commands, one after another over one connection, and fails at the first that Redis refuses.
func (r *Redis) Do(ctx context.Context, commands ...string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answers := bufio.NewReader(conn)
	for _, command := range commands {
		if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
			return err
		}
		answer, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(answer, "-") {
			return fmt.Errorf("redis-server refuses %s: %s", command, strings.TrimSpace(answer))
		}
	}
	return nil
}

// Pause makes it hang until Resume.
func (r *Redis) Pause() error { return r.slot.get().cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (r *Redis) Resume() error { return r.slot.get().cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends it at once, paused or not.
func (r *Redis) Kill() {
	if p := r.slot.get(); p != nil {
		p.kill()
	}
}
