package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
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
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report/archive"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// goldenEnv, if set, has the golden files written instead of compared.
const goldenEnv = "TOLLGATE_GOLDEN"

// golden compares an output with a file in testdata, but for names and ids that are never the same.
func golden(t *testing.T, name, dir, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, dir, "/var/lib/tollgate/reports")
	queues := []string{"7d6e2cd6d30d4b5f8c1f0e9a3b5c7d91", "0b58c1e94a7f4d36a2e5917cd8f3b604"}
	got = regexp.MustCompile(`("id": "|id         )[0-9a-f]{32}`).ReplaceAllStringFunc(got, func(found string) string {
		id := queues[0]
		queues = queues[1:]
		return strings.TrimRight(found, "0123456789abcdef") + id
	})
	path := filepath.Join("testdata", "spool", name)
	if os.Getenv(goldenEnv) != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

var (
	spoolOrigin = record.SpoolID{0x9f, 0x86, 0xd0, 0x81, 15: 0x15}
	spoolNoon   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func spoolDecision(user string) string {
	d := record.Decision{
		ID: "kf3c7hq2mzx5a4bn", Instance: "authinstance.instance.istio-system", Outcome: "deny", Code: "PERMISSION_DENIED", Check: "header/key",
		Reason: "header_mismatch", Revision: "5d41402abc4b", Latency: 8125, Input: `{"subject":{"user":"` + user + `"}}`,
	}
	return string(d.Append(nil))
}

// spoolFrame is a frame of one call as the pipeline makes it, by hand.
func spoolFrame(sequence uint64, handler string, instances ...string) spool.Frame {
	p := append([]byte{1, byte(record.KindDecision)}, spoolOrigin[:]...)
	for _, text := range append([]string{handler, "spiffe://mixer", ""}, instances...) {
		p = protowire.AppendString(p, text)
	}
	return spool.Frame{Sequence: sequence, Arrival: spoolNoon.Add(time.Duration(sequence) * time.Second), Records: len(instances), Payload: p}
}

func fillSpool(t *testing.T, dir string, done int, frames ...spool.Frame) {
	t.Helper()
	queue, err := spool.Open(dir, spool.Options{})
	require.NoError(t, err)
	for _, f := range frames {
		r, err := queue.Reserve(t.Context(), len(f.Payload), f.Records)
		require.NoError(t, err)
		require.NoError(t, r.Append(f))
	}
	for range done {
		f, err := queue.Next(t.Context())
		require.NoError(t, err)
		queue.Done(f.Sequence, spool.Outcome{})
	}
	require.NoError(t, queue.Close())
}

func deadLetterLine(t *testing.T, index int, cause string) string {
	t.Helper()
	r := record.Record{Spool: spoolOrigin, Sequence: 1, Index: index, Kind: record.KindDecision, Handler: "bookinfo", Arrived: spoolNoon, Raw: spoolDecision("carol")}
	rendered, err := record.AppendJSON(nil, &r)
	require.NoError(t, err)
	return fmt.Sprintf(`{"sink":"kafka","cause":%q,"at":"2026-11-21T12:0%d:00Z","record":%s,"raw":"%s"}`+"\n",
		cause, index, rendered, base64.StdEncoding.EncodeToString([]byte(r.Raw)))
}

// reportsDirectory is one as a running adapter leaves it: two queues, and dead letters of one.
func reportsDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	fillSpool(t, filepath.Join(dir, "kafka"), 1, spoolFrame(1, "bookinfo", spoolDecision("alice")), spoolFrame(2, "bookinfo", spoolDecision("alice"), spoolDecision("bob")))
	fillSpool(t, filepath.Join(dir, "kafka"), 0, spoolFrame(3, "payments", spoolDecision("dave")))
	fillSpool(t, filepath.Join(dir, "otlp"), 0)
	letters := filepath.Join(dir, "dead-letters")
	require.NoError(t, os.Mkdir(letters, 0o700))
	tooLarge := fmt.Sprintf("record %s-1-0 is too large", spoolOrigin)
	for name, content := range map[string]string{
		"kafka-2026-11-21T12-02-00.000-size.jsonl": deadLetterLine(t, 0, tooLarge) + deadLetterLine(t, 1, "the broker refuses the topic"),
		"kafka.jsonl": deadLetterLine(t, 3, tooLarge),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(letters, name), []byte(content), 0o600))
	}
	return dir
}

// damage spoils a reports directory: a frame in the middle of a queue, and a dead letter.
func damage(t *testing.T, dir string) {
	t.Helper()
	segment := filepath.Join(dir, "kafka", "0000000000000001.seg")
	content, err := os.ReadFile(segment)
	require.NoError(t, err)
	content[len(content)-1] ^= 1
	require.NoError(t, os.WriteFile(segment, content, 0o600))
	letters := filepath.Join(dir, "dead-letters", "kafka.jsonl")
	content, err = os.ReadFile(letters)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(letters, append([]byte("garbage\n"), append(content, content[:20]...)...), 0o600))
	fillSpool(t, filepath.Join(dir, "otlp"), 0, spool.Frame{Sequence: 1, Arrival: spoolNoon, Records: 3, Payload: []byte("of another version")})
}

func TestSpool(t *testing.T) {
	t.Parallel()
	sound, damaged := reportsDirectory(t), reportsDirectory(t)
	damage(t, damaged)
	for name, c := range map[string]struct {
		dir  string
		args []string
		fail string // a pattern; empty for no error
	}{
		"inspect.txt":         {sound, []string{"inspect", ""}, ""},
		"inspect.json":        {sound, []string{"inspect", "", "--json"}, ""},
		"inspect-damaged.txt": {damaged, []string{"inspect", ""}, ""},
		"verify.txt":          {sound, []string{"verify", ""}, ""},
		"verify-damaged.txt":  {damaged, []string{"verify", ""}, `^spool verify: 3 of 4 are damaged$`},
		"export.jsonl":        {sound, []string{"export", "kafka"}, ""},
		"export-all.jsonl":    {sound, []string{"export", "", "--all"}, ""},
		"export-damaged.jsonl": {
			damaged, []string{"export", ""}, `^spool export: 2 records, frames or lines cannot be decoded and are left out\n1 regions are damaged and what was in them is lost$`,
		},
		"dry-run-queue.txt":   {sound, []string{"replay", "kafka", "--dry-run"}, ""},
		"dry-run-letters.txt": {sound, []string{"replay", "dead-letters", "--dry-run"}, ""},
		"dry-run-current.txt": {sound, []string{"replay", "dead-letters", "--dry-run", "--include-current"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"spool"}, c.args...)
			args[2] = filepath.Join(c.dir, args[2])
			if args[1] == "replay" {
				args = append(args, "--settings", settingsFile(t, ""), "--sink", "kafka")
			}
			stdout, err := execute(t, args...)
			if c.fail == "" {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				assert.Regexp(t, c.fail, err.Error())
			}
			golden(t, name, c.dir, stdout)
		})
	}
}

// What docs/spool.md shows is what is printed.
func TestSpoolIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/spool.md")
	require.NoError(t, err)
	for _, name := range []string{"inspect.txt", "verify-damaged.txt", "export.jsonl", "dry-run-letters.txt"} {
		shown, err := os.ReadFile(filepath.Join("testdata", "spool", name))
		require.NoError(t, err)
		assert.Contains(t, string(page), string(shown), name)
	}
	for _, command := range spoolCommand().Commands() {
		assert.Contains(t, string(page), "\n### "+command.Name()+"\n")
		for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(command.Flags().FlagUsages(), -1) {
			assert.Contains(t, string(page), "`"+flag+"`", command.Name())
		}
	}
}

func TestSpoolErrors(t *testing.T) {
	t.Parallel()
	dir := reportsDirectory(t)
	empty, file := t.TempDir(), settingsFile(t, "")
	replay := func(path string, more ...string) []string {
		return append([]string{"replay", filepath.Join(dir, path), "--settings", file, "--sink", "kafka"}, more...)
	}
	replayed := filepath.Join(dir, "dead-letters", "kafka-2026-11-20T12-00-00.000-size.jsonl.replayed")
	require.NoError(t, os.WriteFile(replayed, []byte(deadLetterLine(t, 1, "refused")), 0o600))
	none := ` is neither a directory of reports, a sink's queue, a directory of dead letters nor a file of them; name what reports.directory is`
	for name, c := range map[string]struct {
		args []string
		want string // a pattern
	}{
		"no such command":        {[]string{"look"}, `^"look" is no command of tollgate spool; use one of export, inspect, replay, verify$`},
		"no directory":           {[]string{"inspect"}, `^a path is missing; write tollgate spool inspect DIR \[flags\]$`},
		"two directories":        {[]string{"verify", empty, "more"}, `^"more" is one path too many; write tollgate spool verify DIR \[flags\]$`},
		"missing, inspect":       {[]string{"inspect", empty + "/none"}, `^spool inspect: stat .*none: no such file or directory$`},
		"empty, inspect":         {[]string{"inspect", empty}, `^spool inspect: ` + regexp.QuoteMeta(empty) + `:` + none},
		"empty, verify":          {[]string{"verify", empty}, `^spool verify: ` + regexp.QuoteMeta(empty) + `:` + none},
		"other file, export":     {[]string{"export", file}, `^spool export: ` + regexp.QuoteMeta(file) + `:` + none},
		"no settings":            {[]string{"replay", dir}, `^required flag\(s\) "settings", "sink" not set$`},
		"settings are missing":   {[]string{"replay", dir, "--settings", empty + "/none", "--sink", "kafka"}, `^spool replay: settings: open .*none: no such`},
		"settings are wrong":     {[]string{"replay", dir, "--settings", settingsFile(t, "listen: x"), "--sink", "kafka"}, `^spool replay: settings:\nlisten is "x"`},
		"a whole directory":      {replay(""), `^spool replay: ` + regexp.QuoteMeta(dir) + ` is a directory of reports; name one queue in it, or its dead-letters$`},
		"no batch":               {replay("kafka", "--batch", "-1"), `^spool replay: --batch is -1; use at least 1, or 0 for as many as the settings say$`},
		"no name":                {[]string{"replay", dir + "/kafka", "--settings", file, "--sink", "a/b"}, `^spool replay: sink "a/b.replay": its name must do`},
		"a replayed file":        {replay("dead-letters/" + filepath.Base(replayed)), `^spool replay: .*\.replayed has been replayed; to do so again, copy it`},
		"no such sink":           {replay("kafka"), `^spool replay: there is no sink "kafka"; use one of `},
		"a sink of this process": {[]string{"replay", dir + "/kafka", "--settings", settingsFile(t, "reports: {sinks: {m: {prometheus: {}}}}"), "--sink", "m"}, `^spool replay: sink "m" counts in the process that serves`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, err := execute(t, append([]string{"spool"}, c.args...)...)
			require.Error(t, err)
			assert.Regexp(t, c.want, err.Error())
			assert.Empty(t, stdout)
		})
	}
}

// A queue that is in use can be looked at, and says so.
func TestSpoolInUse(t *testing.T) {
	t.Parallel()
	dir := reportsDirectory(t)
	queue, err := spool.Open(filepath.Join(dir, "kafka"), spool.Options{})
	require.NoError(t, err)
	stdout, stderr, code := run(t, "spool", "inspect", filepath.Join(dir, "kafka"))
	assert.Contains(t, stdout, "\n  in use     true\n")
	assert.Equal(t, []any{"", 0}, []any{stderr, code})
	stdout, stderr, code = run(t, "spool", "replay", filepath.Join(dir, "kafka"), "--dry-run", "--settings", settingsFile(t, ""), "--sink", "kafka")
	assert.Contains(t, stdout, ": would deliver 3 records\n  not now: a process has it open\n")
	assert.Equal(t, []any{"", 0}, []any{stderr, code})
	require.NoError(t, queue.Close())
}

func TestSpoolAsProcess(t *testing.T) {
	t.Parallel()
	dir := reportsDirectory(t)
	stdout, stderr, code := run(t, "spool")
	for _, command := range []string{"inspect", "verify", "export", "replay"} {
		assert.Contains(t, stdout, "\n  "+command+" ")
	}
	assert.Equal(t, []any{"", 0}, []any{stderr, code})
	damage(t, dir)
	_, stderr, code = run(t, "spool", "verify", dir)
	assert.Equal(t, []any{"tollgate: spool verify: 3 of 4 are damaged\n", 1}, []any{stderr, code})
	_, stderr, code = run(t, "spool", "export", dir)
	assert.Equal(t, []any{"tollgate: spool export: 2 records, frames or lines cannot be decoded and are left out\n1 regions are damaged and what was in them is lost\n", 1}, []any{stderr, code})
	_, stderr, code = run(t, "spool", "replay", filepath.Join(dir, "dead-letters"), "--dry-run", "--settings", settingsFile(t, ""), "--sink", "kafka")
	assert.Equal(t, []any{"left out 1 files that an adapter may be appending to; --include-current rotates and replays them\n", 0}, []any{stderr, code})
}

// Who reads an export may go away; the export then ends, and not with 0.
func TestSpoolExportIntoABrokenPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var frames []spool.Frame
	for i := range uint64(2000) {
		frames = append(frames, spoolFrame(i+1, "bookinfo", spoolDecision(strings.Repeat("x", 1000))))
	}
	fillSpool(t, dir, 0, frames...)
	command := exec.CommandContext(t.Context(), binary, "spool", "export", dir)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	require.NoError(t, command.Start())
	require.NoError(t, out.Close())
	require.Error(t, command.Wait(), "%s", stderr.String())
}

// From a queue and dead letters to a file, by the settings that the adapter has too.
func TestSpoolReplay(t *testing.T) {
	t.Parallel()
	dir, out := reportsDirectory(t), filepath.Join(t.TempDir(), "records.jsonl")
	file := settingsFile(t, fmt.Sprintf("reports: {directory: %q, sinks: {kafka: {file: {path: %q}}}}", dir, out))
	replay := func(path string, more ...string) (stderr string, code int) {
		stdout, stderr, code := run(t, append([]string{"spool", "replay", filepath.Join(dir, path), "--settings", file, "--sink", "kafka"}, more...)...)
		assert.Empty(t, stdout)
		return stderr, code
	}
	ids := func() (ids []string) {
		content, err := os.ReadFile(out)
		require.NoError(t, err)
		for _, id := range regexp.MustCompile(`"id":"[0-9a-f]+-(\d+-\d+)"`).FindAllStringSubmatch(string(content), -1) {
			ids = append(ids, id[1])
		}
		return ids
	}
	// While an adapter has the queue, neither it nor the sink's file may be touched; the file stays as it is.
	queue, err := spool.Open(filepath.Join(dir, "kafka"), spool.Options{})
	require.NoError(t, err)
	for _, path := range []string{"kafka", "dead-letters"} {
		stderr, code := replay(path)
		assert.Contains(t, stderr, `sink "kafka" writes a file, which only one process may, and an adapter does; stop it first`)
		assert.Equal(t, 1, code)
	}
	other := settingsFile(t, fmt.Sprintf("reports: {sinks: {other: {file: {path: %q}}}}", out))
	_, stderr, code := run(t, "spool", "replay", filepath.Join(dir, "kafka"), "--settings", other, "--sink", "other")
	assert.Regexp(t, `^tollgate: spool replay: an adapter, or another replay, has .*/kafka open; stop it first: spool .*/kafka: locked: another process`, stderr)
	assert.Equal(t, 1, code)
	require.NoError(t, queue.Close())
	assert.NoFileExists(t, out)

	for range 2 {
		stderr, code = replay("dead-letters")
		assert.Equal(t, 0, code, stderr)
	}
	assert.Equal(t, "left out 1 files that an adapter may be appending to; --include-current rotates and replays them\n"+
		"delivered 0, not for this sink 0, refused 0, unreadable 0, left 0\n", stderr)
	assert.Equal(t, []string{"1-0", "1-1"}, ids())
	stderr, code = replay("dead-letters", "--include-current", "--batch", "1")
	assert.Equal(t, []any{"delivered 1, not for this sink 0, refused 0, unreadable 0, left 0\n", 0}, []any{stderr, code})
	stderr, code = replay("kafka", "--batch", "2")
	assert.Equal(t, []any{"delivered 3, not for this sink 0, refused 0, unreadable 0, left 0\n", 0}, []any{stderr, code})
	assert.Equal(t, []string{"1-0", "1-1", "1-3", "2-0", "2-1", "3-0"}, ids())
	stdout, stderr, code := run(t, "spool", "verify", dir)
	assert.Equal(t, []any{"", 0}, []any{stderr, code}, stdout)
}

// A signal ends a replay whose sink cannot be written, and what was not delivered is still there.
func TestSpoolReplayEndsWithASignal(t *testing.T) {
	t.Parallel()
	for path, left := range map[string]string{"kafka": "3", "dead-letters": "2"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			dir := reportsDirectory(t)
			file := settingsFile(t, fmt.Sprintf("reports: {sinks: {kafka: {file: {path: %q}}}}", filepath.Join(dir, "kafka", "state", "out.jsonl")))
			command := exec.CommandContext(t.Context(), binary, "spool", "replay", filepath.Join(dir, path), "--settings", file, "--sink", "kafka")
			stderr, err := command.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, command.Start())
			var said strings.Builder
			for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
				said.WriteString(scanner.Text() + "\n")
				if strings.Contains(scanner.Text(), "not a directory") {
					require.NoError(t, command.Process.Signal(syscall.SIGTERM))
				}
			}
			require.Error(t, command.Wait())
			assert.Equal(t, 1, command.ProcessState.ExitCode())
			assert.Contains(t, said.String(), "\ndelivered 0, not for this sink 0, refused 0, unreadable 0, left "+left+"\n"+
				"tollgate: spool replay: "+left+" records are left; replay again to go on\n")
			stdout, err := execute(t, "spool", "export", filepath.Join(dir, path))
			require.NoError(t, err)
			assert.Equal(t, 3, strings.Count(stdout, "\n"))
		})
	}
}

func TestSpoolReplayConcludes(t *testing.T) {
	t.Parallel()
	o := replayOptions{path: "DIR", deadLetters: "DIR/dead-letters"}
	for name, c := range map[string]struct {
		outcome archive.Outcome
		err     error
		stdout  string
		want    string // empty for no error
	}{
		"all": {archive.Outcome{Delivered: 7, Filtered: 1}, nil, "delivered 7, not for this sink 1, refused 0, unreadable 0, left 0\n", ""},
		"not all": {
			archive.Outcome{Delivered: 7, Refused: 2, Unreadable: 3, Left: 4},
			nil,
			"delivered 7, not for this sink 0, refused 2, unreadable 3, left 4\n",
			"2 records were refused for good; they are dead letters in DIR/dead-letters\n" +
				"3 records or lines cannot be read; docs/spool.md says where lines are kept\n4 records are left; replay again to go on",
		},
		"failed": {archive.Outcome{}, errors.New("the disk is gone"), "delivered 0, not for this sink 0, refused 0, unreadable 0, left 0\n", "the disk is gone"},
		"locked": {
			archive.Outcome{},
			&spool.Error{Class: spool.Locked, Path: "DIR"}, "",
			"an adapter, or another replay, has DIR open; stop it first: spool DIR: locked; stop the other process or give each a directory of its own",
		},
	} {
		var out bytes.Buffer
		err := o.conclude(&out, c.outcome, c.err)
		assert.Equal(t, c.stdout, out.String(), name)
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.EqualError(t, err, c.want, name)
		}
	}
}
