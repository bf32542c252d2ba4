package mixer_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
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
	"sync"
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

// isAwaited reports whether the fault is that the first answer has not come.
func (r *faultRow) isAwaited() bool { return r.Fault == notYet }

// breaks reports whether the fault comes while Tollgate serves.
func (r *faultRow) breaks() bool { return r.When != "start" }

// isQuota reports whether it is about a quota, and not about a check.
func (r *faultRow) isQuota() bool { return dependencies[r.Dependency].section == "redis" }

// longStale reports whether it takes a minute until the row's last good document is too old.
func (r *faultRow) longStale() bool {
	section := dependencies[r.Dependency].section
	return r.When == "stale" && (section == "htpasswd" || section == "policies")
}

// leastStale is the max_stale of what may have none below a minute, in rows that wait for it.
func (r *faultRow) leastStale(otherwise string) string {
	if r.When == "stale" {
		return "1m"
	}
	return otherwise
}

// is reports whether a right credential gets this answer by default.
func (r *faultRow) is(answer string) bool {
	return strings.HasPrefix(r.Answers["closed"].Right, answer)
}

// turn orders rows by when they can be asked about.
func (r *faultRow) turn() int {
	switch {
	case r.When != "stale":
		return 0
	case r.longStale():
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
	// section is where the settings name it; empty where they do not. What is in redis is asked for quotas, and everything else for checks.
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

	"quota Redis":      {section: "redis"},
	"policy directory": {section: "policies", check: sourcedCheck},
	"policy bundle":    {section: "policies", byURL: true, check: sourcedCheck},   // the document is made with the key
	"password file":    {section: "htpasswd", huge: manyBytes, check: basicCheck}, // the document is made with a hash
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
	// bundles are by fault, and bundleKey is the file of the key that verifies those that are good.
	bundles   map[string]string
	bundleKey string
	// redis and addresses are those of quotas, by row.
	redis     map[string]*mesh.Redis
	addresses map[string]string
	ended     chan struct{}
}

func newFaultBench(t *testing.T, idp *identityProvider, rows []*faultRow) *faultBench {
	t.Helper()
	b := &faultBench{
		directory: t.TempDir(), behaviour: map[string]*atomic.Pointer[string]{}, documents: map[string]string{},
		redis: map[string]*mesh.Redis{}, addresses: map[string]string{}, ended: make(chan struct{}),
	}
	var key bundleKey
	key, b.bundles = faultBundles(t)
	b.bundleKey = filepath.Join(b.directory, "bundle-key.pem")
	require.NoError(t, os.WriteFile(b.bundleKey, []byte(key.public), 0o600))
	users := faultUsers(t, faultUser)
	stranger, ok := idp.jwk("first").(map[string]string)
	require.True(t, ok)
	stranger = maps.Clone(stranger)
	stranger["kid"] = "stranger" // so that the stranger's signatures are wrong, and not of a key that may come yet
	keys, err := json.Marshal(map[string]any{"keys": []any{idp.jwk("first"), stranger}})
	require.NoError(t, err)
	for _, row := range rows {
		b.behaviour[row.id] = &atomic.Pointer[string]{}
		b.documents[row.id] = dependencies[row.Dependency].document
		switch dependencies[row.Dependency].section {
		case "key_sets":
			b.documents[row.id] = string(keys)
		case "htpasswd":
			b.documents[row.id] = users
		case "policies":
			b.documents[row.id] = b.bundles[""]
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
		switch {
		case dependencies[row.Dependency].section == "":
			continue
		case dependencies[row.Dependency].section == "redis":
			b.startRedis(t, row)
		case row.Dependency == "policy directory":
			require.NoError(t, os.MkdirAll(b.path(row), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(b.path(row), faultPolicyFile), []byte(faultPolicy), 0o600))
		case !dependencies[row.Dependency].byURL:
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
	if bundle, ok := b.bundles[fault]; ok && b.documents[id] == b.bundles[""] {
		tag := strconv.Quote(fault)
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, bundle)
		return
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
	switch d := dependencies[row.Dependency]; {
	case d.byURL:
		b.behaviour[row.id].Store(&row.Fault)
		return
	case d.section == "redis":
		b.breakRedis(t, row)
		return
	case d.section == "policies":
		b.breakDirectory(t, row)
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
		makeUnreadable(t, path, document)
	case "another hash scheme":
		replace(t, path, otherScheme)
	case "the user twice":
		replace(t, path, document+document)
	case "the user removed":
		replace(t, path, faultUsers(t, "planted-other"))
	case "one user more":
		replace(t, path, document+faultUsers(t, "planted-other"))
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
	sections := map[string]map[string]any{"lists": {}, "key_sets": {}, "htpasswd": {}, "policies": {}, "redis": {}}
	files := map[string]any{}
	for _, row := range rows {
		d := dependencies[row.Dependency]
		switch {
		case row.Fault == "not in the settings" || d.section == "":
			continue
		case d.section == "secrets":
			files[row.id] = b.path(row)
			continue
		case d.section == "redis":
			sections[d.section][row.id] = b.redisSettings(row)
			continue
		case d.section == "htpasswd":
			sections[d.section][row.id] = map[string]any{"file": b.path(row), "max_stale": row.leastStale("1h")}
			continue
		case d.section == "policies":
			sections[d.section][row.id] = b.policySettings(row)
			continue
		}
		source := map[string]any{"refresh": "1s", "max_stale": "1h", "timeout": "500ms"}
		// Nothing gets old while it works, on a busy machine either; others take longer to get old.
		if row.When == "stale" {
			source["max_stale"] = "10s"
		}
		if d.section == "key_sets" {
			source["refresh"], source["min_refresh"] = "10s", "1s"
			if row.When == "stale" {
				source["max_stale"] = "30s"
			}
		}
		if row.isAwaited() {
			source["timeout"] = "1m"
		}
		switch {
		case !d.byURL:
			source["file"] = b.path(row)
		default:
			source["url"] = b.url(row)
		}
		sections[d.section][row.id] = source
	}
	text, err := yaml.Marshal(map[string]any{
		"evaluation_timeout": "9s",
		"readiness":          map[string]any{"source_wait": "0s"},                      // many are never there
		"connections":        map[string]any{"max": 10_000, "max_per_address": 10_000}, // one for each handler of each Mixer
		"limits":             map[string]any{"handlers": map[string]any{"entries": 4096, "bytes": 64 << 20, "waiting": 4096}},
		"secrets":            map[string]any{"files": files},
		"lists":              sections["lists"],
		"key_sets":           sections["key_sets"],
		"htpasswd":           sections["htpasswd"],
		"policies":           sections["policies"],
		"redis":              sections["redis"],
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// url is where the row's document is.
func (b *faultBench) url(row *faultRow) string {
	if row.Fault == "certificate of somebody else" {
		return b.secure.URL + "/" + row.id
	}
	return b.plain.URL + "/" + row.id
}

// handlers are those of a row, one for each mode, at the address.
func (r *faultRow) handlers(address string) []resource {
	var all []resource
	for _, mode := range faultModes {
		name := r.handler(mode)
		params := map[string]any{"name": name}
		asked := []resource{newRule(name, "/"+name, name, "request")}
		switch {
		case r.isQuota():
			var quotas map[string]any
			quotas, asked = r.quotaHandler(name)
			maps.Copy(params, quotas)
		case r.Dependency == "inline policy":
			maps.Copy(params, inlinePolicies[r.Fault])
		default:
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
		all = append(append(all, newHandler(name, address, "10s", params)), asked...)
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

// TestFaults has everything that checks depend on go wrong in every way of the table, and counts what passed that nobody let pass. Every release's
// Mixer asks about the same faults at the same time. It runs beside TestMixer, since for most of its time sources get old.
func TestFaults(t *testing.T) {
	t.Parallel()
	rows := readFaults(t)
	binary, permissions := withoutPrivileges(t)
	if !permissions {
		require.NotEqual(t, "true", os.Getenv("CI"), "without setpriv root may read everything")
		t.Log("without setpriv root may read everything, so the rows with permission denied are left out")
		rows = slices.DeleteFunc(rows, func(r *faultRow) bool { return r.Fault == "permission denied" })
	}
	if !hasRedis(t) {
		t.Log("without a redis-server the rows about quotas are left out")
		rows = slices.DeleteFunc(rows, (*faultRow).isQuota)
	}
	idp := newIdentityProvider(t)
	b := newFaultBench(t, idp, rows)
	awaited, rows := partition(rows, (*faultRow).isAwaited)
	start := func(rows []*faultRow) *mesh.Tollgate {
		return meshtest.Tollgate(t, mesh.TollgateOptions{Path: binary, Settings: b.settings(rows), Args: []string{"--log-level", "debug"}})
	}
	tollgate, awaiting := start(rows), start(awaited)
	var handlers []resource
	for _, row := range rows {
		handlers = append(handlers, row.handlers(tollgate.Addr)...)
	}
	for _, row := range awaited {
		handlers = append(handlers, row.handlers(awaiting.Addr)...)
	}
	askers := newFaultAskers(t, idp, meshtest.Mixers(t, mesh.MixerOptions{Resources: map[string]string{
		"tollgate": bundle(t), "request": readFile(t, "testdata/static/request.yaml"), "faults": printResources(t, handlers...),
	}}))
	ask := func(row *faultRow) {
		t.Run(row.String(), func(t *testing.T) {
			b.noticed(t, tollgate, row)
			askers.each(func(a *faultAsker) { a.askAll(t, row) })
		})
	}

	// A first answer is awaited for a minute at the most, and Mixers with so many handlers may take as long to start. So that minute begins anew.
	awaiting.Kill()
	require.NoError(t, awaiting.Start(t.Context()))
	for _, row := range awaited {
		askers.each(func(a *faultAsker) { a.reach(t, row) })
		ask(row)
	}
	// Everything works before it breaks. What has to get old begins with that at once.
	slices.SortStableFunc(rows, func(x, y *faultRow) int { return cmp.Compare(y.turn(), x.turn()) })
	for _, row := range rows {
		if !row.breaks() {
			continue
		}
		askers.each(func(a *faultAsker) { a.askBefore(t, row) })
		if t.Failed() {
			t.FailNow()
		}
		if row.longStale() {
			b.breakIt(t, row)
		}
	}
	for _, row := range rows {
		if row.breaks() && !row.longStale() {
			b.breakIt(t, row)
		}
	}
	// Those that have to get old come last.
	slices.SortStableFunc(rows, func(x, y *faultRow) int { return cmp.Compare(x.turn(), y.turn()) })
	for _, row := range rows {
		ask(row)
	}
	for _, a := range askers {
		t.Logf("dependency × fault × mode through Mixer %s: %d requests, %d accidental allows", a.suite.mixer.Version, a.asked, a.accidents)
		assert.Zero(t, a.accidents)
		assert.Equal(t, (len(rows)+len(awaited))*len(faultModes)*2, a.asked)
		a.suite.assertNothingTold(t)
	}
	assert.Empty(t, tollgate.Log.Lines(0, "planted"))
	assert.Empty(t, awaiting.Log.Lines(0, "planted"))
}

// partition tells the rows that are so from the others.
func partition(rows []*faultRow, is func(*faultRow) bool) (those, others []*faultRow) {
	for _, row := range rows {
		if is(row) {
			those = append(those, row)
		} else {
			others = append(others, row)
		}
	}
	return those, others
}

// faultAsker asks the rows' handlers through one release's Mixer.
type faultAsker struct {
	suite *suite
	// right and wrong are tokens.
	right, wrong string

	asked, accidents int
}

type faultAskers []*faultAsker

func newFaultAskers(t *testing.T, idp *identityProvider, mixers []*mesh.Mixer) (all faultAskers) {
	t.Helper()
	right, wrong := idp.token(t, "ES256", "first", nil), idp.token(t, "ES256", "stranger", nil)
	for _, mixer := range mixers {
		all = append(all, &faultAsker{suite: &suite{mixer: mixer, idp: idp}, right: right, wrong: wrong})
	}
	return all
}

// each has all of them do something at once.
func (all faultAskers) each(do func(a *faultAsker)) {
	var group sync.WaitGroup
	for _, a := range all {
		group.Go(func() { do(a) })
	}
	group.Wait()
}

// reach waits until each of the row's handlers, which all have connections of their own, is connected to a Tollgate that was started again.
func (a *faultAsker) reach(t *testing.T, row *faultRow) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, mode := range faultModes {
		assert.NoError(t, mesh.WaitFor(ctx, row.handler(mode), func(ctx context.Context) error {
			_, err := a.ask(ctx, row, mode, true)
			return err
		}))
	}
}

// askBefore asks the row's handler until it works, and whether it takes what is wrong.
func (a *faultAsker) askBefore(t *testing.T, row *faultRow) {
	t.Helper()
	right, wrong := "OK 5s 10000", "PERMISSION_DENIED 0s 0"
	if row.isQuota() {
		right, wrong = "grants 7 for 5s", "grants 0 for 1ms"
	}
	if err := a.await(t.Context(), row, right); !assert.NoError(t, err) {
		return
	}
	if got, err := a.ask(t.Context(), row, "closed", false); assert.NoError(t, err, "%v", row) {
		assert.Equal(t, wrong, got.text, "%v: %s", row, got.message)
	}
}

// askAll asks the row's handlers of all modes, with what is right and what is wrong, as soon as they answer what the first of them is to answer.
func (a *faultAsker) askAll(t *testing.T, row *faultRow) {
	t.Helper()
	if err := a.await(t.Context(), row, row.Answers["closed"].Right); !assert.NoError(t, err) {
		return
	}
	for _, mode := range faultModes {
		for _, isRight := range []bool{true, false} {
			want := row.Answers[mode].Wrong
			if isRight {
				want = row.Answers[mode].Right
			}
			got, err := a.ask(t.Context(), row, mode, isRight)
			if err != nil {
				assert.Fail(t, "no answer", "Mixer %s, %s: %v", a.suite.mixer.Version, mode, err)
				return
			}
			a.asked++
			if got.passes() && (!faultAnswer{text: want}.passes() || faultAnswer{text: want}.once() && !got.once()) {
				a.accidents++
			}
			assert.Equal(t, want, got.text, "Mixer %s, %s, right credential: %t: %s", a.suite.mixer.Version, mode, isRight, got.message)
			if strings.HasPrefix(want, "UNAVAILABLE") {
				assert.Contains(t, got.message, "("+strings.ReplaceAll(row.Class, "_", " ")+")")
			}
		}
	}
}

// credential is what the row's check looks for, or something that it must not take.
func (a *faultAsker) credential(row *faultRow, isRight bool) string {
	pick := func(right, wrong string) string {
		if isRight {
			return right
		}
		return wrong
	}
	switch dependencies[row.Dependency].section {
	case "key_sets":
		return pick(a.right, a.wrong)
	case "htpasswd":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(faultUser+":"+pick(faultRight, faultWrong)))
	}
	return pick(faultRight, faultWrong)
}

// ask asks the row's handler of a mode, with what is right or wrong: a credential, or an amount.
func (a *faultAsker) ask(ctx context.Context, row *faultRow, mode string, isRight bool) (faultAnswer, error) {
	handler := row.handler(mode)
	if !row.isQuota() {
		v, err := a.suite.mixer.Check(ctx, request("/"+handler, token(a.credential(row, isRight))...))
		a.suite.heard(v, err)
		if err != nil {
			return faultAnswer{}, err
		}
		return faultAnswer{tableAnswer(v), v.Message}, nil
	}
	amount := mesh.QuotaRequest{Amount: wrongAmount}
	if isRight {
		amount.Amount = rightAmount
	}
	v, err := a.suite.mixer.CheckQuotas(ctx, request("/any"), newCall(), map[string]mesh.QuotaRequest{handler: amount})
	a.suite.heard(v, err)
	if err != nil {
		return faultAnswer{}, err
	}
	got, ok := v.Quotas[handler]
	if !ok {
		return faultAnswer{"nothing about the quota", v.String()}, nil
	}
	return faultAnswer{text: fmt.Sprintf("grants %d for %v", got.Granted, got.ValidFor)}, nil
}

// await asks until the row's handler answers so by default.
func (a *faultAsker) await(ctx context.Context, row *faultRow, want string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return mesh.WaitFor(ctx, row.String(), func(ctx context.Context) error {
		got, err := a.ask(ctx, row, "closed", true)
		if err == nil && got.text != want {
			err = fmt.Errorf("%s %s", got.text, got.message)
		}
		return err
	})
}

// faultAnswer is an answer as the table has it, and what it said.
type faultAnswer struct{ text, message string }

func (a faultAnswer) passes() bool {
	return strings.HasPrefix(a.text, "OK") || strings.HasPrefix(a.text, "grants") && !strings.HasPrefix(a.text, "grants 0 ")
}

// once reports whether an answer is for one request alone.
func (a faultAnswer) once() bool { return strings.Contains(a.text, "-1s") }

// tableAnswer writes an answer as the table has it.
func tableAnswer(v *mesh.Verdict) string {
	names := map[codes.Code]string{codes.OK: "OK", codes.PermissionDenied: "PERMISSION_DENIED", codes.Unavailable: "UNAVAILABLE"}
	name, ok := names[v.Code]
	if !ok {
		name = v.Code.String()
	}
	return fmt.Sprintf("%s %v %d", name, v.ValidFor, v.ValidUses)
}

// noticed waits until Tollgate has seen the row's fault.
func (b *faultBench) noticed(t *testing.T, tollgate *mesh.Tollgate, row *faultRow) {
	t.Helper()
	d := dependencies[row.Dependency]
	switch {
	case row.Fault == "not in the settings", row.isAwaited(), d.section == "", row.isQuota():
	case d.section == "secrets":
		waitForLog(t, tollgate, `"secret":"`+row.id+`"`)
	case row.Fault == "one user more":
		waitForMetric(t, tollgate, fmt.Sprintf("tollgate_htpasswd_users{file=%q} 2", row.id))
	case row.Fault == "one file more", row.Fault == "a newer one":
		require.Eventually(t, func() bool {
			return len(linesWith(tollgate.Log.String(), `"a policy is in force","policy_source":"`+row.id+`"`)) == 2
		}, patience, 50*time.Millisecond, "%v was not noticed", row)
	case d.section == "policies" && row.Fault == "has no such rule" && row.breaks():
		waitForMetric(t, tollgate, fmt.Sprintf(`tollgate_policy_rules{source=%q,state="behind"} 1`, row.id))
	case !row.is("PERMISSION_DENIED") && row.Fault != "has no such rule": // which is what a good document says
		failed := map[string]string{
			"lists":    `tollgate_list_reads_total{list=%q,result="failed"} `,
			"key_sets": `tollgate_key_set_refreshes_total{result="failed",set=%q} `,
			"htpasswd": `tollgate_htpasswd_reads_total{file=%q,result="failed"} `,
			"policies": `tollgate_policy_reads_total{result="failed",source=%q} `,
		}
		line := fmt.Sprintf(failed[d.section], row.id)
		require.Eventually(t, func() bool {
			text := metrics(t, tollgate)
			return strings.Contains(text, line) && !strings.Contains(text, line+"0\n")
		}, patience, 50*time.Millisecond, "%v was not noticed", row)
	}
}

// TestFaultsAreDocumented holds docs/failures.md to the table. With UPDATE_DOCS=1 it writes it instead.
func TestFaultsAreDocumented(t *testing.T) {
	const begin, end = "<!-- faults: from test/mixer/testdata/faults.yaml -->\n", "<!-- end of faults -->\n"
	var table strings.Builder
	_, _ = fmt.Fprintln(&table, "| dependency | fault | when | class | by default | `fail_close: true` | other classes open | class open |")
	_, _ = fmt.Fprintln(&table, "|---|---|---|---|---|---|---|---|")
	words := strings.NewReplacer("OK -1s 1", "passes, once", "OK 5s 10000", "decides", " 0s 0", "",
		"grants 0 for 1ms", "grants 0", "grants 7 for -1s", "grants all, once", "grants 7 for 5s", "decides")
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
