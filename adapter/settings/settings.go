// Package settings is the configuration of the process: what whoever deploys the adapter writes, as opposed to what operators
// write in handlers. Every setting has a default; a file is read strictly, and unknown keys are errors.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Settings is the whole configuration of a process. See docs/settings.md, which a test keeps complete.
type Settings struct {
	// Listen is the host:port for Mixer, or unix:///PATH for a socket.
	Listen string `yaml:"listen"`
	// Admin is the host:port for the page, health, metrics and profiles; empty for none.
	Admin string `yaml:"admin"`
	// AllowPlaintext consents to listeners that others than this machine can reach without encryption.
	AllowPlaintext bool `yaml:"allow_plaintext"`
	// TLS says how calls are encrypted.
	TLS TLS `yaml:"tls"`
	// Callers maps names to those who may call, besides the client certificates of TLS. Without either everybody may.
	Callers map[string]Caller `yaml:"callers"`
	// Connections bounds what connections may take.
	Connections Connections `yaml:"connections"`
	// EvaluationTimeout bounds a decision of handlers that set no bound of their own.
	EvaluationTimeout time.Duration `yaml:"evaluation_timeout"`
	// Log says what is logged, to standard error.
	Log Log `yaml:"log"`
	// Secrets says where named secrets come from.
	Secrets Secrets `yaml:"secrets"`
	// KeySets maps names to the key sets that tokens are verified with.
	KeySets map[string]KeySet `yaml:"key_sets"`
	// Lists maps names to the lists that checks look into.
	Lists map[string]List `yaml:"lists"`
	// Redis maps names to the stores in which replicas share counts of quotas.
	Redis map[string]Redis `yaml:"redis"`
	// Htpasswd maps names to the files of users that checks ask.
	Htpasswd map[string]Htpasswd `yaml:"htpasswd"`
	// Policies maps names to the sources of policies that handlers decide by.
	Policies map[string]PolicySource `yaml:"policies"`
	// Rego says what policies may do beside computing.
	Rego Rego `yaml:"rego"`
	// Limits bounds what the process takes on.
	Limits Limits `yaml:"limits"`
	// Reports says where records go.
	Reports Reports `yaml:"reports"`
	// Traces says where the spans of calls go.
	Traces Traces `yaml:"traces"`
	// Readiness says when the process should get calls.
	Readiness Readiness `yaml:"readiness"`
	// Shutdown says how the process ends.
	Shutdown Shutdown `yaml:"shutdown"`
}

// Log says what is logged.
type Log struct {
	// Level is debug, info, warn or error. At debug every decision is a line.
	Level string `yaml:"level"`
	// Format is json or text.
	Format string `yaml:"format"`
}

// Secrets says where named secrets come from.
type Secrets struct {
	// Directory holds one file a secret.
	Directory string `yaml:"directory"`
	// Files maps names to files.
	Files map[string]string `yaml:"files"`
}

// Limits bounds what the process takes on.
type Limits struct {
	// MessageBytes is the largest call that is received.
	MessageBytes int `yaml:"message_bytes"`
	// ConcurrentChecks is how many policies are evaluated at once.
	ConcurrentChecks int `yaml:"concurrent_checks"`
	// QueueWait is how long a check waits for its turn before it counts as overload.
	QueueWait time.Duration `yaml:"queue_wait"`
	// QuotaCounts is how many counts of quotas are in memory at once.
	QuotaCounts int `yaml:"quota_counts"`
	// ShadowChecks is how many candidates are evaluated at once, beside the checks.
	ShadowChecks int `yaml:"shadow_checks"`
	// Handlers bounds the cache of compiled handlers.
	Handlers Handlers `yaml:"handlers"`
	// Reports bounds the report calls that are under way.
	Reports ReportLimits `yaml:"reports"`
	// DecisionCache bounds what policies remember of their answers.
	DecisionCache DecisionCache `yaml:"decision_cache"`
}

// ReportLimits bounds the report calls that are under way, so that a flood of them takes nothing from checks.
type ReportLimits struct {
	// Calls is how many are under way at once; 0 for eight a processor. Those that wait for a disk or for room do not count for long.
	Calls int `yaml:"calls"`
	// Bytes is what all that were received and are not answered may have together; while they have more, no other is received.
	Bytes int `yaml:"bytes"`
	// Wait is how long a call waits for its turn before it is refused.
	Wait time.Duration `yaml:"wait"`
}

// DecisionCache bounds what policies remember of their answers. Nothing is remembered where either is 0.
type DecisionCache struct {
	// Bytes is how much memory it may take in all, HandlerBytes how much for one handler.
	Bytes        int `yaml:"bytes"`
	HandlerBytes int `yaml:"handler_bytes"`
}

// Handlers bounds the cache of compiled handlers.
type Handlers struct {
	// Entries is how many are kept.
	Entries int `yaml:"entries"`
	// Bytes is how many bytes of params they may come from in all.
	Bytes int `yaml:"bytes"`
	// Compiling is how many are compiled at once.
	Compiling int `yaml:"compiling"`
	// Waiting is how many more may wait for their turn.
	Waiting int `yaml:"waiting"`
	// RetryAfter is how long one that could not be compiled is not tried again.
	RetryAfter time.Duration `yaml:"retry_after"`
}

// Shutdown says how the process ends.
type Shutdown struct {
	// Drain is how long calls are still served after the process said it is not ready: longer than callers take to notice.
	Drain time.Duration `yaml:"drain"`
	// Timeout is how long calls under way may take to finish after that.
	Timeout time.Duration `yaml:"timeout"`
}

// Default returns the settings that hold without any file.
func Default() Settings {
	return Settings{
		Listen:            "127.0.0.1:44225",
		Admin:             "127.0.0.1:44226",
		TLS:               TLS{MinVersion: "1.2"},
		Connections:       defaultConnections(),
		EvaluationTimeout: 500 * time.Millisecond,
		Log:               Log{Level: "info", Format: "json"},
		Limits: Limits{
			MessageBytes:     16 << 20,
			ConcurrentChecks: 256,
			QueueWait:        10 * time.Millisecond,
			QuotaCounts:      100_000,
			ShadowChecks:     4,
			Handlers:         Handlers{Entries: 256, Bytes: 4 << 20, Compiling: 4, Waiting: 64, RetryAfter: 5 * time.Second},
			Reports:          ReportLimits{Bytes: 64 << 20, Wait: 100 * time.Millisecond},
			DecisionCache:    DecisionCache{Bytes: 64 << 20, HandlerBytes: 16 << 20},
		},
		Reports:   Reports{Flush: 5 * time.Second},
		Traces:    Traces{SampleOneIn: 100},
		Readiness: Readiness{SourceWait: 30 * time.Second},
		Shutdown:  Shutdown{Timeout: 10 * time.Second},
	}
}

// Read returns the defaults with the file's settings over them. It does not validate; flags may still follow.
func Read(path string) (Settings, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("settings: %w", err)
	}
	s, err := Parse(content)
	if err != nil {
		return Settings{}, fmt.Errorf("settings: %s: %w", path, err)
	}
	return s, nil
}

// Parse returns the defaults with the settings of one YAML document over them. An empty document changes nothing.
func Parse(document []byte) (Settings, error) {
	s := Default()
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	if err := decoder.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return Settings{}, readable(err, document)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("has more than one document; keep one")
	}
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return Settings{}, err
	}
	for _, top := range root.Content {
		if err := errors.Join(suspicious(top, "")...); err != nil {
			return Settings{}, err
		}
	}
	return s, nil
}

// What the library says of a key that Go's types do not have, and of a value of another type.
var (
	unknownKey = regexp.MustCompile(`^line ([0-9]+): field (.+) not found in type \S+$`)
	mismatch   = regexp.MustCompile("^line ([0-9]+): cannot unmarshal (!!\\S+)(?: `(.*)`)? into (\\S+)$")
)

// readable tells mistakes in the file in the file's words, one a line.
func readable(err error, document []byte) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		if strings.HasSuffix(err.Error(), "found character that cannot start any token") {
			return fmt.Errorf("%w; indent with spaces instead of tabs, and quote texts that begin with @, ` or %%", err)
		}
		return err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return err
	}
	values := placed(&root, "")
	unknown := values
	var problems []error
	for _, text := range wrong.Errors {
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			key := m[2]
			named := func(v placedValue) bool { return strconv.Itoa(v.line) == m[1] && v.name == m[2] }
			if at := slices.IndexFunc(unknown, named); at >= 0 {
				key = unknown[at].key
				for unknown = unknown[at+1:]; len(unknown) > 0 && strings.HasPrefix(unknown[0].key, key+"."); {
					unknown = unknown[1:] // what is in an unknown section was not looked at
				}
			}
			text = fmt.Sprintf("line %s: %s is no setting; docs/settings.md lists them", m[1], key)
		}
		if m := mismatch.FindStringSubmatch(text); m != nil {
			fits := func(v placedValue) bool {
				return strconv.Itoa(v.node.Line) == m[1] && v.node.ShortTag() == m[2] && strings.HasPrefix(v.node.Value, strings.TrimSuffix(m[3], "..."))
			}
			if at := slices.IndexFunc(values, fits); at >= 0 {
				// Of sections on one line the innermost: the others are sections rightly.
				for at+1 < len(values) && m[2] == "!!map" && fits(values[at+1]) {
					at++
				}
				text = fmt.Sprintf("line %s: %s is %s; write %s", m[1], values[at].key, found(m[2], m[3]), wanted(m[4]))
				values = values[at+1:] // mistakes come in the order of the document
			}
		}
		problems = append(problems, errors.New(text))
	}
	return errors.Join(problems...)
}

// placedValue is a value of the document with the path of its key.
type placedValue struct {
	key  string
	node *yaml.Node
	// name is the last part of key, and line where it stands; empty for what has no key of its own.
	name string
	line int
}

// placed returns all values at and below a node, in the order of the document.
func placed(node *yaml.Node, key string) []placedValue {
	if node.Kind == yaml.DocumentNode {
		return placed(node.Content[0], "the document")
	}
	all := []placedValue{{key: key, node: node}}
	for i, child := range node.Content {
		switch {
		case node.Kind == yaml.SequenceNode:
			all = append(all, placed(child, fmt.Sprintf("%s[%d]", key, i))...)
		case i%2 == 1:
			name := node.Content[i-1]
			below := placed(child, strings.TrimPrefix(key+"."+name.Value, "the document."))
			below[0].name, below[0].line = name.Value, name.Line
			all = append(all, below...)
		}
	}
	return all
}

// found says what stands in the file; value is the beginning of a long one.
func found(tag, value string) string {
	switch tag {
	case "!!seq":
		return "a list"
	case "!!map":
		return "a section"
	case "!!str":
		return strconv.Quote(value)
	default:
		return value
	}
}

// wanted says what has to stand there.
func wanted(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration, such as 500ms"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a text"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	default:
		return "keys and values"
	}
}

// zeroIsUnset are the keys whose zero is what a key that is not there reads as, so that it stands for the default.
var zeroIsUnset = regexp.MustCompile(`^(` + strings.Join([]string{
	`callers\.[^.]+\.jwt\.(keys_refresh|leeway)`,
	`key_sets\.[^.]+\.(refresh|min_refresh|max_stale|timeout)`,
	`lists\.[^.]+\.(refresh|max_stale|timeout)`,
	`htpasswd\.[^.]+\.max_stale`,
	`policies\.[^.]+\.(max_bytes|bundle\.(min_refresh|max_refresh|timeout))`,
	`redis\.[^.]+\.(timeout|connections)`,
	`reports\.sinks\.[^.]+\.(queue\.(max_bytes|full_wait)|batch\.(records|bytes|wait|concurrency|timeout|backoff|max_backoff))`,
	`reports\.sinks\.[^.]+\.(file\.megabytes|kafka\.max_message_bytes|prometheus\.(max_series|idle_expiry))`,
}, "|") + `)$`)

// writtenZero returns a number or a duration that is zero as it stands in the file.
func writtenZero(value *yaml.Node) (text string, ok bool) {
	if value.Decode(&text) != nil {
		return "", false
	}
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return text, n == 0
	}
	d, err := time.ParseDuration(text)
	return text, err == nil && d == 0
}

// suspicious returns what the library accepts and takes for something else than the writer meant: a key without a value, and a zero out of
// bounds, which would leave the default; and a fraction, which would be cut.
func suspicious(node *yaml.Node, path string) []error {
	var problems []error
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		key, value := path+node.Content[i].Value, node.Content[i+1]
		switch value.ShortTag() {
		case "!!null":
			problems = append(problems, fmt.Errorf(`line %d: %s has no value; write one, "" for an empty one, or remove the key`, value.Line, key))
		case "!!float":
			problems = append(problems, fmt.Errorf("line %d: %s is %s; write a whole number, or %q with the quotes if a text is wanted", value.Line, key, value.Value, value.Value))
		default:
			if zero, ok := writtenZero(value); ok && zeroIsUnset.MatchString(key) {
				problems = append(problems, fmt.Errorf("line %d: %s is %s; remove the key for the default, or see docs/settings.md for what it may be", value.Line, key, zero))
			}
			problems = append(problems, suspicious(value, key+".")...)
		}
	}
	return problems
}

// hostPort reports whether an address has a host, which may be empty, and a port that there is.
func hostPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// Validate returns every problem of the settings, joined; nil if there is none.
func (s Settings) Validate() error {
	var problems []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	if strings.HasPrefix(s.Listen, "unix:") {
		path, ok := SocketPath(s.Listen)
		add(!ok || len(path) > maxSocketPath || strings.HasSuffix(path, "/"), "listen is %q; write unix:///PATH with a path of at most %d bytes", s.Listen, maxSocketPath)
	} else {
		add(!hostPort(s.Listen), "listen is %q; write host:port, such as 127.0.0.1:44225", s.Listen)
	}
	if s.Admin != "" {
		add(!hostPort(s.Admin), `admin is %q; write host:port, or "" for no admin listener`, s.Admin)
	}
	add(!slices.Contains([]string{"debug", "info", "warn", "error"}, s.Log.Level), "log.level is %q; use debug, info, warn or error", s.Log.Level)
	add(s.Log.Format != "json" && s.Log.Format != "text", "log.format is %q; use json or text", s.Log.Format)
	for _, name := range slices.Sorted(maps.Keys(s.Secrets.Files)) {
		file := s.Secrets.Files[name]
		add(name == "" || file == "", "secrets.files has %q: %q; give every secret a name and a file", name, file)
	}
	for _, d := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"evaluation_timeout", s.EvaluationTimeout, time.Millisecond, time.Minute},
		{"limits.queue_wait", s.Limits.QueueWait, 0, time.Second},
		{"limits.reports.wait", s.Limits.Reports.Wait, 0, 10 * time.Second},
		{"limits.handlers.retry_after", s.Limits.Handlers.RetryAfter, 100 * time.Millisecond, time.Hour},
		{"shutdown.drain", s.Shutdown.Drain, 0, time.Hour},
		{"shutdown.timeout", s.Shutdown.Timeout, 0, time.Hour},
	} {
		add(d.value < d.least || d.value > d.most, "%s is %s; use %s to %s", d.key, d.value, d.least, d.most)
	}
	for _, n := range []struct {
		key         string
		value       int
		least, most int
	}{
		// Room for the largest params and a large request: what gRPC refuses, Mixer reads as INTERNAL, and a mesh may let that pass.
		{"limits.message_bytes", s.Limits.MessageBytes, 8 << 20, 1 << 30},
		{"limits.concurrent_checks", s.Limits.ConcurrentChecks, 1, 1 << 20},
		{"limits.quota_counts", s.Limits.QuotaCounts, 1, 10_000_000},
		{"limits.shadow_checks", s.Limits.ShadowChecks, 1, 1024},
		{"limits.handlers.entries", s.Limits.Handlers.Entries, 1, 1 << 20},
		{"limits.handlers.bytes", s.Limits.Handlers.Bytes, 64 << 10, 1 << 30},
		{"limits.handlers.compiling", s.Limits.Handlers.Compiling, 1, 256},
		{"limits.reports.calls", s.Limits.Reports.Calls, 0, 1 << 20},
		{"limits.reports.bytes", s.Limits.Reports.Bytes, 1 << 20, 1 << 30},
		{"limits.handlers.waiting", s.Limits.Handlers.Waiting, 0, 1 << 20},
		{"limits.decision_cache.bytes", s.Limits.DecisionCache.Bytes, 0, 1 << 40},
		{"limits.decision_cache.handler_bytes", s.Limits.DecisionCache.HandlerBytes, 0, 1 << 40},
	} {
		add(n.value < n.least || n.value > n.most, "%s is %d; use %d to %d", n.key, n.value, n.least, n.most)
	}
	return errors.Join(slices.Concat(problems, s.TLS.validate(), s.validateCallers(), s.Connections.validate(), validateKeySets(s.KeySets), validateLists(s.Lists),
		validateHtpasswd(s.Htpasswd), validateRedis(s.Redis), validatePolicies(s.Policies), s.Rego.validate(), s.Reports.validate(), s.Traces.validate(), s.Readiness.validate())...)
}
