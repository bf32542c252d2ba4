package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	manifestName   = "attributemanifest"
	generationName = "00-generation"
	startAttempts  = 3
)

// MixerOptions say how to start a Mixer.
type MixerOptions struct {
	// Resources is the configuration to start with: a name, as for Apply, and one or more YAML documents.
	Resources map[string]string
	// Args are added to the command line of mixs server.
	Args []string
	// Env is added to the environment, as NAME=value.
	Env []string
	// Dir is where the log and the configuration go; without it a temporary one, which Close removes.
	Dir string
	// ConfigStoreURL is where Mixer's configuration is, if not in the harness's files: k8s:///kubeconfig. What Resources and Apply write
	// is not read then, and Sync has nothing to go by.
	ConfigStoreURL string
	// WithoutManifest leaves out the release's attribute manifest.
	WithoutManifest bool
	// Binaries, if not those of the checkout around the working directory.
	Binaries *Binaries
}

// Mixer is a running mixs of one Istio release, with its configuration in files.
type Mixer struct {
	// Version is the Istio release.
	Version string
	// Addr is the Mixer API; MonitoringAddr serves Mixer's own metrics under /metrics.
	Addr, MonitoringAddr string
	// Log is what mixs wrote, over all restarts.
	Log *Log

	opts     MixerOptions
	binaries *Binaries
	tmp      string
	config   string
	slot     slot

	mu         sync.Mutex
	generation int
	synced     bool // nothing changed since the last Sync
	changed    Mark // where the log ended when the last changes began
	conn       *grpc.ClientConn
}

// StartMixer starts a release's Mixer with the given configuration and waits until it serves with it. A
// resource that Mixer rejects is no error here, as it is none to Mixer: see ConfigErrors.
func StartMixer(ctx context.Context, version string, opts MixerOptions) (*Mixer, error) {
	binaries, err := orDefault(opts.Binaries)
	if err != nil {
		return nil, err
	}
	m := &Mixer{Version: version, opts: opts, binaries: binaries}
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if err := m.Start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// prepare fills the configuration folder.
func (m *Mixer) prepare(ctx context.Context) (err error) {
	dir := m.opts.Dir
	if dir == "" {
		if m.tmp, err = os.MkdirTemp("", "mixer-"); err != nil {
			return err
		}
		dir = m.tmp
	}
	m.Log = &Log{path: filepath.Join(dir, "mixs.log")}
	m.config = filepath.Join(dir, "config")
	if err := os.MkdirAll(m.config, 0o700); err != nil {
		return err
	}
	if !m.opts.WithoutManifest {
		manifest, err := m.binaries.Manifest(ctx, m.Version)
		if err != nil {
			return err
		}
		if err := m.Apply(manifestName, string(manifest)); err != nil {
			return err
		}
	}
	for name, text := range m.opts.Resources {
		if err := m.Apply(name, text); err != nil {
			return err
		}
	}
	return nil
}

// Start starts it, again after Stop, on the same ports where it can: before the first start they are chosen, and
// chosen again should another process be quicker.
func (m *Mixer) Start(ctx context.Context) error {
	if p := m.slot.get(); p != nil && p.running() {
		return errors.New("mixs is already running")
	}
	binary, err := m.binaries.Mixs(ctx, m.Version)
	if err != nil {
		return err
	}
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	first := m.Addr == ""
	for attempt := 1; ; attempt++ {
		mark := m.Log.Mark()
		if first {
			if err := m.choosePorts(); err != nil {
				return err
			}
		}
		err := m.start(ctx, binary)
		if err == nil {
			return nil
		}
		m.Kill()
		said := m.Log.Since(mark)
		if first && attempt < startAttempts && strings.Contains(said, "address already in use") {
			continue
		}
		return fmt.Errorf("%w\n%s", err, said)
	}
}

func (m *Mixer) choosePorts() error {
	api, err := FreePort()
	if err != nil {
		return err
	}
	monitoring, err := FreePort()
	if err != nil {
		return err
	}
	m.Addr, m.MonitoringAddr = loopback(api), loopback(monitoring)
	return nil
}

func (m *Mixer) start(ctx context.Context, binary string) error {
	m.changing()
	// A connection from before a restart may not have noticed yet.
	m.closeConn()
	ctrlz, err := FreePort()
	if err != nil {
		return err
	}
	_, monitoring, _ := strings.Cut(m.MonitoringAddr, ":")
	store := m.opts.ConfigStoreURL
	if store == "" {
		store = "fs://" + m.config
	}
	args := append([]string{
		"server",
		"--address", "tcp://" + m.Addr,
		"--monitoringPort", monitoring,
		"--ctrlz_address", "127.0.0.1", "--ctrlz_port", strconv.Itoa(ctrlz),
		"--configStoreURL", store,
		"--configDefaultNamespace", Namespace,
		"--useAdapterCRDs=false", "--useTemplateCRDs=false",
	}, m.opts.Args...)
	p, err := startProcess("mixs "+m.Version, binary, args, m.opts.Env, filepath.Dir(m.config), m.Log)
	if err != nil {
		return err
	}
	m.slot.set(p)
	defer m.setSynced()
	// Mixer builds its first configuration before it serves.
	return p.waitReady(ctx, m.serving)
}

// Apply writes one or more YAML documents under a name of the caller's choice, or replaces what the name held.
// Mixer notices within two seconds; Sync waits for it.
func (m *Mixer) Apply(name, text string) error {
	path, err := m.file(name)
	if err != nil {
		return err
	}
	m.changing()
	return m.write(path, text)
}

// write puts a file in place as a whole: Mixer reads every .yaml file at any moment, so a half-written one must not
// have that name.
func (m *Mixer) write(path, text string) error {
	tmp, err := os.CreateTemp(m.config, "*.partial")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(text)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Delete removes what Apply wrote under the name.
func (m *Mixer) Delete(name string) error {
	path, err := m.file(name)
	if err != nil {
		return err
	}
	m.changing()
	return os.Remove(path)
}

// changing notes where in the log to look for what Mixer says about a change.
func (m *Mixer) changing() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.synced {
		m.synced = false
		m.changed = m.Log.Mark()
	}
}

func (m *Mixer) file(name string) (string, error) {
	if name == "" || name != filepath.Base(name) {
		return "", fmt.Errorf("not a name for a resource file: %q", name)
	}
	return filepath.Join(m.config, name+".yaml"), nil
}

// ApplyAndSync applies and waits until Mixer uses it.
func (m *Mixer) ApplyAndSync(ctx context.Context, name, text string) error {
	if err := m.Apply(name, text); err != nil {
		return err
	}
	return m.Sync(ctx)
}

// Sync waits until Mixer uses everything that was applied and deleted before, which takes up to two seconds. No
// request is sent for it, so no adapter sees any: a rule of the harness's own, which Mixer must reject, makes the log
// tell which configuration was built.
//
// Mixer waits for a second for all changes to come. Where it is so busy that they may take longer, Sync waits for one more configuration: Mixer looks
// for changes again only when it is through with the ones before.
func (m *Mixer) Sync(ctx context.Context) error {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	const unhurried = 3 * time.Second
	begun := time.Now()
	err := m.syncOnce(ctx)
	if err == nil && time.Since(begun) > unhurried {
		err = m.syncOnce(ctx)
	}
	return err
}

func (m *Mixer) syncOnce(ctx context.Context) error {
	mark := m.Log.Mark()
	generation, err := m.nextGeneration()
	if err != nil {
		return err
	}
	defer m.setSynced()
	return WaitFor(ctx, "Mixer to use its configuration", func(context.Context) error {
		if !inUse(m.Log.Since(mark), generation) {
			return fmt.Errorf("no sign of configuration %d in the log", generation)
		}
		return nil
	})
}

func (m *Mixer) setSynced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = true
}

// nextGeneration writes the numbering rule. Mixer reads the folder in the order of names, and the rule's file comes
// first: whatever was written before the rule is there when Mixer, having read the rule, reads on.
func (m *Mixer) nextGeneration() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.generation++
	return m.generation, m.write(filepath.Join(m.config, generationName+".yaml"), generationRule(m.generation))
}

// serving waits for the connection, which is ready once Mixer talks HTTP/2.
func (m *Mixer) serving(context.Context) error {
	conn, err := m.client()
	if err != nil {
		return err
	}
	conn.Connect()
	if state := conn.GetState(); state != connectivity.Ready {
		return fmt.Errorf("connection is %v", state)
	}
	return nil
}

// ConfigErrors returns what Mixer had to complain about since the last changes: those made between the last two
// calls of Sync, or those it started with. Every mistake in a resource makes Mixer drop it and allow the requests; the
// log is the only place that tells. Even there nothing tells of an unknown kind.
func (m *Mixer) ConfigErrors() []string {
	m.mu.Lock()
	mark := m.changed
	m.mu.Unlock()
	return configErrors(m.Log.Since(mark))
}

// Stop ends mixs. It does not ask first, because mixs has no graceful end.
func (m *Mixer) Stop() { m.Kill() }

// Kill ends mixs with SIGKILL and returns when it is gone.
func (m *Mixer) Kill() {
	if p := m.slot.get(); p != nil {
		p.kill()
	}
}

// Pid is the process's id.
func (m *Mixer) Pid() int {
	if p := m.slot.get(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Close ends mixs and removes what the harness made.
func (m *Mixer) Close() error {
	m.Kill()
	m.closeConn()
	if m.tmp == "" {
		return nil
	}
	return os.RemoveAll(m.tmp)
}

// client returns the connection that all checks share, as a proxy's would.
func (m *Mixer) client() (*grpc.ClientConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		conn, err := grpc.NewClient(m.Addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(quickReconnect()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(gogoCodec{})))
		if err != nil {
			return nil, err
		}
		m.conn = conn
	}
	return m.conn, nil
}

func (m *Mixer) closeConn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}
