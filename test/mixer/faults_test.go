package mixer_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// faultModes are the modes of every row, in the order of the table in docs/failures.md.
var faultModes = []string{"closed", "fail_close", "others_open", "open"}

// faultClasses are the classes that a handler can open.
var faultClasses = []string{
	"configuration", "policy_not_loaded", "evaluation_error", "undefined_result", "timeout", "dependency_down", "overload", "panic",
}

// faultRow is one row of testdata/faults.yaml.
type faultRow struct {
	Dependency, Fault, When, Class string
	// Answers are by mode.
	Answers map[string]struct{ Right, Wrong string }

	// id names the row's source in settings and its handlers.
	id string
}

func (r *faultRow) String() string { return r.Dependency + ", " + r.Fault + ", " + r.When }

// breaks reports whether the fault comes while Tollgate serves.
func (r *faultRow) breaks() bool { return r.When != "start" }

// is reports whether a right credential gets this answer by default.
func (r *faultRow) is(answer string) bool {
	return strings.HasPrefix(r.Answers["closed"].Right, answer)
}

// turn orders rows by when they can be asked about.
func (r *faultRow) turn() int {
	switch {
	case r.Fault == notYet:
		return 0
	case r.When == "stale":
		return 2
	}
	return 1
}

// notYet is the fault of a source whose first answer is still awaited, for a minute at the most.
const notYet = "has not answered yet"

func readFaults(t *testing.T) []*faultRow {
	t.Helper()
	var file struct {
		Answers map[string]any
		Rows    []*faultRow
	}
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, "testdata/faults.yaml")))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&file))
	seen := map[string]bool{}
	for i, row := range file.Rows {
		row.id = "fault-" + strconv.Itoa(i)
		require.False(t, seen[row.String()], "a second row for %v", row)
		seen[row.String()] = true
		require.Contains(t, []string{"start", "serving", "stale"}, row.When, row)
		require.Contains(t, dependencies, row.Dependency)
		require.ElementsMatch(t, faultModes, slices.Collect(maps.Keys(row.Answers)), row)
		if row.Class != "" {
			require.Contains(t, faultClasses, row.Class, row)
		}
	}
	return file.Rows
}

// faultyDependency is something that checks depend on.
type faultyDependency struct {
	// section is where the settings name it; empty where they do not.
	section string
	// byURL is whether it is asked for, and not a file.
	byURL bool
	// document is a good one. It knows the right credential, or the wrong one where it lists those who may not pass.
	document string
	// huge is more than it may have.
	huge int
	// check is the handler's.
	check func(id string) map[string]any
}

// The credentials of every check but the token's. The first is the right one.
const faultRight, faultWrong = "planted-right", "planted-wrong"

func listChecks(listed string) func(id string) map[string]any {
	return func(id string) map[string]any {
		return map[string]any{"lists": []any{map[string]any{"subject_property": "custom_token_header", "listed": listed, "source": id}}}
	}
}

func tokenCheck(id string) map[string]any {
	return map[string]any{"jwt": []any{map[string]any{
		"subject_property": "custom_token_header", "keys": id, "issuers": []string{"https://idp.example.com"}, "audiences": []string{"shop"},
		"www_authenticate": map[string]any{"off": true},
	}}}
}

const (
	manyBytes = 2 << 20
	// A list may have 32 MiB.
	tooManyEntries = 33 << 20
)

var dependencies = map[string]faultyDependency{
	"secret file": {section: "secrets", document: faultRight, huge: manyBytes, check: func(id string) map[string]any {
		return map[string]any{"headers": []any{map[string]any{"subject_property": "custom_token_header", "secrets": []string{id}}}}
	}},
	"API key file": {section: "secrets", document: faultRight, huge: manyBytes, check: func(id string) map[string]any {
		return map[string]any{"api_keys": []any{map[string]any{"subject_property": "custom_token_header", "secrets": []string{id}}}}
	}},
	"allow list file": {section: "lists", document: faultRight, huge: tooManyEntries, check: listChecks("ALLOWED")},
	"deny list file":  {section: "lists", document: faultWrong, huge: tooManyEntries, check: listChecks("DENIED")},
	"deny list URL":   {section: "lists", byURL: true, document: faultWrong, huge: tooManyEntries, check: listChecks("DENIED")},
	"key set file":    {section: "key_sets", huge: manyBytes, check: tokenCheck}, // the document is made with the keys
	"key set URL":     {section: "key_sets", byURL: true, huge: manyBytes, check: tokenCheck},
	"inline policy":   {},
}

// inlinePolicies are the faults of policies. Each denies where it is evaluated after all.
var inlinePolicies = map[string]map[string]any{
	"does not parse":   policy("allow = tru {"),
	"has no such rule": {"policy": []string{"package matrix\n\nother = false"}, "check_method": "data.matrix.allow"},
	"huge":             policy("allow = false # " + strings.Repeat("x", 1<<20)),
	"two values":       policy("allow = true { input.action.path }\n\nallow = false { input.action.path }"),
	"no decision":      policy("allow = \"true\" { input.action.path }"),
	"undefined":        policy("allow { input.subject.user == \"nobody\" }"),
	"without an end": with(
		policy("default allow = false\n\nallow { numbers.range(1, 40000)[x]; numbers.range(1, 40000)[y]; x * y == -1 }"), "evaluation_timeout", "50ms"),
}

// faultBench is everything that the rows depend on.
type faultBench struct {
	directory string
	// plain and secure serve documents by row, secure with a certificate that nobody was told to believe.
	plain, secure *httptest.Server
	// behaviour is how the server answers for a row: its fault once that is there.
	behaviour map[string]*atomic.Pointer[string]
	documents map[string]string
	ended     chan struct{}
}

func newFaultBench(t *testing.T, s *suite, rows []*faultRow) *faultBench {
	t.Helper()
	b := &faultBench{
		directory: t.TempDir(), behaviour: map[string]*atomic.Pointer[string]{}, documents: map[string]string{}, ended: make(chan struct{}),
	}
	stranger, ok := s.idp.jwk("first").(map[string]string)
	require.True(t, ok)
	stranger = maps.Clone(stranger)
	stranger["kid"] = "stranger" // so that the stranger's signatures are wrong, and not of a key that may come yet
	keys, err := json.Marshal(map[string]any{"keys": []any{s.idp.jwk("first"), stranger}})
	require.NoError(t, err)
	for _, row := range rows {
		b.behaviour[row.id] = &atomic.Pointer[string]{}
		b.documents[row.id] = dependencies[row.Dependency].document
		if dependencies[row.Dependency].section == "key_sets" {
			b.documents[row.id] = string(keys)
		}
	}
	b.plain = httptest.NewServer(b)
	b.secure = httptest.NewTLSServer(b)
	// Tollgate, which is started later, ends first.
	t.Cleanup(func() {
		close(b.ended)
		b.plain.Close()
		b.secure.Close()
	})
	for _, row := range rows {
		if dependencies[row.Dependency].section == "" {
			continue
		}
		if !dependencies[row.Dependency].byURL {
			require.NoError(t, os.Mkdir(filepath.Dir(b.path(row)), 0o700)) // one for each, so that none sees another's changes
			require.NoError(t, os.WriteFile(b.path(row), []byte(b.documents[row.id]), 0o600))
		}
		if !row.breaks() {
			b.breakIt(t, row)
		}
	}
	return b
}

func (b *faultBench) path(row *faultRow) string {
	return filepath.Join(b.directory, row.id, "document")
}

// ServeHTTP answers as the row's fault demands.
func (b *faultBench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/")
	fault := ""
	if now := b.behaviour[id]; now != nil && now.Load() != nil {
		fault = *now.Load()
	}
	switch fault {
	case "away":
		panic(http.ErrAbortHandler)
	case "answers 500":
		w.WriteHeader(http.StatusInternalServerError)
	case "redirects":
		http.Redirect(w, r, "/good/"+id, http.StatusFound)
	case "never answers", notYet:
		select {
		case <-r.Context().Done():
		case <-b.ended:
		}
	case "emptied":
	case "garbage":
		_, _ = io.WriteString(w, garbage)
	case "without keys":
		_, _ = io.WriteString(w, `{"keys": []}`)
	case "huge":
		_, _ = w.Write(bytes.Repeat([]byte("planted\n"), tooManyEntries/len("planted\n")))
	case "ends too early":
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "planted-half\n")
	default:
		_, _ = io.WriteString(w, b.documents[strings.TrimPrefix(id, "good/")])
	}
}

// garbage is nothing that any document may be.
const garbage = "\x00\xff{{{ planted garbage"

// breakIt makes the row's fault happen.
func (b *faultBench) breakIt(t *testing.T, row *faultRow) {
	t.Helper()
	if dependencies[row.Dependency].byURL {
		b.behaviour[row.id].Store(&row.Fault)
		return
	}
	path, document := b.path(row), b.documents[row.id]
	switch row.Fault {
	case "not in the settings":
	case "away":
		require.NoError(t, os.Remove(path))
	case "emptied":
		replace(t, path, "")
	case "only white space":
		replace(t, path, " \n\t\n")
	case "huge":
		replace(t, path, strings.Repeat("planted\n", dependencies[row.Dependency].huge/len("planted\n")+1))
	case "garbage":
		replace(t, path, garbage)
	case "without keys":
		replace(t, path, `{"keys": []}`)
	case "a directory in its place":
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700))
	case "permission denied":
		require.NoError(t, os.WriteFile(path+".new", []byte(document), 0o600))
		require.NoError(t, os.Chmod(path+".new", 0))
		require.NoError(t, os.Rename(path+".new", path))
	case "one line more":
		replace(t, path, document+"\nplanted-more\n")
	case "behind a symbolic link":
		require.NoError(t, os.WriteFile(path+".target", []byte("planted-more\n"+document), 0o600))
		require.NoError(t, os.Symlink(path+".target", path+".new"))
		require.NoError(t, os.Rename(path+".new", path))
	default:
		require.Fail(t, "a fault that files do not have", "%v", row)
	}
}

// settings name every row's source.
func (b *faultBench) settings(rows []*faultRow) string {
	sections := map[string]map[string]any{"lists": {}, "key_sets": {}}
	files := map[string]any{}
	for _, row := range rows {
		d := dependencies[row.Dependency]
		switch {
		case row.Fault == "not in the settings" || d.section == "":
			continue
		case d.section == "secrets":
			files[row.id] = b.path(row)
			continue
		}
		source := map[string]any{"refresh": "1s", "max_stale": "1h", "timeout": "500ms"}
		if row.When == "stale" {
			source["max_stale"] = "2s"
		}
		if d.section == "key_sets" {
			source["refresh"], source["min_refresh"] = "10s", "1s"
			if row.When == "stale" {
				source["max_stale"] = "20s"
			}
		}
		if row.Fault == notYet {
			source["timeout"] = "1m"
		}
		switch {
		case !d.byURL:
			source["file"] = b.path(row)
		case row.Fault == "certificate of somebody else":
			source["url"] = b.secure.URL + "/" + row.id
		default:
			source["url"] = b.plain.URL + "/" + row.id
		}
		sections[d.section][row.id] = source
	}
	text, err := yaml.Marshal(map[string]any{
		"evaluation_timeout": "5s",
		"limits":             map[string]any{"handlers": map[string]any{"entries": 4096, "bytes": 64 << 20, "waiting": 4096}},
		"secrets":            map[string]any{"files": files},
		"lists":              sections["lists"],
		"key_sets":           sections["key_sets"],
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// handlers are those of a row, one for each mode.
func (r *faultRow) handlers() []resource {
	var all []resource
	for _, mode := range faultModes {
		name := r.handler(mode)
		params := map[string]any{"name": name}
		if r.Dependency == "inline policy" {
			maps.Copy(params, inlinePolicies[r.Fault])
		} else {
			maps.Copy(params, dependencies[r.Dependency].check(r.id))
		}
		failure := map[string]any{}
		switch mode {
		case "fail_close":
			params["fail_close"] = true
		case "others_open", "open":
			for _, class := range faultClasses {
				if r.Class == "" || (class == r.Class) == (mode == "open") {
					failure[class] = "OPEN"
				}
			}
			params["failure"] = failure
		}
		all = append(all, newHandler(name, "tollgate-faults:44225", "10s", params), newRule(name, "/"+name, name, "request"))
	}
	return all
}

func (r *faultRow) handler(mode string) string {
	return r.id + "-" + strings.ReplaceAll(mode, "_", "-")
}

// withoutPrivileges makes a program that runs Tollgate so that permissions hold for root as well.
func withoutPrivileges(t *testing.T) (path string, ok bool) {
	t.Helper()
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	tollgate, err := binaries.Tollgate(t.Context())
	require.NoError(t, err)
	if os.Geteuid() != 0 {
		return tollgate, true
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		return tollgate, false
	}
	const capabilities = "-dac_override,-dac_read_search"
	path = filepath.Join(t.TempDir(), "tollgate")
	script := fmt.Sprintf("#!/bin/sh\nexec %q --bounding-set=%s --inh-caps=%s %q \"$@\"\n", setpriv, capabilities, capabilities, tollgate)
	require.NoError(t, os.WriteFile(path, []byte(script), 0o700))
	return path, true
}

// testFaults has everything that checks depend on go wrong in every way of the table, and counts what passed that nobody let pass.
func testFaults(t *testing.T, s *suite) {
	rows := readFaults(t)
	binary, permissions := withoutPrivileges(t)
	if !permissions {
		t.Log("without setpriv root may read everything, so the rows with permission denied are left out")
		rows = slices.DeleteFunc(rows, func(r *faultRow) bool { return r.Fault == "permission denied" })
	}
	b := newFaultBench(t, s, rows)
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Path: binary, Settings: b.settings(rows), Args: []string{"--log-level", "debug"}})
	var handlers []resource
	for _, row := range rows {
		handlers = append(handlers, row.handlers()...)
	}
	s.applyLarge(t, "faults", strings.ReplaceAll(printResources(t, handlers...), "tollgate-faults:44225", tollgate.Addr))

	right, wrong := s.idp.token(t, "ES256", "first", nil), s.idp.token(t, "ES256", "stranger", nil)
	ask := func(row *faultRow, mode string, isRight bool) mesh.Attributes {
		credential := faultWrong
		if isRight {
			credential = faultRight
		}
		if dependencies[row.Dependency].section == "key_sets" {
			credential = wrong
			if isRight {
				credential = right
			}
		}
		return request("/"+row.handler(mode), token(credential)...)
	}
	// Everything works before it breaks.
	for _, row := range rows {
		if row.breaks() {
			s.await(t, row.String()+": before", ask(row, "closed", true), func(a answer) bool { return a == allowed })
			s.expectAttributes(t, denied, ask(row, "closed", false))
		}
	}
	for _, row := range rows {
		if row.breaks() {
			b.breakIt(t, row)
		}
	}

	asked, accidents := 0, 0
	// Those that have to get old come last, those that do not wait for ever first.
	slices.SortStableFunc(rows, func(x, y *faultRow) int { return cmp.Compare(x.turn(), y.turn()) })
	for _, row := range rows {
		t.Run(row.String(), func(t *testing.T) {
			b.noticed(t, s, tollgate, row, ask(row, "closed", true))
			for _, mode := range faultModes {
				for _, isRight := range []bool{true, false} {
					want := row.Answers[mode].Wrong
					if isRight {
						want = row.Answers[mode].Right
					}
					v := s.check(t, ask(row, mode, isRight))
					asked++
					if v.OK() && (!strings.HasPrefix(want, "OK") || v.ValidFor > 0 && strings.Contains(want, "-1s")) {
						accidents++
					}
					assert.Equal(t, want, tableAnswer(v), "%s, right credential: %t: %s", mode, isRight, v.Message)
					if strings.HasPrefix(want, "UNAVAILABLE") {
						assert.Contains(t, v.Message, "("+strings.ReplaceAll(row.Class, "_", " ")+")")
					}
				}
			}
		})
	}
	t.Logf("dependency × fault × mode through Mixer %s: %d requests, %d accidental allows", s.mixer.Version, asked, accidents)
	assert.Zero(t, accidents)
	assert.Equal(t, len(rows)*len(faultModes)*2, asked)
	assert.Empty(t, tollgate.Log.Lines(0, "planted"))
}

// tableAnswer writes an answer as the table has it.
func tableAnswer(v *mesh.Verdict) string {
	names := map[codes.Code]string{codes.OK: "OK", codes.PermissionDenied: "PERMISSION_DENIED", codes.Unavailable: "UNAVAILABLE"}
	name, ok := names[v.Code]
	if !ok {
		name = v.Code.String()
	}
	return fmt.Sprintf("%s %v %d", name, v.ValidFor, v.ValidUses)
}

// expectAttributes is expect for attributes.
func (s *suite) expectAttributes(t *testing.T, want answer, attributes mesh.Attributes) {
	t.Helper()
	v := s.check(t, attributes)
	assert.Equal(t, want.String(), answerOf(v).String(), "%v: %s", attributes["request.path"], v.Message)
}

// noticed waits until Tollgate has seen the row's fault.
func (b *faultBench) noticed(t *testing.T, s *suite, tollgate *mesh.Tollgate, row *faultRow, right mesh.Attributes) {
	t.Helper()
	d := dependencies[row.Dependency]
	switch {
	case row.Fault == "not in the settings", row.Fault == notYet, d.section == "":
		return
	case d.section == "secrets":
		waitForLog(t, tollgate, `"secret":"`+row.id+`"`)
	case !row.is("PERMISSION_DENIED"): // which is what a good document says
		failed := map[string]string{"lists": `tollgate_list_reads_total{list=%q,result="failed"} `, "key_sets": `tollgate_key_set_refreshes_total{result="failed",set=%q} `}
		line := fmt.Sprintf(failed[d.section], row.id)
		require.Eventually(t, func() bool {
			text := metrics(t, tollgate)
			return strings.Contains(text, line) && !strings.Contains(text, line+"0\n")
		}, 30*time.Second, 50*time.Millisecond, "%v was not noticed", row)
	}
	waitFor(t, row.String(), func(ctx context.Context) error {
		v, err := s.mixer.Check(ctx, right)
		if err == nil && tableAnswer(v) != row.Answers["closed"].Right {
			err = errors.New(v.String())
		}
		return err
	})
}

// TestFaultsAreDocumented holds docs/failures.md to the table. With UPDATE_DOCS=1 it writes it instead.
func TestFaultsAreDocumented(t *testing.T) {
	const begin, end = "<!-- faults: from test/mixer/testdata/faults.yaml -->\n", "<!-- end of faults -->\n"
	var table strings.Builder
	_, _ = fmt.Fprintln(&table, "| dependency | fault | when | class | by default | `fail_close: true` | other classes open | class open |")
	_, _ = fmt.Fprintln(&table, "|---|---|---|---|---|---|---|---|")
	words := strings.NewReplacer("OK -1s 1", "passes, once", "OK 5s 10000", "decides", " 0s 0", "")
	for _, row := range readFaults(t) {
		_, _ = fmt.Fprintf(&table, "| %s | %s | %s | %s |", row.Dependency, row.Fault, row.When, or(row.Class, "none"))
		for _, mode := range faultModes {
			_, _ = fmt.Fprintf(&table, " %s |", words.Replace(row.Answers[mode].Right))
		}
		_, _ = fmt.Fprintln(&table)
	}
	path := filepath.Join(root, "docs", "failures.md")
	page := readFile(t, path)
	before, rest, ok := strings.Cut(page, begin)
	require.True(t, ok, "docs/failures.md has no place for the table")
	shown, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if os.Getenv("UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+table.String()+end+after), 0o600))
		return
	}
	assert.Equal(t, table.String(), shown)
}
