package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/operatorconfig"
)

// binary is the command, built as `make build` builds it.
var binary string

const linkedVersion = "v0.0.0-test"

func TestMain(m *testing.M) {
	directory, err := os.MkdirTemp("", "tollgate")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(directory) }()
	binary = filepath.Join(directory, "tollgate")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+linkedVersion, "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	m.Run()
}

// patience is how long a process may take for what takes it milliseconds.
const patience = time.Minute

// run runs the binary to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	_ = command.Run()
	require.NoError(t, ctx.Err(), "%v did not end: %s", args, errs.String())
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// execute runs the root command in this process to its end.
func execute(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = root.ExecuteContext(ctx)
	require.NoError(t, ctx.Err(), "%v did not end", args)
	return out.String(), err
}

// process is a running `tollgate serve`.
type process struct {
	command *exec.Cmd
	address string
	admin   string
	lines   chan map[string]any
	// said are the messages that await has read.
	said   []string
	stdout bytes.Buffer
}

// serve starts the binary and waits until it says that it serves.
func serve(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{lines: make(chan map[string]any, 1000)}
	p.command = exec.CommandContext(t.Context(), binary, append([]string{"serve"}, args...)...)
	p.command.Stdout = &p.stdout
	stderr, err := p.command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.command.Start())
	t.Cleanup(func() {
		for range p.lines {
			continue // until the process has ended
		}
		_ = p.command.Wait()
	})
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			line := map[string]any{}
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				line["msg"] = "no JSON: " + scanner.Text()
			}
			p.lines <- line
		}
	}()
	serving := p.await(t, "serving")
	p.address = fmt.Sprint(serving["address"])
	p.admin = fmt.Sprint(serving["admin"])
	return p
}

// await returns the next log line with the message.
func (p *process) await(t *testing.T, message string) map[string]any {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			require.True(t, ok, "ended without saying %q", message)
			require.NotContains(t, line["msg"], "no JSON")
			p.said = append(p.said, fmt.Sprint(line["msg"]))
			if line["msg"] == message {
				return line
			}
		case <-timeout:
			require.Fail(t, "did not say "+message)
		}
	}
}

// end waits for the process to end.
func (p *process) end(t *testing.T) *os.ProcessState {
	t.Helper()
	for line := range p.lines {
		assert.NotContains(t, line["msg"], "no JSON")
	}
	_ = p.command.Wait()
	assert.Empty(t, p.stdout.String())
	return p.command.ProcessState
}

// free are the flags for ports that nobody else has.
var free = []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}

// patientHealthcheck is a probe that waits for its answer longer than the second that a probe waits by itself.
func patientHealthcheck(flags ...string) []string {
	return append([]string{"healthcheck", "--timeout", (patience / 2).String()}, flags...)
}

func settingsFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "settings.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content)
}

func TestServe(t *testing.T) {
	t.Parallel()
	p := serve(t, free...)

	stdout, stderr, code := run(t, patientHealthcheck("--address", p.address)...)
	assert.Equal(t, []any{"SERVING\n", "", 0}, []any{stdout, stderr, code})
	stdout, stderr, code = run(t, patientHealthcheck("--address", p.address, "--service", "authorization.HandleAuthorizationService")...)
	assert.Equal(t, []any{"SERVING\n", "", 0}, []any{stdout, stderr, code})
	stdout, stderr, code = run(t, patientHealthcheck("--address", p.address, "--service", "nothing")...)
	assert.Equal(t, []any{
		"", "tollgate: healthcheck: " + p.address + " has no service \"nothing\"; leave --service out to ask about the whole adapter\n", 1,
	}, []any{stdout, stderr, code})

	status, body := get(t, "http://"+p.admin+"/readyz")
	assert.Equal(t, http.StatusOK, status, body)
	_, body = get(t, "http://"+p.admin+"/metrics")
	assert.Contains(t, body, `tollgate_build_info{version="`+linkedVersion+`"} 1`)

	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	p.await(t, "shutting down")
	p.await(t, "ended")
	assert.Equal(t, 0, p.end(t).ExitCode())

	stdout, stderr, code = run(t, "healthcheck", "--address", p.address)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "tollgate: healthcheck: "+p.address+" does not answer; check the address, the --tls flags, and that `tollgate serve` runs: ")
	assert.Equal(t, 1, code)
}

func TestServeEndsOnInterrupt(t *testing.T) {
	t.Parallel()
	p := serve(t, free...)
	require.NoError(t, p.command.Process.Signal(os.Interrupt))
	assert.Equal(t, 0, p.end(t).ExitCode())
}

func TestServeDrains(t *testing.T) {
	t.Parallel()
	p := serve(t, append([]string{"--settings", settingsFile(t, "shutdown: {drain: 1h}")}, free...)...)
	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	p.await(t, "shutting down")
	// It still takes calls, and says that it should get none.
	require.Eventually(t, func() bool {
		_, stderr, code := run(t, "healthcheck", "--address", p.address)
		return code == 1 && stderr == "tollgate: healthcheck: "+p.address+" is NOT_SERVING\n"
	}, patience, 10*time.Millisecond)
	status, body := get(t, "http://"+p.admin+"/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, status)
	assert.Equal(t, "serving: starting or shutting down\n", body)

	// A second signal does not wait.
	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	ended, ok := p.end(t).Sys().(syscall.WaitStatus)
	require.True(t, ok)
	assert.Equal(t, syscall.SIGTERM, ended.Signal())
}

func TestFlagsWinOverTheFile(t *testing.T) {
	t.Parallel()
	file := settingsFile(t, "listen: 0.0.0.0:0\nadmin: 0.0.0.0:0\nlog: {level: error, format: text}\n")
	p := serve(t, "--settings", file, "--listen", "127.0.0.1:0", "--admin", "", "--log-level", "info", "--log-format", "json")
	assert.Regexp(t, `^127\.0\.0\.1:\d+$`, p.address)
	assert.Empty(t, p.admin)
}

func TestPlaintextBeyondThisMachine(t *testing.T) {
	t.Parallel()
	consent := settingsFile(t, "allow_plaintext: true")
	for name, args := range map[string][]string{
		"listen":               {"--listen", "0.0.0.0:0", "--admin", ""},
		"admin":                {"--listen", "127.0.0.1:0", "--admin", ":0"},
		"consent taken back":   {"--settings", consent, "--allow-plaintext=false", "--listen", "0.0.0.0:0", "--admin", ""},
		"no consent in a file": {"--settings", settingsFile(t, "listen: 0.0.0.0:0"), "--admin", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, append([]string{"serve"}, args...)...)
			assert.Empty(t, stdout)
			assert.Contains(t, stderr, "is reachable from other machines, and what is said there would cross the network in the clear; ")
			assert.Contains(t, stderr, "listen on 127.0.0.1, or consent with --allow-plaintext (settings: allow_plaintext: true)\n")
			assert.Equal(t, 1, code)
		})
	}
	for name, args := range map[string][]string{
		"by flag": {"--allow-plaintext", "--listen", "0.0.0.0:0", "--admin", ""},
		"by file": {"--settings", consent, "--listen", "0.0.0.0:0", "--admin", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, args...)
			assert.Contains(t, p.said, "listening without encryption where other machines can connect")
			assert.NotRegexp(t, `^127`, p.address)
		})
	}
}

// What cannot start says why, names the setting, and ends with 1.
func TestErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	away := filepath.Join(t.TempDir(), "away")
	wrong := settingsFile(t, "lisen: a\nlimits: {concurrent_checks: many}\n")
	outside := settingsFile(t, "limits: {concurrent_checks: 0}\nshutdown: {drain: 2h}\n")
	noSecrets := settingsFile(t, "secrets: {directory: "+away+"}")
	serve := append([]string{"serve"}, free...)
	for name, c := range map[string]struct {
		args []string
		want string // a pattern
	}{
		"unknown command":        {[]string{"server"}, `^unknown command "server" for "tollgate"`},
		"unknown flag":           {[]string{"serve", "--port", "1"}, "^unknown flag: --port; `tollgate serve --help` lists the flags$"},
		"unknown flag, at all":   {[]string{"--port"}, "^unknown flag: --port; `tollgate --help` lists the flags$"},
		"flag without a value":   {[]string{"serve", "--listen"}, "^flag needs an argument: --listen; `tollgate serve --help` lists the flags$"},
		"wrong flag value":       {[]string{"healthcheck", "--timeout", "soon"}, `^invalid argument "soon" for "--timeout" flag`},
		"argument, serve":        {append(serve, "now"), "^\"now\" is one argument too many; `tollgate serve --help` lists the flags, and there is nothing else$"},
		"argument, healthcheck":  {[]string{"healthcheck", "now"}, `^"now" is one argument too many; `},
		"argument, config":       {[]string{"operatorconfig", "now"}, `^"now" is one argument too many; `},
		"argument, version":      {[]string{"version", "now"}, `^"now" is one argument too many; `},
		"argument, certs":        {[]string{"certs", "now"}, `^"now" is one argument too many; `},
		"argument, policy":       {[]string{"policy", "now"}, `^"now" is no command of tollgate policy; use one of check, inspect, test$`},
		"argument, spool":        {[]string{"spool", "now"}, `^"now" is no command of tollgate spool; use one of export, inspect, replay, verify$`},
		"no settings file":       {append(serve, "--settings", away), `^settings: open ` + regexp.QuoteMeta(away) + `: no such file or directory$`},
		"wrong settings":         {append(serve, "--settings", wrong), `^settings: .*: line 1: lisen is no setting; docs/settings.md lists them\nline 2: limits.concurrent_checks is "many"; write a whole number$`},
		"settings out of bounds": {append(serve, "--settings", outside), `^settings:\nshutdown.drain is 2h0m0s; use 0s to 1h0m0s\nlimits.concurrent_checks is 0; use 1 to 1048576$`},
		"wrong flags":            {[]string{"serve", "--listen", "x", "--log-level", "loud"}, `^settings:\nlisten is "x"; write host:port, such as 127.0.0.1:44225\nlog.level is "loud"; use debug, info, warn or error$`},
		"no secrets directory":   {append(serve, "--settings", noSecrets), `^secrets.directory: open ` + regexp.QuoteMeta(away)},
		"port taken, listen":     {append(serve, "--listen", taken.Addr().String()), `^listen: ` + taken.Addr().String() + ` is taken by another process, or by the other listener; end that, or choose another port: `},
		"port taken, admin":      {append(serve, "--admin", taken.Addr().String()), `^admin: ` + taken.Addr().String() + ` is taken by another process, or by the other listener; end that, or choose another port: `},
		"no time":                {[]string{"healthcheck", "--timeout", "0s"}, `^healthcheck: --timeout is 0s; use more than 0s$`},
		"certs, no SPIFFE id":    {[]string{"certs", "--out", away, "--spiffe-id", "mixer"}, `^certs: --spiffe-id is "mixer"; write Mixer's, such as spiffe://`},
		"certs, more than an id": {[]string{"certs", "--out", away, "--spiffe-id", "spiffe://a/b?c"}, `^certs: --spiffe-id is "spiffe://a/b\?c"; write Mixer's, such as spiffe://`},
		"certs, nowhere":         {[]string{"certs", "--out", ""}, `^certs: --out is ""; name a directory`},
		"certs, no name":         {[]string{"certs", "--out", away, "--server-name", "a b"}, `^certs: --server-name has "a b"; write DNS names and addresses`},
		"policy check, host":     {[]string{"policy", "check", "--check-method", "data.p.allow", "--allow-hosts", "http://x", away}, `^--allow-hosts: rego.allow_hosts has "http://x"; write a name`},
		"policy check, bytes":    {[]string{"policy", "check", "--check-method", "data.p.allow", "--max-bytes", "0", away}, `^--max-bytes is 0; use at least 1$`},
		"policy check, path":     {[]string{"policy", "check", "--check-method", "data.p.allow"}, `^a path is missing; write tollgate policy check DIR \| FILE... `},
		"policy check, bundle":   {[]string{"policy", "check", "--check-method", "data.p.allow", away + ".tar.gz"}, `away.tar.gz is a bundle; unpack it and name the directory`},
		"policy test, pattern":   {[]string{"policy", "test", "--run", "(", away}, `^--run is no regular expression: `},
		"policy test, threshold": {[]string{"policy", "test", "--threshold", "200", away}, `^--threshold is 200; use 0 to 100 percent$`},
		"policy test, time":      {[]string{"policy", "test", "--timeout", "0s", away}, `^--timeout is 0s; use more than 0s$`},
		"no address":             {[]string{"healthcheck", "--address", "http://127.0.0.1:1"}, `^healthcheck: --address: listen is "http://127.0.0.1:1"; write host:port, such as `},
		"no address at all":      {[]string{"healthcheck", "--address", ""}, `^healthcheck: --address: listen is ""; write host:port, such as `},
		"two kinds of trust":     {[]string{"healthcheck", "--tls-ca", away, "--tls-unverified"}, `^healthcheck: --tls-ca and --tls-unverified exclude each other; leave one out$`},
		"nobody there":           {patientHealthcheck("--address", "127.0.0.1:1"), `^healthcheck: 127.0.0.1:1 does not answer; check the address, the --tls flags, and that .tollgate serve. runs: .*connection refused`},
		"nobody answers":         {[]string{"healthcheck", "--timeout", "50ms", "--address", taken.Addr().String()}, `^healthcheck: ` + taken.Addr().String() + ` does not answer; .*`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, err := execute(t, c.args...)
			require.Error(t, err)
			assert.Regexp(t, c.want, err.Error())
			assert.Empty(t, stdout)
		})
	}
	t.Run("as a process", func(t *testing.T) {
		t.Parallel()
		stdout, stderr, code := run(t, "serve", "--port", "1")
		assert.Equal(t, []any{"", "tollgate: unknown flag: --port; `tollgate serve --help` lists the flags\n", 1}, []any{stdout, stderr, code})
	})
}

// In this process, where the race detector and the leak detector look on.
func TestServeInProcess(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	root := rootCommand()
	root.SetArgs(append([]string{"serve", "--log-format", "text"}, free...))
	root.SetErr(in)
	done := make(chan error)
	go func() {
		err := root.ExecuteContext(ctx)
		in.Close()
		done <- err
	}()
	var all strings.Builder
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		all.WriteString(scanner.Text() + "\n")
		if address := regexp.MustCompile(`msg=serving address=(\S+)`).FindStringSubmatch(scanner.Text()); address != nil {
			stdout, err := execute(t, patientHealthcheck("--address", address[1])...)
			assert.NoError(t, err)
			assert.Equal(t, "SERVING\n", stdout)
			cancel()
		}
	}
	require.NoError(t, <-done)
	assert.Contains(t, all.String(), "msg=ended")
	cancel()
}

func TestOperatorconfigPrintsTheBundle(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := run(t, "operatorconfig")
	assert.Equal(t, operatorconfig.Bundle(), stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, 0, code)
	stdout, err := execute(t, "operatorconfig")
	require.NoError(t, err)
	assert.Equal(t, operatorconfig.Bundle(), stdout)
}

func TestVersion(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := run(t, "version")
	assert.Regexp(t, `^tollgate `+regexp.QuoteMeta(linkedVersion)+`\ngo       go1\.\d+\S*\n(opa      v1\.\S+\ngrpc     v1\.\S+|grpc     v1\.\S+\nopa      v1\.\S+)\n$`, stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, 0, code)
	stdout, err := execute(t, "version")
	require.NoError(t, err)
	assert.Regexp(t, `^tollgate \S+\n`, stdout, "without a linked version")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"--help"}, {"help"}} {
		stdout, _, code := run(t, args...)
		assert.Equal(t, 0, code)
		for _, command := range []string{"serve", "healthcheck", "operatorconfig", "version"} {
			assert.Contains(t, stdout, "\n  "+command+" ")
		}
	}
}

// docs/settings.md says which settings have a flag; each of them is one of serve's.
func TestDocumentedFlagsExist(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/settings.md")
	require.NoError(t, err)
	flags := serveCommand().Flags()
	found := map[string]bool{"help": true}
	for _, flag := range regexp.MustCompile("`(?:tollgate serve )?--([a-z-]+)").FindAllStringSubmatch(string(content), -1) {
		found[flag[1]] = true
		assert.NotNil(t, flags.Lookup(flag[1]), flag[1])
	}
	for _, name := range []string{"settings", "listen", "admin", "allow-plaintext", "log-level", "log-format"} {
		assert.True(t, found[name], "--%s is not in docs/settings.md", name)
	}
}
