package admin_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/admin"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
)

// hostile breaks out of every place of a page that does not escape it.
const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}` + "`\x00\xff</style></title>javascript:alert(1)"

// fill sets every text of a value to the given one, and every number, and gives every slice and map two elements.
func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(false)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), text)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		element := reflect.New(v.Type().Elem()).Elem()
		fill(element, text)
		v.SetMapIndex(reflect.ValueOf(text), element)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1795262400, 0)))
			return
		}
		for _, field := range v.Fields() {
			fill(field, text)
		}
	}
}

func startPage(t *testing.T, status admin.Status) string {
	t.Helper()
	_, url := startWith(t, admin.Options{
		Ready: (&readiness.Conditions{}).For, Level: observe.LevelOf(slog.New(slog.DiscardHandler)), Status: func() admin.Status { return status },
	})
	return url
}

// Whatever stands in headers, names and messages of others is text on the page, and not a part of it.
func TestPageEscapes(t *testing.T) {
	t.Parallel()
	var status admin.Status
	fill(reflect.ValueOf(&status).Elem(), hostile)
	code, page, header := ask(t, http.MethodGet, startPage(t, status)+"/?refresh="+"%22%3E%3Cscript%3E")
	require.Equal(t, http.StatusOK, code)
	for _, tag := range []string{"<script", "<img", "onerror=alert(1)>", "</style></title>"} {
		assert.NotContains(t, page, tag)
	}
	assert.Equal(t, 1, strings.Count(page, "</style>"))
	// Each text is on the page, in its escaped form.
	assert.Greater(t, strings.Count(page, "&lt;script&gt;"), 30)
	assert.Equal(t, "text/html; charset=utf-8", header.Get("Content-Type"))
	assert.Regexp(t, `^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'$`,
		header.Get("Content-Security-Policy"))
	assert.Equal(t, "no-store", header.Get("Cache-Control"))
	assert.Equal(t, "DENY", header.Get("X-Frame-Options"))
	assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
	assert.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
}

// What the page shows is what programs get.
func TestStatusJSON(t *testing.T) {
	t.Parallel()
	var status admin.Status
	fill(reflect.ValueOf(&status).Elem(), "text")
	code, body, header := ask(t, http.MethodGet, startPage(t, status)+"/status.json")
	require.Equal(t, http.StatusOK, code)
	assert.Equal(t, "application/json", header.Get("Content-Type"))
	assert.Equal(t, "no-store", header.Get("Cache-Control"))
	var got admin.Status
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	sent, err := json.Marshal(status)
	require.NoError(t, err)
	again, err := json.Marshal(got)
	require.NoError(t, err)
	assert.JSONEq(t, string(sent), string(again))
}

// Programs that go through a list find an empty one, and not null.
func TestStatusJSONHasEmptyLists(t *testing.T) {
	t.Parallel()
	_, body, _ := ask(t, http.MethodGet, startPage(t, admin.Status{})+"/status.json")
	got := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	lists := 0
	for field := range reflect.TypeFor[admin.Status]().Fields() {
		if field.Type.Kind() == reflect.Slice {
			assert.Equal(t, []any{}, got[field.Tag.Get("json")], field.Name)
			lists++
		}
	}
	assert.Equal(t, 7, lists)
}

func TestPage(t *testing.T) {
	t.Parallel()
	now := time.Unix(1795262400, 0)
	denial := activity.Decision{
		Time: now.Add(-90 * time.Second), Handler: "shop", Outcome: "deny", Code: "PERMISSION_DENIED", Check: "header/key", Reason: "header_mismatch", Elapsed: 37 * time.Microsecond,
	}
	older := denial
	older.Time, older.Outcome, older.Reason, older.Detail = now.Add(-2*time.Hour), "failed_open", "timeout", "took too long"
	page := func(s admin.Status) string {
		s.Now, s.Started = now, now.Add(-72*time.Hour)
		_, body, _ := ask(t, http.MethodGet, startPage(t, s)+"/")
		return body
	}
	empty := page(admin.Status{})
	assert.Contains(t, empty, `<span class="good">ready</span>`)
	assert.Contains(t, empty, "None since the start.")
	assert.Contains(t, empty, "No check has come yet.")
	assert.Contains(t, empty, "<dd>3 d</dd>")
	assert.NotContains(t, empty, `http-equiv="refresh"`)

	full := page(admin.Status{
		Conditions: []admin.Condition{
			{Name: "tls.cert", Detail: "expired yesterday"}, {Name: "key_sets.idp", Detail: "never loaded", Waived: true}, {Name: "lists.offices", Holds: true},
		},
		Handlers: []activity.Handler{
			{Name: "old", Refusals: []activity.Decision{older}, Problems: "policy[0]: no"}, {Name: "shop", Deny: 3, Refusals: []activity.Decision{denial}},
		},
		Files:   []admin.File{{Setting: "tls.cert", Expires: now.Add(3 * time.Hour)}, {Setting: "tls.client_ca", Expires: now.Add(500 * time.Hour)}},
		Secrets: []admin.Secret{{Name: "token", Available: true}, {Name: "lost"}},
		Sinks:   []admin.Sink{{Name: "main", Accepted: 5, Dropped: map[string]uint64{"oldest": 2}, Pending: 1, Oldest: 3 * time.Minute}},
		Log:     observe.LevelState{Level: "debug", Configured: "info", Until: now.Add(10 * time.Minute)},
	})
	for _, text := range []string{
		`<span class="bad">not ready</span>`, `<b>tls.cert</b> expired yesterday`, `<b>key_sets.idp</b> never loaded (no longer waited for)`,
		`1 min 30 s ago`, `2 h 0 min ago`, `37 µs`, `<span class="failed_open">failed open</span>`, "took too long", `policy[0]: no`,
		`class="bad" title="2026-11-21T15:00:00.000Z">in 3 h 0 min`, "in 20 d", `<span class="bad">lost: unavailable</span>`, "2 oldest", "3 min 0 s",
		"debug, info again in 10 min 0 s",
	} {
		assert.Contains(t, full, text)
	}
	assert.NotContains(t, full, "<b>lists.offices</b>", "what holds needs no notice")
	assert.Less(t, strings.Index(full, "header_mismatch"), strings.Index(full, "took too long"), "the latest comes first")
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	_, body, _ := ask(t, http.MethodGet, startPage(t, admin.Status{})+"/?refresh")
	assert.Contains(t, body, `<meta http-equiv="refresh" content="5">`)
}

// A name of somebody else's that leads to this machine makes no page of ours theirs.
func TestNamesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	url := startPage(t, admin.Status{})
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	for host, want := range map[string]int{
		"localhost:" + port: http.StatusOK, "LOCALHOST": http.StatusOK, "127.0.0.1:" + port: http.StatusOK, "127.8.9.10": http.StatusOK, "[::1]:" + port: http.StatusOK, "[::1]": http.StatusOK,
		"evil.example:" + port: http.StatusMisdirectedRequest, "evil.example": http.StatusMisdirectedRequest, "localhost.evil.example": http.StatusMisdirectedRequest,
		"127.0.0.1.evil.example": http.StatusMisdirectedRequest, "10.0.0.1": http.StatusMisdirectedRequest,
	} {
		for path, guarded := range map[string]bool{"/": true, "/status.json": true, "/log/level": true, "/debug/pprof/cmdline": true, "/healthz": false, "/readyz": false} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, http.NoBody)
			require.NoError(t, err)
			request.Host = host
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			response.Body.Close()
			if !guarded {
				assert.Equal(t, http.StatusOK, response.StatusCode, "probes and scrapers ask by any name")
				continue
			}
			assert.Equal(t, want, response.StatusCode, "%s of %s", path, host)
		}
	}
}

// A page of somebody else's cannot read a profile, but it could have one taken, for as long as it likes. Links to our page work from everywhere.
func TestPagesOfOthersTakeNoProfiles(t *testing.T) {
	t.Parallel()
	url := startPage(t, admin.Status{})
	for site, want := range map[string]int{
		"": http.StatusOK, "none": http.StatusOK, "same-origin": http.StatusOK, "same-site": http.StatusForbidden, "cross-site": http.StatusForbidden,
	} {
		for _, path := range []string{
			"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=0.1", "/", "/status.json",
		} {
			if want == http.StatusOK && strings.Contains(path, "profile") {
				continue // it takes a second, and only one can be taken at a time
			}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, http.NoBody)
			require.NoError(t, err)
			if site != "" {
				request.Header.Set("Sec-Fetch-Site", site)
			}
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err)
			response.Body.Close()
			if strings.HasPrefix(path, "/debug/") {
				assert.Equal(t, want, response.StatusCode, "%s from %q", path, site)
			} else {
				assert.Equal(t, http.StatusOK, response.StatusCode, path)
			}
		}
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	logger, err := observe.NewLogger(io.Discard, "info", "json")
	require.NoError(t, err)
	_, url := startWith(t, admin.Options{Ready: (&readiness.Conditions{}).For, Level: observe.LevelOf(logger)})
	put := func(path, body string, headers ...string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+path, strings.NewReader(body))
		require.NoError(t, err)
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(content)
	}
	_, body, _ := ask(t, http.MethodGet, url+"/log/level")
	assert.JSONEq(t, `{"level": "info", "configured": "info"}`, body)
	code, body := put("/log/level", "debug\n")
	assert.Equal(t, http.StatusOK, code)
	assert.JSONEq(t, `{"level": "debug", "configured": "info"}`, body)
	assert.True(t, logger.Enabled(t.Context(), slog.LevelDebug))
	code, body = put("/log/level?for=10m", "error")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, `"until": "20`)
	assert.False(t, logger.Enabled(t.Context(), slog.LevelWarn))

	for name, c := range map[string]struct {
		path, body string
		headers    []string
		code       int
		text       string
	}{
		"no level":          {"/log/level", "", nil, http.StatusBadRequest, `the level is ""; send debug, info, warn or error`},
		"no such level":     {"/log/level", "loud", nil, http.StatusBadRequest, `the level is "loud"`},
		"far too long":      {"/log/level", strings.Repeat("x", 1<<20), nil, http.StatusBadRequest, "send debug"},
		"no such time":      {"/log/level?for=soon", "debug", nil, http.StatusBadRequest, `for is "soon"; use 1s to 24h0m0s, such as 10m`},
		"too short":         {"/log/level?for=1ms", "debug", nil, http.StatusBadRequest, "for is"},
		"too long":          {"/log/level?for=48h", "debug", nil, http.StatusBadRequest, "for is"},
		"a page of others":  {"/log/level", "debug", []string{"Origin", "http://evil.example"}, http.StatusForbidden, "cross-origin"},
		"a site of others":  {"/log/level", "debug", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden, "cross-origin"},
		"through a sidecar": {"/log/level", "debug", []string{"X-Forwarded-Proto", "http"}, http.StatusForbidden, "from this machine alone"},
		"through a proxy":   {"/log/level", "debug", []string{"Forwarded", "for=192.0.2.1"}, http.StatusForbidden, "from this machine alone"},
	} {
		code, body := put(c.path, c.body, c.headers...)
		assert.Equal(t, c.code, code, name)
		assert.Contains(t, body, c.text, name)
	}
	assert.False(t, logger.Enabled(t.Context(), slog.LevelWarn), "nothing of that changed it")
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		code, _, _ := ask(t, method, url+"/log/level")
		assert.Equal(t, http.StatusMethodNotAllowed, code)
	}
	code, _ = put("/log/level", "info")
	assert.Equal(t, http.StatusOK, code)
}

// Who is on another machine can look at the level, by whatever name, and not change it. Nor can who comes through a sidecar that looks at no
// HTTP: it has an address of this machine, and asks for the pod's.
func TestLevelFromElsewhere(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"192.0.2.7", "127.0.0.6"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			levelFrom(t, net.ParseIP(from))
		})
	}
}

func levelFrom(t *testing.T, from net.IP) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := admin.New(admin.Options{Level: observe.LevelOf(slog.New(slog.DiscardHandler))})
	done := make(chan error)
	go func() { done <- server.Serve(farListener{listener, from}) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for method, want := range map[string]int{http.MethodGet: http.StatusOK, http.MethodPut: http.StatusForbidden} {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+listener.Addr().String()+"/log/level", strings.NewReader("debug"))
		require.NoError(t, err)
		request.Host = "tollgate.istio-system"
		response, err := client.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, want, response.StatusCode)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	server.Shutdown(ctx)
	require.NoError(t, <-done)
}

// farListener takes all that comes for what comes from another machine.
type farListener struct {
	net.Listener

	from net.IP
}

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return farConnection{c, l.from}, err
}

type farConnection struct {
	net.Conn

	from net.IP
}

func (c farConnection) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.from, Port: 1234} }

func (farConnection) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 44226}
}
