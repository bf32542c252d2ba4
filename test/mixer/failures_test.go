package mixer_test

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// matrixRow is one line of testdata/failure-matrix.csv.
type matrixRow struct {
	class, mode, require, token string
	want                        answer
}

func (r matrixRow) handler() string {
	return strings.ToLower(strings.ReplaceAll(r.class, "_", "-") + "-" + r.mode + "-" + r.require)
}

func (r matrixRow) String() string {
	return fmt.Sprintf("%s %s %s %s token", r.class, r.mode, r.require, r.token)
}

func (r matrixRow) request() mesh.Attributes {
	return request("/"+r.handler(), token("planted-"+r.token)...)
}

// failed says whether the row's answer comes from the failure, and not from the header check beside it.
func (r matrixRow) failed() bool { return r.want == refused || r.want == allowedOnce }

func readMatrix(t *testing.T) []matrixRow {
	t.Helper()
	reader := csv.NewReader(strings.NewReader(readFile(t, "testdata/failure-matrix.csv")))
	reader.Comment = '#'
	lines, err := reader.ReadAll()
	require.NoError(t, err)
	codeNames := map[string]codes.Code{}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		codeNames[c.String()] = c
	}
	rows := make([]matrixRow, 0, len(lines))
	for _, line := range lines[1:] {
		code, known := codeNames[line[4]]
		require.True(t, known, line[4])
		validFor, err := time.ParseDuration(line[5])
		require.NoError(t, err)
		uses, err := strconv.ParseInt(line[6], 10, 32)
		require.NoError(t, err)
		rows = append(rows, matrixRow{line[0], line[1], line[2], line[3], answer{code, validFor, int32(uses)}})
	}
	return rows
}

// trigger makes the failure of one class happen.
type trigger struct {
	// params are added to those of every handler of the matrix.
	params map[string]any
	// address is that of the Tollgate to ask.
	address string
	// during asks about all rows of the class while the failure lasts. By default nothing needs to be done for it.
	during func(t *testing.T, s *suite, rows []matrixRow, ask func(matrixRow))
}

func policy(text string) map[string]any {
	return map[string]any{"policy": []string{"package matrix\n\n" + text}, "check_method": "data.matrix.allow"}
}

// hugePolicy takes about a second to compile: every rule hangs on the next one.
func hugePolicy() string {
	var b strings.Builder
	b.WriteString("default allow = false\n\nallow { r0 }\n")
	const rules = 2000
	for i := range rules {
		_, _ = fmt.Fprintf(&b, "r%d { count([x | x := input.subject.groups[_]; x == \"g\"]) > 0; r%d }\n", i, i+1)
	}
	_, _ = fmt.Fprintf(&b, "r%d = false\n", rules)
	return b.String()
}

// The policies below deny where they are evaluated after all, so that no row comes out right by luck.
var triggers = map[string]trigger{
	"configuration":     {params: policy("allow = tru {")},
	"policy_not_loaded": {params: policy(hugePolicy()), address: "tollgate-impatient:44225", during: whileCompiling},
	"evaluation_error":  {params: policy("allow = true { input.action.path }\n\nallow = false { input.action.path }")},
	"undefined_result":  {params: policy("allow { input.subject.user == \"nobody\" }")},
	"timeout": {params: with(
		policy("default allow = false\n\nallow { numbers.range(1, 4000)[x]; numbers.range(1, 4000)[y]; x * y == -1 }"),
		"evaluation_timeout", "50ms")},
	"dependency_down": {params: map[string]any{"headers": []any{matrixHeader, map[string]any{
		"subject_property": "custom_token_header", "secrets": []string{"token"},
	}}}, during: whileSecretIsAway},
	"overload": {params: policy("default allow = false"), address: "tollgate-tight:44225", during: whileBusy},
	"panic":    {params: policy("allow { faultinjection.panic(\"planted-panic\") }"), address: "tollgate-faulty:44225"},
}

// matrixHeader is the header check beside the check that fails.
var matrixHeader = map[string]any{"name": "beside", "subject_property": "custom_token_header", "values": []string{"planted-right"}}

func with(params map[string]any, key string, value any) map[string]any {
	params[key] = value
	return params
}

// matrixHandlers makes the handlers that the rows ask.
func matrixHandlers(rows []matrixRow) []resource {
	var all []resource
	seen := map[string]bool{}
	for _, row := range rows {
		name := row.handler()
		if seen[name] {
			continue
		}
		seen[name] = true
		trigger := triggers[row.class]
		params := map[string]any{
			"name":    name,
			"headers": []any{matrixHeader},
			"require": row.require,
			"failure": map[string]any{row.class: row.mode},
		}
		maps.Copy(params, trigger.params)
		all = append(all, newHandler(name, or(trigger.address, "tollgate:44225"), "5s", params),
			newRule(name, "/"+name, name, "request"))
	}
	return all
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// testFailureMatrix has every class of failure happen in both modes, alone responsible and beside another check, and
// counts what passed that nobody let pass.
func testFailureMatrix(t *testing.T, s *suite) {
	rows := readMatrix(t)
	byClass := map[string][]matrixRow{}
	var classes []string
	for _, row := range rows {
		if byClass[row.class] == nil {
			classes = append(classes, row.class)
		}
		byClass[row.class] = append(byClass[row.class], row)
	}
	require.ElementsMatch(t, []string{
		"configuration", "policy_not_loaded", "evaluation_error", "undefined_result",
		"timeout", "dependency_down", "overload", "panic",
	}, classes)

	var mu sync.Mutex
	asked, accidents := 0, 0
	for _, class := range classes {
		t.Run(class, func(t *testing.T) {
			if class == "policy_not_loaded" {
				// Mixer reads all its files twice a second, so these large ones come late and leave early.
				s.applyLarge(t, "matrix-"+class, printResources(t, matrixHandlers(byClass[class])...))
			}
			ask := func(row matrixRow) {
				v := s.check(t, row.request())
				accident := v.OK() && row.want.code != codes.OK || // passed where it must not
					row.failed() && v.OK() && v.ValidFor > 0 // or may be reused after a failure
				mu.Lock()
				defer mu.Unlock()
				asked++
				if accident {
					accidents++
				}
				assert.Equal(t, row.want.String(), answerOf(v).String(), "%v: %s", row, v.Message)
				if row.want == refused {
					assert.Contains(t, v.Message, "("+strings.ReplaceAll(class, "_", " ")+")", "%v", row)
				}
			}
			if during := triggers[class].during; during != nil {
				during(t, s, byClass[class], ask)
				return
			}
			for _, row := range byClass[class] {
				ask(row)
			}
		})
	}
	t.Logf("class × mode through Mixer %s: %d requests, %d accidental allows", s.mixer.Version, asked, accidents)
	assert.Zero(t, accidents)
	assert.Equal(t, len(rows), asked)
}

// staticMatrix makes the handlers of all rows but those whose policies are large, and two more that keep a Tollgate busy.
func staticMatrix(t *testing.T) string {
	t.Helper()
	rows := slices.DeleteFunc(readMatrix(t), func(r matrixRow) bool { return r.class == "policy_not_loaded" })
	hog := with(policy("default allow = false\n\nallow { numbers.range(1, 40000)[x]; numbers.range(1, 40000)[y]; x * y == -1 }"),
		"evaluation_timeout", "20s")
	return printResources(t, append(matrixHandlers(rows),
		newHandler("hog", "tollgate-tight:44225", "30s", hog), newRule("hog", "/hog", "hog", "request"),
		newHandler("probe", "tollgate-tight:44225", "5s", policy("default allow = false")), newRule("probe", "/probe", "probe", "request"),
	)...)
}

// whileCompiling asks each handler about both of its rows at once, while its policy is compiled, and lets it finish
// before the next: nobody knows the modes of a handler that still waits for its turn, so it would be closed.
func whileCompiling(t *testing.T, s *suite, rows []matrixRow, ask func(matrixRow)) {
	byHandler := map[string][]matrixRow{}
	for _, row := range rows {
		byHandler[row.handler()] = append(byHandler[row.handler()], row)
	}
	for handler, rows := range byHandler {
		var wait sync.WaitGroup
		for _, row := range rows {
			wait.Go(func() { ask(row) })
		}
		wait.Wait()
		// This token is wrong for every header, and the policies deny.
		s.await(t, handler+" to be compiled", request("/"+handler, token("planted-neither")...),
			func(a answer) bool { return a.code == codes.PermissionDenied })
	}
}

// whileSecretIsAway empties the file of the secret and puts it back.
func whileSecretIsAway(t *testing.T, s *suite, rows []matrixRow, ask func(matrixRow)) {
	// Closed and ANY, so that the secret alone decides.
	at := slices.IndexFunc(rows, func(r matrixRow) bool { return r.mode == "CLOSED" && r.require == "ANY" })
	secret := request("/"+rows[at].handler(), token("planted-secret")...)
	await := func(want answer) {
		t.Helper()
		s.await(t, want.String(), secret, func(a answer) bool { return a == want })
	}
	await(allowed)
	require.NoError(t, os.WriteFile(s.secretFile, nil, 0o600))
	await(refused)
	for _, row := range rows {
		ask(row)
	}
	require.NoError(t, os.WriteFile(s.secretFile, []byte("planted-secret\n"), 0o600))
	await(allowed)
}

// whileBusy keeps the one place of the tight Tollgate taken.
func whileBusy(t *testing.T, s *suite, rows []matrixRow, ask func(matrixRow)) {
	s.expect(t, denied, "/probe")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // a probe may have the place when it comes; and it ends with an error when its caller has gone
			_, _ = s.mixer.Check(ctx, request("/hog"))
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	s.await(t, "the place to be taken", request("/probe"), func(a answer) bool { return a == refused })
	for _, row := range rows {
		ask(row)
	}
}
