package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TollgateOptions say how to start Tollgate. The zero value is what a user gets who types tollgate serve, on free
// ports.
type TollgateOptions struct {
	// Addr is where it listens, host:port; without it a free port of this machine's loopback.
	Addr string
	// Args are added to the command line after --listen and --admin.
	Args []string
	// Env is added to the environment, as NAME=value.
	Env []string
	// Settings is the text of a settings file; without it the command gets no --settings.
	Settings string
	// Dir is where the log and the settings file go, and the working directory; without it a temporary one, which
	// Close removes.
	Dir string
	// Dial are the options of the readiness probe's connection, for a listener that is not plaintext.
	Dial []grpc.DialOption
	// Binaries, if not those of the checkout around the working directory.
	Binaries *Binaries
	// Path is the binary to run in place of Binaries' tollgate, such as one built with other tags.
	Path string
}

// Tollgate is a running tollgate binary.
type Tollgate struct {
	// Addr and AdminAddr are where it listens; a restart keeps them.
	Addr, AdminAddr string
	// Log is what it wrote to both its outputs, over all restarts.
	Log *Log

	opts   TollgateOptions
	binary string
	args   []string
	tmp    string
	slot   slot
}

// StartTollgate starts the real binary and waits until its health service says that it serves.
func StartTollgate(ctx context.Context, opts TollgateOptions) (*Tollgate, error) {
	t := &Tollgate{opts: opts, binary: opts.Path}
	if t.binary == "" {
		binaries, err := orDefault(opts.Binaries)
		if err != nil {
			return nil, err
		}
		if t.binary, err = binaries.Tollgate(ctx); err != nil {
			return nil, err
		}
	}
	var err error
	if t.opts.Dir == "" {
		if t.tmp, err = os.MkdirTemp("", "tollgate-"); err != nil {
			return nil, err
		}
		t.opts.Dir = t.tmp
	}
	t.Log = &Log{path: filepath.Join(t.opts.Dir, "tollgate.log")}
	if err := t.prepare(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.Start(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// prepare chooses the ports and writes the settings.
func (t *Tollgate) prepare() error {
	t.Addr = t.opts.Addr
	if t.Addr == "" {
		listen, err := FreePort()
		if err != nil {
			return err
		}
		t.Addr = loopback(listen)
	}
	admin, err := FreePort()
	if err != nil {
		return err
	}
	t.AdminAddr = loopback(admin)
	t.args = []string{"serve", "--listen", t.Addr, "--admin", t.AdminAddr}
	if t.opts.Settings != "" {
		path := filepath.Join(t.opts.Dir, "settings.yaml")
		if err := os.WriteFile(path, []byte(t.opts.Settings), 0o600); err != nil {
			return err
		}
		t.args = append(t.args, "--settings", path)
	}
	t.args = append(t.args, t.opts.Args...)
	return nil
}

// Start starts it again on the same ports after Stop or Kill, and waits until it serves.
func (t *Tollgate) Start(ctx context.Context) error {
	if t.Running() {
		return errors.New("tollgate is already running")
	}
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	mark := t.Log.Mark()
	p, err := startProcess("tollgate", t.binary, t.args, t.opts.Env, t.opts.Dir, t.Log)
	if err != nil {
		return err
	}
	t.slot.set(p)
	if err := p.waitReady(ctx, t.Health); err != nil {
		p.kill()
		return fmt.Errorf("%w\n%s", err, t.Log.Since(mark))
	}
	return nil
}

// Health asks the health service on the listen address once; nil means serving.
func (t *Tollgate) Health(ctx context.Context) error {
	dial := t.opts.Dial
	if dial == nil {
		dial = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	// A connection of its own: an old one could still be backing off from the time before the server listened.
	conn, err := grpc.NewClient(t.Addr, dial...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	reply, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if reply.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %v", reply.Status)
	}
	return nil
}

// Stop sends SIGTERM and waits for the end of the graceful shutdown. It returns an error if the exit status is not 0
// or the process had to be killed when ctx ended (by default after two minutes).
func (t *Tollgate) Stop(ctx context.Context) error {
	p := t.slot.get()
	if p == nil {
		return nil
	}
	return p.stop(ctx)
}

// Kill sends SIGKILL and returns when the process is gone.
func (t *Tollgate) Kill() {
	if p := t.slot.get(); p != nil {
		p.kill()
	}
}

// Restart stops it gracefully and starts it on the same ports.
func (t *Tollgate) Restart(ctx context.Context) error {
	if err := t.Stop(ctx); err != nil {
		return err
	}
	return t.Start(ctx)
}

// Signal sends any other signal, for a reload say.
func (t *Tollgate) Signal(sig os.Signal) error {
	p := t.slot.get()
	if p == nil {
		return errors.New("tollgate was never started")
	}
	return p.cmd.Process.Signal(sig)
}

// Running says whether the process lives.
func (t *Tollgate) Running() bool {
	p := t.slot.get()
	return p != nil && p.running()
}

// Pid is the process's id, to read its memory use, say.
func (t *Tollgate) Pid() int {
	if p := t.slot.get(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Close kills the process if it still runs and removes what the harness made.
func (t *Tollgate) Close() error {
	t.Kill()
	if t.tmp == "" {
		return nil
	}
	return os.RemoveAll(t.tmp)
}

// String names it in messages.
func (t *Tollgate) String() string {
	return "tollgate(" + t.Addr + ", pid " + strconv.Itoa(t.Pid()) + ")"
}

func orDefault(b *Binaries) (*Binaries, error) {
	if b != nil {
		return b, nil
	}
	return defaultBinaries()
}
