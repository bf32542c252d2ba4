package settings_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

const everything = `
listen: 0.0.0.0:1
admin: ""
allow_plaintext: true
tls:
  cert: /tls.crt
  key: /tls.key
  client_ca: /ca.crt
  client_names: [mixer, "*.example.org"]
  min_version: "1.3"
callers:
  a:
    bearer: secret-a
  b:
    authorization: secret-b
  c:
    header:
      name: x-api-key
      secret: secret-c
  d:
    jwt:
      issuer: https://issuer
      audiences: [tollgate]
      keys_file: /jwks
      keys_url: https://issuer/jwks
      keys_ca: /issuer.crt
      keys_refresh: 1h
      algorithms: [EdDSA]
      leeway: 20s
connections:
  max: 11
  max_per_address: 12
  streams: 13
  max_age: 14m
  max_age_grace: 15s
  handshake_timeout: 16s
  keepalive: 17s
  keepalive_timeout: 18s
  min_ping_interval: 19s
  header_bytes: 20
  buffer_bytes: 21
evaluation_timeout: 1m30s
log:
  level: debug
  format: text
secrets:
  directory: /secrets
  files:
    a: /a
    b: /b
key_sets:
  idp:
    url: https://idp/keys
    ca: /ca
    refresh: 1m
    min_refresh: 2s
    max_stale: 3h
    timeout: 4s
  own:
    file: /own
    symmetric: true
lists:
  a:
    type: regex
    file: /l
    url: https://l
    ca: /ca
    refresh: 23s
    max_stale: 24m
    timeout: 25s
htpasswd:
  staff: {file: /staff, max_stale: 26m}
policies:
  shop:
    directory: /policies
    rego_version: v0
    max_bytes: 26
    max_stale: 27m
    bundle:
      url: https://b/c
      ca: /ca
      bearer_file: /token
      min_refresh: 28s
      max_refresh: 29s
      timeout: 30s
      keys:
        release: {file: /key, algorithm: ES256}
      scope: read
      unsigned: true
      persist: /persist
rego:
  allow_hosts: [a, b:1]
  ca: /ca
  print: true
limits:
  message_bytes: 1
  concurrent_checks: 2
  queue_wait: 3ms
  shadow_checks: 9
  handlers:
    entries: 4
    bytes: 5
    compiling: 6
    waiting: 7
    retry_after: 8s
  quota_counts: 26
  reports:
    calls: 9
    bytes: 10
    wait: 12ms
  decision_cache:
    bytes: 26
    handler_bytes: 27
redis:
  main:
    addresses: [r:1]
    cluster: true
    database: 27
    username: u
    password: {file: /p}
    tls: {enabled: true, ca: /ca, cert: /cert, key: /key, server_name: sn}
    timeout: 28ms
    connections: 29
reports:
  directory: /spool
  default_sinks: [a, b]
  flush: 11s
  sinks:
    a:
      stdout: {}
    c:
      prometheus:
        namespace: istio
        max_series: 20
        idle_expiry: 21m
    d:
      otlp:
        endpoint: o:1
        protocol: http
        headers: {a: b}
        credential: {file: /c}
        credential_header: X
        compression: none
        tls: {enabled: true, ca: /ca, cert: /cert, key: /key, server_name: sn}
        resource: {r: s}
    e:
      kafka:
        brokers: [k:1]
        topic: t
        key: trace
        compression: lz4
        max_message_bytes: 22
        tls: {enabled: true, ca: /ca, cert: /cert, key: /key, server_name: sn}
        sasl: {mechanism: plain, user: {file: /u}, password: {file: /p}}
    f:
      http:
        url: http://h
        method: PUT
        headers: {a: b}
        credential: {file: /c}
        credential_header: X
        compression: none
        tls: {enabled: true, ca: /ca, cert: /cert, key: /key, server_name: sn}
    b:
      file:
        path: /f
        megabytes: 1
        every: 12h
        keep_days: 2
        keep_files: 3
      queue:
        max_bytes: 4
        max_age: 13s
        full: drop_oldest
        full_wait: 14ms
        sync: os
      batch:
        records: 5
        bytes: 6
        wait: 15ms
        concurrency: 7
        timeout: 16s
        backoff: 17ms
        max_backoff: 18s
        give_up_after: 19h
traces:
  otlp:
    endpoint: o:2
  sample_one_in: 26
readiness:
  source_wait: 27s
shutdown:
  drain: 9s
  timeout: 10m
`

func TestParseReadsEverySetting(t *testing.T) {
	t.Parallel()
	got, err := settings.Parse([]byte(everything))
	require.NoError(t, err)
	tls := settings.ClientTLS{Enabled: true, CA: "/ca", Cert: "/cert", Key: "/key", ServerName: "sn"}
	want := settings.Settings{
		Listen:         "0.0.0.0:1",
		AllowPlaintext: true,
		TLS:            settings.TLS{Cert: "/tls.crt", Key: "/tls.key", ClientCA: "/ca.crt", ClientNames: []string{"mixer", "*.example.org"}, MinVersion: "1.3"},
		Callers: map[string]settings.Caller{
			"a": {Bearer: "secret-a"},
			"b": {Authorization: "secret-b"},
			"c": {Header: &settings.HeaderCredential{Name: "x-api-key", Secret: "secret-c"}},
			"d": {JWT: &settings.JWT{
				Issuer: "https://issuer", Audiences: []string{"tollgate"}, KeysFile: "/jwks", KeysURL: "https://issuer/jwks", KeysCA: "/issuer.crt",
				KeysRefresh: time.Hour, Algorithms: []string{"EdDSA"}, Leeway: 20 * time.Second,
			}},
		},
		Connections: settings.Connections{
			Max: 11, MaxPerAddress: 12, Streams: 13, MaxAge: 14 * time.Minute, MaxAgeGrace: 15 * time.Second, HandshakeTimeout: 16 * time.Second,
			Keepalive: 17 * time.Second, KeepaliveTimeout: 18 * time.Second, MinPingInterval: 19 * time.Second, HeaderBytes: 20, BufferBytes: 21,
		},
		EvaluationTimeout: 90 * time.Second,
		Log:               settings.Log{Level: "debug", Format: "text"},
		Secrets:           settings.Secrets{Directory: "/secrets", Files: map[string]string{"a": "/a", "b": "/b"}},
		KeySets: map[string]settings.KeySet{
			"idp": {URL: "https://idp/keys", CA: "/ca", Refresh: time.Minute, MinRefresh: 2 * time.Second, MaxStale: 3 * time.Hour, Timeout: 4 * time.Second},
			"own": {File: "/own", Symmetric: true},
		},
		Lists: map[string]settings.List{
			"a": {Type: "regex", File: "/l", URL: "https://l", CA: "/ca", Refresh: 23 * time.Second, MaxStale: 24 * time.Minute, Timeout: 25 * time.Second},
		},
		Redis: map[string]settings.Redis{"main": {
			Addresses: []string{"r:1"}, Cluster: true, Database: 27, Username: "u", Password: settings.ClientCredential{File: "/p"}, TLS: tls,
			Timeout: 28 * time.Millisecond, Connections: 29,
		}},
		Htpasswd: map[string]settings.Htpasswd{"staff": {File: "/staff", MaxStale: 26 * time.Minute}},
		Policies: map[string]settings.PolicySource{
			"shop": {Directory: "/policies", RegoVersion: "v0", MaxBytes: 26, MaxStale: 27 * time.Minute, Bundle: &settings.Bundle{
				URL: "https://b/c", CA: "/ca", BearerFile: "/token", MinRefresh: 28 * time.Second, MaxRefresh: 29 * time.Second, Timeout: 30 * time.Second,
				Keys: map[string]settings.BundleKey{"release": {File: "/key", Algorithm: "ES256"}}, Scope: "read", Unsigned: true, Persist: "/persist",
			}},
		},
		Rego: settings.Rego{AllowHosts: []string{"a", "b:1"}, CA: "/ca", Print: true},
		Limits: settings.Limits{
			MessageBytes: 1, ConcurrentChecks: 2, QueueWait: 3 * time.Millisecond, QuotaCounts: 26, ShadowChecks: 9,
			Handlers:      settings.Handlers{Entries: 4, Bytes: 5, Compiling: 6, Waiting: 7, RetryAfter: 8 * time.Second},
			Reports:       settings.ReportLimits{Calls: 9, Bytes: 10, Wait: 12 * time.Millisecond},
			DecisionCache: settings.DecisionCache{Bytes: 26, HandlerBytes: 27},
		},
		Reports: settings.Reports{
			Directory: "/spool", DefaultSinks: []string{"a", "b"}, Flush: 11 * time.Second,
			Sinks: map[string]settings.Sink{
				"a": {Stdout: &settings.StdoutSink{}},
				"c": {Prometheus: &settings.PrometheusSink{Namespace: "istio", MaxSeries: 20, IdleExpiry: 21 * time.Minute}},
				"d": {OTLP: &settings.OTLPSink{
					Endpoint: "o:1", Protocol: "http", Headers: map[string]string{"a": "b"}, Credential: settings.ClientCredential{File: "/c"}, CredentialHeader: "X", Compression: "none",
					TLS: tls, Resource: map[string]string{"r": "s"},
				}},
				"e": {Kafka: &settings.KafkaSink{
					Brokers: []string{"k:1"}, Topic: "t", Key: "trace", Compression: "lz4", MaxMessageBytes: 22, TLS: tls,
					SASL: settings.KafkaLogin{Mechanism: "plain", User: settings.ClientCredential{File: "/u"}, Password: settings.ClientCredential{File: "/p"}},
				}},
				"f": {HTTP: &settings.HTTPSink{
					URL: "http://h", Method: "PUT", Headers: map[string]string{"a": "b"}, Credential: settings.ClientCredential{File: "/c"}, CredentialHeader: "X", Compression: "none", TLS: tls,
				}},
				"b": {
					File:  &settings.FileSink{Path: "/f", Megabytes: 1, Every: 12 * time.Hour, KeepDays: 2, KeepFiles: 3},
					Queue: settings.Queue{MaxBytes: 4, MaxAge: 13 * time.Second, Full: "drop_oldest", FullWait: 14 * time.Millisecond, Sync: "os"},
					Batch: settings.Batch{
						Records: 5, Bytes: 6, Wait: 15 * time.Millisecond, Concurrency: 7, Timeout: 16 * time.Second,
						Backoff: 17 * time.Millisecond, MaxBackoff: 18 * time.Second, GiveUpAfter: 19 * time.Hour,
					},
				},
			},
		},
		Traces:    settings.Traces{OTLP: &settings.OTLPSink{Endpoint: "o:2"}, SampleOneIn: 26},
		Readiness: settings.Readiness{SourceWait: 27 * time.Second},
		Shutdown:  settings.Shutdown{Drain: 9 * time.Second, Timeout: 10 * time.Minute},
	}
	assert.Equal(t, want, got)
	for _, key := range keys(reflect.TypeFor[settings.Settings](), "") {
		leaf := key[strings.LastIndexByte(key, '.')+1:]
		assert.Contains(t, everything, leaf+":", "%s is missing in this test", key)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	require.NoError(t, settings.Default().Validate())
	for _, document := range []string{"", "\n", "# nothing\n", "---\n", "---\n# nothing\n", "{}\n"} {
		got, err := settings.Parse([]byte(document))
		require.NoError(t, err, "%q", document)
		assert.Equal(t, settings.Default(), got, "%q", document)
	}
	got, err := settings.Parse([]byte("limits: {handlers: {waiting: 0}}"))
	require.NoError(t, err)
	want := settings.Default()
	want.Limits.Handlers.Waiting = 0
	assert.Equal(t, want, got, "what is beside a setting keeps its default")
}

func TestParseIsStrict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ document, problem string }{
		"unknown keys":                    {"lisen: x\nfoo: 1", "line 1: lisen is no setting; docs/settings.md lists them\nline 2: foo is no setting; docs/settings.md lists them"},
		"unknown key in a section":        {"limits:\n  handlers:\n    entry: 1", "line 3: limits.handlers.entry is no setting; docs/settings.md lists them"},
		"unknown keys of a line":          {"{log: {lvl: debug, lvel: {level: x}}, level: 1}", "line 1: log.lvl is no setting; docs/settings.md lists them\nline 1: log.lvel is no setting; docs/settings.md lists them\nline 1: level is no setting; docs/settings.md lists them"},
		"unknown key of a name":           {"reports:\n  sinks:\n    a:\n      fil:\n        path: /x", "line 4: reports.sinks.a.fil is no setting; docs/settings.md lists them"},
		"unknown key and a wrong value":   {"log: {lvl: 1, level: [], format: {x: 1}}", "line 1: log.lvl is no setting; docs/settings.md lists them\nline 1: log.level is a list; write a text\nline 1: log.format is a section; write a text"},
		"a tab":                           {"log:\n\tlevel: debug", "yaml: line 2: found character that cannot start any token; indent with spaces instead of tabs, and quote texts that begin with @, ` or %"},
		"key in the wrong section":        {"message_bytes: 1", "line 1: message_bytes is no setting; docs/settings.md lists them"},
		"key in camel case":               {"evaluationTimeout: 1s", "line 1: evaluationTimeout is no setting; docs/settings.md lists them"},
		"two documents":                   {"listen: a\n---\nadmin: b", "has more than one document; keep one"},
		"a second, empty document":        {"listen: a\n---\n", "has more than one document; keep one"},
		"a second, broken document":       {"listen: a\n---\n\t{", "yaml: line 3: found character that cannot start any token; indent with spaces instead of tabs, and quote texts that begin with @, ` or %"},
		"the same key twice":              {"listen: a\nlisten: b", `line 2: mapping key "listen" already defined at line 1`},
		"text for a number":               {"limits:\n  concurrent_checks: many", `line 2: limits.concurrent_checks is "many"; write a whole number`},
		"text for a bool":                 {"\nallow_plaintext: \"true\"", `line 2: allow_plaintext is "true"; write true or false`},
		"number for a duration":           {"evaluation_timeout: 5", "line 1: evaluation_timeout is 5; write a duration, such as 500ms"},
		"text for a duration":             {"evaluation_timeout: soon", `line 1: evaluation_timeout is "soon"; write a duration, such as 500ms`},
		"list for a text":                 {"listen: [a]", "line 1: listen is a list; write a text"},
		"text for a section":              {"log: debug", `line 1: log is "debug"; write keys and values`},
		"a list":                          {"- listen: a", "line 1: the document is a list; write keys and values"},
		"too large a number":              {"limits: {handlers: {entries: 99999999999999999999}}", "line 1: limits.handlers.entries is 9999999...; write a whole number"},
		"no YAML":                         {"a: b: c", "yaml: mapping values are not allowed in this context"},
		"a section within a section":      {"log: {level: {}}", "line 1: log.level is a section; write a text"},
		"several wrong types":             {"listen: {}\nadmin: []", "line 1: listen is a section; write a text\nline 2: admin is a list; write a text"},
		"a key without a value":           {"log: {level: debug}\nadmin:\n", `line 2: admin has no value; write one, "" for an empty one, or remove the key`},
		"a section without a value":       {"limits:\n  handlers:\n", `line 2: limits.handlers has no value; write one, "" for an empty one, or remove the key`},
		"null":                            {"secrets: {files: {a: ~, b: null}}", "line 1: secrets.files.a has no value; write one, \"\" for an empty one, or remove the key\nline 1: secrets.files.b has no value; write one, \"\" for an empty one, or remove the key"},
		"a fraction, which would be cut":  {"limits:\n  concurrent_checks: 1.9", "line 2: limits.concurrent_checks is 1.9; write a whole number, or \"1.9\" with the quotes if a text is wanted"},
		"a text that looks like one":      {"tls: {min_version: 1.2}", `line 1: tls.min_version is 1.2; write a whole number, or "1.2" with the quotes if a text is wanted`},
		"an alias that contains itself":   {"secrets: &a {files: *a}", "yaml: anchor 'a' value contains itself"},
		"a key that is no text":           {"[a]: b", "line 1: cannot unmarshal !!seq into string"},
		"a reference to nothing":          {"listen: *a", "yaml: unknown anchor 'a' referenced"},
		"a bad duration beside good ones": {"shutdown: {drain: 1s, timeout: 1}", "line 1: shutdown.timeout is 1; write a duration, such as 500ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := settings.Parse([]byte(c.document))
			require.Error(t, err)
			assert.Equal(t, c.problem, err.Error())
		})
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file := filepath.Join(directory, "settings.yaml")

	_, err := settings.Read(file)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "settings: open "+file)

	require.NoError(t, os.WriteFile(file, []byte("admin: localhost:1\n"), 0o600))
	got, err := settings.Read(file)
	require.NoError(t, err)
	want := settings.Default()
	want.Admin = "localhost:1"
	assert.Equal(t, want, got)

	require.NoError(t, os.WriteFile(file, []byte("admim: localhost:1\n"), 0o600))
	_, err = settings.Read(file)
	assert.EqualError(t, err, "settings: "+file+": line 1: admim is no setting; docs/settings.md lists them")
}

// keySet changes a duration of a key set that is otherwise valid.
func keySet(set func(*settings.KeySet, time.Duration)) func(*settings.Settings, int64) {
	return func(s *settings.Settings, v int64) {
		k := settings.KeySet{File: "/f"}
		set(&k, time.Duration(v))
		s.KeySets = map[string]settings.KeySet{"a": k}
	}
}

func TestKeySets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set     settings.KeySet
		problem string
	}{
		"file":                 {settings.KeySet{File: "/f"}, ""},
		"symmetric file":       {settings.KeySet{File: "/f", Symmetric: true}, ""},
		"url":                  {settings.KeySet{URL: "https://idp.example.com/keys?a=b"}, ""},
		"url with its own ca":  {settings.KeySet{URL: "https://idp.example.com/keys", CA: "/ca"}, ""},
		"this machine":         {settings.KeySet{URL: "http://127.0.0.1:1/keys"}, ""},
		"this machine by name": {settings.KeySet{URL: "http://localhost:1/keys"}, ""},
		"this machine in IPv6": {settings.KeySet{URL: "http://[::1]:1/keys"}, ""},
		"nothing":              {settings.KeySet{}, "key_sets.a.file is missing; name a file with a JWK Set, or a url"},
		"file and url":         {settings.KeySet{File: "/f", URL: "https://a"}, "key_sets.a.file stands beside url; keep the one that the keys come from"},
		"symmetric url":        {settings.KeySet{URL: "https://a", Symmetric: true}, "key_sets.a.symmetric is true; its keys are secrets, so take them from a file"},
		"ca without url":       {settings.KeySet{File: "/f", CA: "/ca"}, "key_sets.a.ca is set, but there is no url whose server it could verify; remove it"},
		"no url":               {settings.KeySet{URL: "idp.example.com"}, "key_sets.a.url is none; write one such as https://idp.example.com/keys"},
		"broken url":           {settings.KeySet{URL: "https://a:planted\x7f"}, "key_sets.a.url is none; write one such as https://idp.example.com/keys"},
		"plain http":           {settings.KeySet{URL: "http://idp.example.com"}, "key_sets.a.url must begin with https://, or others could give you their keys; http:// is for this machine alone, such as http://127.0.0.1"},
		"http, nearly here":    {settings.KeySet{URL: "http://localhost.example.com"}, "key_sets.a.url must begin with https://, or others could give you their keys; http:// is for this machine alone, such as http://127.0.0.1"},
		"another scheme":       {settings.KeySet{URL: "ftp://localhost/keys"}, "key_sets.a.url must begin with https://, or others could give you their keys; http:// is for this machine alone, such as http://127.0.0.1"},
		"password":             {settings.KeySet{URL: "https://a:planted@b/"}, "key_sets.a.url has a user or a password, which would be in logs; remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			s.KeySets = map[string]settings.KeySet{"a": c.set}
			err := s.Validate()
			if c.problem == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, c.problem)
			assert.NotContains(t, err.Error(), "planted")
		})
	}
	s := settings.Default()
	s.KeySets = map[string]settings.KeySet{"A b": {File: "/f"}}
	require.EqualError(t, s.Validate(), `key_sets has "A b"; name a key set with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends`)
	assert.Equal(t, 4*time.Hour, settings.KeySet{Refresh: 2 * time.Hour}.WithDefaults().MaxStale, "long enough for two attempts")
}

// Every bound, at it and one past it.
func TestBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key         string
		set         func(*settings.Settings, int64)
		least, most int64
		problem     string
	}{
		{"limits.quota_counts", func(s *settings.Settings, v int64) { s.Limits.QuotaCounts = int(v) }, 1, 10_000_000, "use 1 to 10000000"},
		{"connections.max", func(s *settings.Settings, v int64) { s.Connections.Max = int(v) }, 1, 1 << 20, "use 1 to 1048576"},
		{"connections.max_per_address", func(s *settings.Settings, v int64) { s.Connections.MaxPerAddress = int(v) }, 1, 1 << 20, "use 1 to 1048576"},
		{"connections.streams", func(s *settings.Settings, v int64) { s.Connections.Streams = int(v) }, 1, 1 << 20, "use 1 to 1048576"},
		{"connections.max_age", func(s *settings.Settings, v int64) { s.Connections.MaxAge = time.Duration(v) }, 0, 8760 * 3600e9, "use 0s to 8760h0m0s"},
		{"connections.max_age_grace", func(s *settings.Settings, v int64) { s.Connections.MaxAgeGrace = time.Duration(v) }, 1e9, 3600e9, "use 1s to 1h0m0s"},
		{"connections.handshake_timeout", func(s *settings.Settings, v int64) { s.Connections.HandshakeTimeout = time.Duration(v) }, 100e6, 120e9, "use 100ms to 2m0s"},
		{"connections.keepalive", func(s *settings.Settings, v int64) { s.Connections.Keepalive = time.Duration(v) }, 1e9, 24 * 3600e9, "use 1s to 24h0m0s"},
		{"connections.keepalive_timeout", func(s *settings.Settings, v int64) { s.Connections.KeepaliveTimeout = time.Duration(v) }, 1e9, 3600e9, "use 1s to 1h0m0s"},
		{"connections.min_ping_interval", func(s *settings.Settings, v int64) { s.Connections.MinPingInterval = time.Duration(v) }, 1e6, 3600e9, "use 1ms to 1h0m0s"},
		{"connections.header_bytes", func(s *settings.Settings, v int64) { s.Connections.HeaderBytes = int(v) }, 8192, 1 << 20, "use 8192 to 1048576"},
		{"connections.buffer_bytes", func(s *settings.Settings, v int64) { s.Connections.BufferBytes = int(v) }, 4096, 1 << 20, "use 4096 to 1048576"},
		{"evaluation_timeout", func(s *settings.Settings, v int64) { s.EvaluationTimeout = time.Duration(v) }, 1e6, 60e9, "use 1ms to 1m0s"},
		{"limits.queue_wait", func(s *settings.Settings, v int64) { s.Limits.QueueWait = time.Duration(v) }, 0, 1e9, "use 0s to 1s"},
		{"limits.reports.wait", func(s *settings.Settings, v int64) { s.Limits.Reports.Wait = time.Duration(v) }, 0, 10e9, "use 0s to 10s"},
		{"limits.handlers.retry_after", func(s *settings.Settings, v int64) { s.Limits.Handlers.RetryAfter = time.Duration(v) }, 100e6, 3600e9, "use 100ms to 1h0m0s"},
		{"key_sets.a.refresh", keySet(func(k *settings.KeySet, v time.Duration) { k.Refresh, k.MaxStale = v, 168*time.Hour }), 10e9, 24 * 3600e9, "use 10s to 24h0m0s"},
		{"key_sets.a.min_refresh", keySet(func(k *settings.KeySet, v time.Duration) { k.MinRefresh = v }), 1e9, 300e9, "use 1s to 5m0s"},
		{"key_sets.a.max_stale", keySet(func(k *settings.KeySet, v time.Duration) { k.MaxStale = v }), 600e9, 168 * 3600e9, "use 10m0s to 168h0m0s"},
		{"key_sets.a.timeout", keySet(func(k *settings.KeySet, v time.Duration) { k.Timeout = v }), 100e6, 60e9, "use 100ms to 1m0s"},
		{"htpasswd.a.max_stale", func(s *settings.Settings, v int64) {
			s.Htpasswd = map[string]settings.Htpasswd{"a": {File: "/f", MaxStale: time.Duration(v)}}
		}, 60e9, 168 * 3600e9, "use 1m0s to 168h0m0s"},
		{"shutdown.drain", func(s *settings.Settings, v int64) { s.Shutdown.Drain = time.Duration(v) }, 0, 3600e9, "use 0s to 1h0m0s"},
		{"shutdown.timeout", func(s *settings.Settings, v int64) { s.Shutdown.Timeout = time.Duration(v) }, 0, 3600e9, "use 0s to 1h0m0s"},
		{"limits.message_bytes", func(s *settings.Settings, v int64) { s.Limits.MessageBytes = int(v) }, 8 << 20, 1 << 30, "use 8388608 to 1073741824"},
		{"limits.concurrent_checks", func(s *settings.Settings, v int64) { s.Limits.ConcurrentChecks = int(v) }, 1, 1 << 20, "use 1 to 1048576"},
		{"limits.reports.calls", func(s *settings.Settings, v int64) { s.Limits.Reports.Calls = int(v) }, 0, 1 << 20, "use 0 to 1048576"},
		{"limits.reports.bytes", func(s *settings.Settings, v int64) { s.Limits.Reports.Bytes = int(v) }, 1 << 20, 1 << 30, "use 1048576 to 1073741824"},
		{"limits.shadow_checks", func(s *settings.Settings, v int64) { s.Limits.ShadowChecks = int(v) }, 1, 1024, "use 1 to 1024"},
		{"limits.handlers.entries", func(s *settings.Settings, v int64) { s.Limits.Handlers.Entries = int(v) }, 1, 1 << 20, "use 1 to 1048576"},
		{"limits.handlers.bytes", func(s *settings.Settings, v int64) { s.Limits.Handlers.Bytes = int(v) }, 65536, 1 << 30, "use 65536 to 1073741824"},
		{"limits.handlers.compiling", func(s *settings.Settings, v int64) { s.Limits.Handlers.Compiling = int(v) }, 1, 256, "use 1 to 256"},
		{"limits.handlers.waiting", func(s *settings.Settings, v int64) { s.Limits.Handlers.Waiting = int(v) }, 0, 1 << 20, "use 0 to 1048576"},
	} {
		t.Run(c.key, func(t *testing.T) {
			t.Parallel()
			for _, v := range []int64{c.least, c.most} {
				s := settings.Default()
				c.set(&s, v)
				require.NoError(t, s.Validate())
			}
			for _, v := range []int64{c.least - 1, c.most + 1, math.MinInt64, math.MaxInt64} {
				s := settings.Default()
				c.set(&s, v)
				err := s.Validate()
				require.Error(t, err)
				assert.Regexp(t, "^"+regexp.QuoteMeta(c.key)+" is [-0-9a-zµ.]+; "+c.problem+"$", err.Error())
			}
		})
	}
}

func TestHtpasswd(t *testing.T) {
	t.Parallel()
	s := settings.Default()
	s.Htpasswd = map[string]settings.Htpasswd{"Staff": {File: "/f"}, "a": {}}
	assert.EqualError(t, s.Validate(), "htpasswd has \"Staff\"; name a file with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends\n"+
		"htpasswd.a.file is missing; name a file that htpasswd made")
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*settings.Settings)
		problem string
	}{
		"listen without a port": {func(s *settings.Settings) { s.Listen = "localhost" }, `listen is "localhost"; write host:port, such as 127.0.0.1:44225`},
		"no such port":          {func(s *settings.Settings) { s.Listen = "127.0.0.1:65536" }, `listen is "127.0.0.1:65536"; write host:port, such as 127.0.0.1:44225`},
		"empty listen":          {func(s *settings.Settings) { s.Listen = "" }, `listen is ""; write host:port, such as 127.0.0.1:44225`},
		"IPv6 without brackets": {func(s *settings.Settings) { s.Listen = "::1:44225" }, `listen is "::1:44225"; write host:port, such as 127.0.0.1:44225`},
		"admin without a port":  {func(s *settings.Settings) { s.Admin = "localhost" }, `admin is "localhost"; write host:port, or "" for no admin listener`},
		"log level":             {func(s *settings.Settings) { s.Log.Level = "INFO" }, `log.level is "INFO"; use debug, info, warn or error`},
		"log format":            {func(s *settings.Settings) { s.Log.Format = "xml" }, `log.format is "xml"; use json or text`},
		"secret without a file": {func(s *settings.Settings) { s.Secrets.Files = map[string]string{"a": ""} }, `secrets.files has "a": ""; give every secret a name and a file`},
		"secret without a name": {func(s *settings.Settings) { s.Secrets.Files = map[string]string{"": "/a"} }, `secrets.files has "": "/a"; give every secret a name and a file`},
		"all at once, in order": {
			func(s *settings.Settings) {
				*s = settings.Settings{Admin: "x", Secrets: settings.Secrets{Files: map[string]string{"b": "", "a": "", "c": ""}}}
			},
			strings.Join([]string{
				`listen is ""; write host:port, such as 127.0.0.1:44225`,
				`admin is "x"; write host:port, or "" for no admin listener`,
				`log.level is ""; use debug, info, warn or error`,
				`log.format is ""; use json or text`,
				`secrets.files has "a": ""; give every secret a name and a file`,
				`secrets.files has "b": ""; give every secret a name and a file`,
				`secrets.files has "c": ""; give every secret a name and a file`,
				`evaluation_timeout is 0s; use 1ms to 1m0s`,
				`limits.handlers.retry_after is 0s; use 100ms to 1h0m0s`,
				`limits.message_bytes is 0; use 8388608 to 1073741824`,
				`limits.concurrent_checks is 0; use 1 to 1048576`,
				`limits.quota_counts is 0; use 1 to 10000000`,
				`limits.shadow_checks is 0; use 1 to 1024`,
				`limits.handlers.entries is 0; use 1 to 1048576`,
				`limits.handlers.bytes is 0; use 65536 to 1073741824`,
				`limits.handlers.compiling is 0; use 1 to 256`,
				`limits.reports.bytes is 0; use 1048576 to 1073741824`,
				`tls.min_version is ""; use "1.2" or "1.3"`,
				`connections.max is 0; use 1 to 1048576`,
				`connections.max_per_address is 0; use 1 to 1048576`,
				`connections.streams is 0; use 1 to 1048576`,
				`connections.max_age_grace is 0s; use 1s to 1h0m0s`,
				`connections.handshake_timeout is 0s; use 100ms to 2m0s`,
				`connections.keepalive is 0s; use 1s to 24h0m0s`,
				`connections.keepalive_timeout is 0s; use 1s to 1h0m0s`,
				`connections.min_ping_interval is 0s; use 1ms to 1h0m0s`,
				`connections.header_bytes is 0; use 8192 to 1048576`,
				`connections.buffer_bytes is 0; use 4096 to 1048576`,
				`traces.sample_one_in is 0; use 1 to 1099511627776`,
			}, "\n"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			c.change(&s)
			require.EqualError(t, s.Validate(), c.problem)
		})
	}
	for _, change := range []func(*settings.Settings){
		func(s *settings.Settings) { s.Listen = ":0" },
		func(s *settings.Settings) { s.Listen = "[::1]:44225" },
		func(s *settings.Settings) { s.Admin = "" },
		func(s *settings.Settings) { s.Log.Level = "error" },
	} {
		s := settings.Default()
		change(&s)
		assert.NoError(t, s.Validate())
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lists   map[string]settings.List
		problem string
	}{
		"names":     {map[string]settings.List{"A b": {File: "/l"}}, `lists has "A b"; name a list with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends`},
		"no place":  {map[string]settings.List{"l": {}}, "lists.l.file is missing; name a file with one entry a line, or a url"},
		"two":       {map[string]settings.List{"l": {File: "/l", URL: "https://l"}}, "lists.l.file stands beside url; keep the one that the list comes from"},
		"type":      {map[string]settings.List{"l": {File: "/l", Type: "REGEX"}}, `lists.l.type is "REGEX"; use strings, case_insensitive_strings, ip_addresses or regex`},
		"no URL":    {map[string]settings.List{"l": {URL: "planted"}}, "lists.l.url is none; write one such as https://lists.example.com/blocked.txt"},
		"user":      {map[string]settings.List{"l": {URL: "https://planted:planted@l"}}, "lists.l.url has a user or a password, which would be in logs; remove it"},
		"plaintext": {map[string]settings.List{"l": {URL: "http://l.example.com/planted"}}, "lists.l.url must begin with https://, or others could give you their list; http:// is for this machine alone, such as http://127.0.0.1"},
		"CA":        {map[string]settings.List{"l": {File: "/l", CA: "/ca"}}, "lists.l.ca is set, but there is no url whose server it could verify; remove it"},
		"durations": {
			map[string]settings.List{"l": {File: "/l", Refresh: 1, MaxStale: 1, Timeout: 1}, "m": {File: "/l", Refresh: 25 * time.Hour, MaxStale: 169 * time.Hour, Timeout: time.Hour}},
			"lists.l.refresh is 1ns; use 1s to 24h0m0s\nlists.l.max_stale is 1ns; use 2ns to 168h0m0s\nlists.l.timeout is 1ns; use 100ms to 1m0s\n" +
				"lists.m.refresh is 25h0m0s; use 1s to 24h0m0s\nlists.m.max_stale is 169h0m0s; use 50h0m0s to 168h0m0s\nlists.m.timeout is 1h0m0s; use 100ms to 1m0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			s.Lists = c.lists
			err := s.Validate()
			require.EqualError(t, err, c.problem)
			assert.NotContains(t, err.Error(), "planted")
		})
	}
	for _, list := range []settings.List{
		{File: "/l"},
		{URL: "https://l/x?y=z", CA: "/ca"},
		{URL: "http://127.0.0.1:1/x"},
		{URL: "http://localhost"},
		{URL: "http://[::1]:1"},
		{File: "/l", Refresh: 24 * time.Hour},
		{File: "/l", Type: "ip_addresses"},
	} {
		s := settings.Default()
		s.Lists = map[string]settings.List{"l-1_x": list}
		require.NoError(t, s.Validate())
	}
	assert.Equal(t, 48*time.Hour, settings.List{Refresh: 24 * time.Hour}.WithDefaults().MaxStale)
}

func TestRedis(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		name    string
		redis   settings.Redis
		problem string
	}{
		"one":           {"main", settings.Redis{Addresses: []string{"redis:6379"}, Database: 3, Username: "u", Password: settings.ClientCredential{File: "/p"}}, ""},
		"a cluster":     {"main", settings.Redis{Addresses: []string{"a:1", "[::1]:2"}, Cluster: true}, ""},
		"bounds":        {"main", settings.Redis{Addresses: []string{"a:1"}, Timeout: 10 * time.Second, Connections: 1 << 16, Database: 1 << 20}, ""},
		"names":         {"A b", settings.Redis{Addresses: []string{"a:1"}}, `redis has "A b"; name a store with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends`},
		"nowhere":       {"main", settings.Redis{}, "redis.main.addresses is missing; name one as host:port"},
		"no cluster":    {"main", settings.Redis{Addresses: []string{"a:1", "b:2"}}, "redis.main.addresses has 2; keep one, or set cluster to true if they are nodes of a cluster"},
		"no addresses":  {"main", settings.Redis{Addresses: []string{"a", ":1", "a:0", "redis://a:1"}, Cluster: true}, `redis.main.addresses[0] is "a"; write host:port` + "\n" + `redis.main.addresses[1] is ":1"; write host:port` + "\n" + `redis.main.addresses[2] is "a:0"; write host:port` + "\n" + `redis.main.addresses[3] is "redis://a:1"; write host:port`},
		"database":      {"main", settings.Redis{Addresses: []string{"a:1"}, Cluster: true, Database: 1}, "redis.main.database is 1; a cluster has none but 0"},
		"no password":   {"main", settings.Redis{Addresses: []string{"a:1"}, Username: "u"}, `redis.main.username is "u" without a password.file; name the file that has the password`},
		"out of bounds": {"main", settings.Redis{Addresses: []string{"a:1"}, Database: -1, Timeout: 1, Connections: -1}, "redis.main.database is -1; use 0 to 1048576\nredis.main.timeout is 1ns; use 1ms to 10s\nredis.main.connections is -1; use 1 to 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings.Default()
			s.Redis = map[string]settings.Redis{c.name: c.redis}
			if c.problem == "" {
				assert.NoError(t, s.Validate())
			} else {
				assert.EqualError(t, s.Validate(), c.problem)
			}
		})
	}
}

// keys returns the path of every setting in the file. NAME stands for what the file chooses.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for field := range t.Fields() {
		key, fieldType := prefix+field.Tag.Get("yaml"), field.Type
		if fieldType.Kind() == reflect.Map && fieldType.Elem().Kind() == reflect.Struct {
			key, fieldType = key+".NAME", fieldType.Elem()
		}
		if fieldType.Kind() == reflect.Pointer {
			fieldType = fieldType.Elem()
		}
		if fieldType.Kind() == reflect.Struct && fieldType.NumField() > 0 {
			all = append(all, keys(fieldType, key+".")...)
		} else {
			all = append(all, key)
		}
	}
	return all
}

// defaults are the settings that hold for a sink and a caller of which only the kind is set, all kinds at once, for a key set, for a list and for a policy source.
func defaults() reflect.Value {
	s := settings.Default()
	s.Callers = map[string]settings.Caller{"name": settings.Caller{Header: &settings.HeaderCredential{}, JWT: &settings.JWT{}}.WithDefaults()}
	s.Reports.Sinks = map[string]settings.Sink{"name": {Stdout: &settings.StdoutSink{}}}
	s.Reports = s.Reports.WithDefaults()
	s.KeySets = map[string]settings.KeySet{"name": settings.KeySet{}.WithDefaults()}
	s.Lists = map[string]settings.List{"name": settings.List{}.WithDefaults()}
	s.Redis = map[string]settings.Redis{"name": settings.Redis{}.WithDefaults()}
	s.Htpasswd = map[string]settings.Htpasswd{"name": settings.Htpasswd{}.WithDefaults()}
	bundle := &settings.Bundle{Keys: map[string]settings.BundleKey{"name": {}}}
	s.Policies = map[string]settings.PolicySource{"name": settings.PolicySource{Bundle: bundle}.WithDefaults()}
	return reflect.ValueOf(s)
}

// docs/settings.md has one row for every setting, with its default, and no other rows.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/settings.md")
	require.NoError(t, err)
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-zNAME_.]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(string(content), -1) {
		rows[row[1]] = strings.Trim(row[2], "`")
	}
	pages := map[string]string{}
	for _, key := range keys(reflect.TypeFor[settings.Settings](), "") {
		// What a kind of sink has of its own is on its page.
		if rest, ok := strings.CutPrefix(strings.Replace(key, "traces.otlp.", "reports.sinks.NAME.otlp.", 1), "reports.sinks.NAME."); ok {
			if kind, own, ok := strings.Cut(rest, "."); ok && kind != "queue" && kind != "batch" {
				if pages[kind] == "" {
					content, err := os.ReadFile("../../docs/sinks/" + kind + ".md")
					require.NoError(t, err)
					pages[kind] = string(content)
				}
				row := regexp.MustCompile("(?m)^\\|[^|]*`" + regexp.QuoteMeta(own) + "`[^|]*\\|")
				assert.True(t, row.MatchString(pages[kind]), "%s is not in docs/sinks/%s.md", own, kind)
				continue
			}
		}
		documented, ok := rows[key]
		delete(rows, key)
		if key == "reports.default_sinks" {
			assert.Equal(t, "the only sink", documented)
			continue
		}
		if !assert.True(t, ok, "%s is not in docs/settings.md", key) {
			continue
		}
		want := defaults()
		for part := range strings.SplitSeq(key, ".") {
			if part == "NAME" {
				want = want.MapIndex(reflect.ValueOf("name"))
				continue
			}
			if want.Kind() == reflect.Pointer {
				want = want.Elem()
			}
			want = want.FieldByNameFunc(func(name string) bool {
				field, _ := want.Type().FieldByName(name)
				return field.Tag.Get("yaml") == part
			})
		}
		if want.IsZero() && slices.Contains([]reflect.Kind{reflect.String, reflect.Map, reflect.Slice, reflect.Pointer}, want.Kind()) || strings.HasSuffix(key, ".stdout") {
			assert.Equal(t, "none", documented, key)
			continue
		}
		assert.Equal(t, fmt.Sprint(want.Interface()), documented, key)
	}
	assert.Empty(t, rows, "not settings, but in docs/settings.md")
}

// A zero that somebody writes is held against the bounds as any other value. It never stands for the default: a leeway of 0s would be one of
// half a minute, and what counts for no time while its source is away would count for an hour.
func TestZeroIsNotTheDefault(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/settings.md")
	require.NoError(t, err)
	zeros := map[string]string{
		"reports.sinks.NAME.file.megabytes": "0", "reports.sinks.NAME.kafka.max_message_bytes": "0",
		"reports.sinks.NAME.prometheus.max_series": "0", "reports.sinks.NAME.prometheus.idle_expiry": "0s",
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-zNAME_.]+)` \\| `([^|]*)` \\| ((?:`[1-9a-z]|twice )[^|]* to [^|]*) \\|").FindAllStringSubmatch(string(content), -1) {
		zeros[row[1]] = map[bool]string{true: "0s", false: "0"}[strings.HasSuffix(row[2], "s")]
	}
	require.Greater(t, len(zeros), 45)
	for key, zero := range zeros {
		key = strings.ReplaceAll(key, "NAME", "a")
		s, err := settings.Parse([]byte(strings.ReplaceAll(key, ".", ": {") + ": " + zero + strings.Repeat("}", strings.Count(key, "."))))
		if err == nil {
			err = s.Validate()
		}
		require.ErrorContains(t, err, key+" is "+zero+"; ")
	}
	for _, document := range []string{
		"reports: {sinks: {a: {stdout: {}, queue: {max_age: 0s}, batch: {give_up_after: 0s}}}}", "reports: {sinks: {a: {file: {path: /f, every: 0s, keep_days: 0}}}}",
		"policies: {a: {directory: /p, max_stale: 0s}}", "redis: {a: {addresses: [r:1], database: 0}}", "limits: {queue_wait: 0s}",
	} {
		s, err := settings.Parse([]byte(document))
		require.NoError(t, err, document)
		require.NoError(t, s.Validate(), document)
	}
	_, err = settings.Parse([]byte("lists:\n  a:\n    timeout: &none 0h0m\n    max_stale: *none\n    refresh: -0s"))
	assert.EqualError(t, err, "line 3: lists.a.timeout is 0h0m; remove the key for the default, or see docs/settings.md for what it may be\n"+
		"line 4: lists.a.max_stale is 0h0m; remove the key for the default, or see docs/settings.md for what it may be\n"+
		"line 5: lists.a.refresh is -0s; remove the key for the default, or see docs/settings.md for what it may be")
}

// The example that people copy is right.
func TestDocumentedExampleIsValid(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/settings.md")
	require.NoError(t, err)
	_, example, ok := strings.Cut(string(content), "```yaml\n")
	require.True(t, ok)
	example, _, ok = strings.Cut(example, "```")
	require.True(t, ok)
	s, err := settings.Parse([]byte(example))
	require.NoError(t, err)
	assert.NoError(t, s.Validate())
}

// So are those of docs/transport.md.
func TestDocumentedTransportsAreValid(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/transport.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n# settings\n(.*?)```").FindAllStringSubmatch(string(content), -1)
	require.Len(t, examples, 3)
	for _, example := range examples {
		s, err := settings.Parse([]byte(example[1]))
		require.NoError(t, err)
		require.NoError(t, s.Validate())
		assert.True(t, s.TLS.Enabled())
	}
	// Every reason of a refusal has a row.
	source, err := os.ReadFile("../transport/refusal.go")
	require.NoError(t, err)
	reasons := regexp.MustCompile(`Reason += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, reasons)
	_, rows, _ := strings.Cut(string(content), "| reason | what happened |")
	for _, reason := range reasons {
		assert.Contains(t, rows, "`"+reason[1]+"`")
	}
}

func FuzzParse(f *testing.F) {
	for _, document := range []string{
		everything, "", "---\n---\n", "a: &a [*a]", "limits: {<<: {concurrent_checks: 3}}", "secrets: {files: {a: ~}}", "\xff\xfe", "listen: !!binary x",
		"limits: {handlers: {bytes: 1e6}}", "&a a: *a",
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		s, err := settings.Parse(document)
		if err != nil {
			require.Equal(t, settings.Settings{}, s, "half a file must not be used")
			require.NotEmpty(t, err.Error())
			return
		}
		again, err := settings.Parse(document)
		require.NoError(t, err)
		require.Equal(t, s, again)
		// Whatever was accepted is within its bounds, or an error and no panic.
		if s.Validate() == nil {
			require.Positive(t, s.EvaluationTimeout)
			require.Positive(t, s.Limits.MessageBytes)
			require.NotEmpty(t, s.Listen)
		}
	})
}
