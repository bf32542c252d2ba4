package settings

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Reports says where records go and how they are kept until they are there.
type Reports struct {
	// Directory is where queues and dead letters are kept; empty keeps queues in memory and dead letters nowhere.
	Directory string `yaml:"directory"`
	// DefaultSinks are the names of those that get the records of handlers which name none.
	DefaultSinks []string `yaml:"default_sinks"`
	// Sinks maps names to sinks.
	Sinks map[string]Sink `yaml:"sinks"`
	// Flush is how long the process waits at its end for records to be delivered.
	Flush time.Duration `yaml:"flush"`
}

// Sink is one place that records are delivered to, of exactly one of the kinds at the beginning.
type Sink struct {
	// Stdout writes JSON lines to standard output.
	Stdout *StdoutSink `yaml:"stdout"`
	// File writes JSON lines to a file.
	File *FileSink `yaml:"file"`
	// OTLP sends to an OpenTelemetry collector, or whatever takes its protocol.
	OTLP *OTLPSink `yaml:"otlp"`
	// Kafka sends to a topic.
	Kafka *KafkaSink `yaml:"kafka"`
	// HTTP sends JSON lines to a URL.
	HTTP *HTTPSink `yaml:"http"`
	// Prometheus keeps metric instances as series for Prometheus to scrape.
	Prometheus *PrometheusSink `yaml:"prometheus"`

	// Queue keeps what is accepted for the sink until it is delivered.
	Queue Queue `yaml:"queue"`
	// Batch says how records are put together.
	Batch Batch `yaml:"batch"`
}

// StdoutSink has no settings of its own.
type StdoutSink struct{}

// FileSink is a file of JSON lines.
type FileSink struct {
	// Path is the file's.
	Path string `yaml:"path"`
	// Megabytes is how large it gets before the next is begun.
	Megabytes int `yaml:"megabytes"`
	// Every is how long it is written to before the next is begun; 0 for as long as its size allows.
	Every time.Duration `yaml:"every"`
	// KeepDays and KeepFiles bound the old files that are kept; 0 for no bound.
	KeepDays  int `yaml:"keep_days"`
	KeepFiles int `yaml:"keep_files"`
}

// OTLPSink is a receiver of OTLP. Like those below it says itself what is wrong with its settings, and what zero values stand for.
type OTLPSink struct {
	// Endpoint is host:port for gRPC, a URL for HTTP.
	Endpoint string `yaml:"endpoint"`
	// Protocol is grpc or http.
	Protocol string `yaml:"protocol"`
	// Headers are sent with every request.
	Headers map[string]string `yaml:"headers"`
	// Credential is sent with every request, in CredentialHeader.
	Credential       ClientCredential `yaml:"credential"`
	CredentialHeader string           `yaml:"credential_header"`
	// Compression is gzip or none.
	Compression string `yaml:"compression"`
	// TLS secures the connection.
	TLS ClientTLS `yaml:"tls"`
	// Resource is the attributes of the resource that sends.
	Resource map[string]string `yaml:"resource"`
}

// KafkaSink is a topic of a Kafka cluster.
type KafkaSink struct {
	// Brokers are some of the cluster's, as host:port.
	Brokers []string `yaml:"brokers"`
	// Topic takes the records.
	Topic string `yaml:"topic"`
	// Key is record, handler, instance or trace.
	Key string `yaml:"key"`
	// Compression is zstd, snappy, lz4, gzip or none.
	Compression string `yaml:"compression"`
	// MaxMessageBytes bounds a Kafka batch.
	MaxMessageBytes int `yaml:"max_message_bytes"`
	// TLS secures the connections.
	TLS ClientTLS `yaml:"tls"`
	// SASL is how we log in.
	SASL KafkaLogin `yaml:"sasl"`
}

// KafkaLogin is how we log in to brokers.
type KafkaLogin struct {
	// Mechanism is plain, scram-sha-256 or scram-sha-512; empty for no login.
	Mechanism string `yaml:"mechanism"`
	// User and Password are who we are.
	User     ClientCredential `yaml:"user"`
	Password ClientCredential `yaml:"password"`
}

// HTTPSink is a URL that takes JSON lines.
type HTTPSink struct {
	// URL is where requests go.
	URL string `yaml:"url"`
	// Method is POST or PUT.
	Method string `yaml:"method"`
	// Headers are sent with every request.
	Headers map[string]string `yaml:"headers"`
	// Credential is sent with every request, in CredentialHeader.
	Credential       ClientCredential `yaml:"credential"`
	CredentialHeader string           `yaml:"credential_header"`
	// Compression is gzip or none.
	Compression string `yaml:"compression"`
	// TLS secures the connection.
	TLS ClientTLS `yaml:"tls"`
}

// ClientCredential is something secret, in a file that can be replaced while the process runs.
type ClientCredential struct {
	// File holds it; empty for none.
	File string `yaml:"file"`
}

// ClientTLS says how a sink's connections are secured.
type ClientTLS struct {
	// Enabled is whether they are.
	Enabled bool `yaml:"enabled"`
	// CA is a file of certificates, one of which must have signed the other side's; empty for those that the system trusts.
	CA string `yaml:"ca"`
	// Cert and Key are files of our own certificate and its key, where the other side asks for one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is whom the other side's certificate must be made out to; empty for the host that is dialed.
	ServerName string `yaml:"server_name"`
}

// PrometheusSink keeps series in memory.
type PrometheusSink struct {
	// Namespace is put before every metric's name.
	Namespace string `yaml:"namespace"`
	// MaxSeries is how many are kept.
	MaxSeries int `yaml:"max_series"`
	// IdleExpiry is after how long without a value a series is forgotten.
	IdleExpiry time.Duration `yaml:"idle_expiry"`
}

// Queue bounds what is kept for a sink. Zero values take the defaults.
type Queue struct {
	// MaxBytes bounds the room.
	MaxBytes int64 `yaml:"max_bytes"`
	// MaxAge bounds how long a record waits; 0 for no bound.
	MaxAge time.Duration `yaml:"max_age"`
	// Full is refuse, drop_oldest or drop_newest.
	Full string `yaml:"full"`
	// FullWait is how long a call waits for room.
	FullWait time.Duration `yaml:"full_wait"`
	// Sync is always or os.
	Sync string `yaml:"sync"`
}

// Batch says how records are put together and delivered. Zero values take the defaults.
type Batch struct {
	// Records, Bytes and Wait end a batch, whichever comes first.
	Records int           `yaml:"records"`
	Bytes   int           `yaml:"bytes"`
	Wait    time.Duration `yaml:"wait"`
	// Concurrency is how many batches are under way at once.
	Concurrency int `yaml:"concurrency"`
	// Timeout bounds one attempt.
	Timeout time.Duration `yaml:"timeout"`
	// Backoff and MaxBackoff bound the pause after a failed attempt.
	Backoff    time.Duration `yaml:"backoff"`
	MaxBackoff time.Duration `yaml:"max_backoff"`
	// GiveUpAfter is how long a batch is tried before its records become dead letters; 0 for ever.
	GiveUpAfter time.Duration `yaml:"give_up_after"`
}

// Defaults of a sink.
const (
	defaultDiskBytes   = 1 << 30
	defaultMemoryBytes = 64 << 20
	defaultSinkName    = "stdout"
)

// WithDefaults returns the settings with the defaults in place of what is not set: one sink, standard output, where none is named;
// the only sink as the default one; and every sink's queue and batching.
func (r Reports) WithDefaults() Reports {
	if len(r.Sinks) == 0 {
		r.Sinks = map[string]Sink{defaultSinkName: {Stdout: &StdoutSink{}}}
	}
	if len(r.DefaultSinks) == 0 && len(r.Sinks) == 1 {
		r.DefaultSinks = slices.Collect(maps.Keys(r.Sinks))
	}
	sinks := make(map[string]Sink, len(r.Sinks))
	for name, s := range r.Sinks {
		bytes := int64(defaultMemoryBytes)
		if r.Directory != "" {
			bytes = defaultDiskBytes
		}
		setDefault(&s.Queue.MaxBytes, bytes)
		setDefault(&s.Queue.Full, "refuse")
		setDefault(&s.Queue.FullWait, 50*time.Millisecond)
		setDefault(&s.Queue.Sync, "always")
		setDefault(&s.Batch.Records, 2000)
		setDefault(&s.Batch.Bytes, 1<<20)
		setDefault(&s.Batch.Wait, 200*time.Millisecond)
		setDefault(&s.Batch.Concurrency, 1)
		setDefault(&s.Batch.Timeout, 30*time.Second)
		setDefault(&s.Batch.Backoff, 100*time.Millisecond)
		setDefault(&s.Batch.MaxBackoff, 30*time.Second)
		if s.File != nil {
			file := *s.File
			setDefault(&file.Megabytes, 100)
			s.File = &file
		}
		sinks[name] = s
	}
	r.Sinks = sinks
	return r
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// minQueueBytes is room for four of the largest calls that queues take, or such calls would always be refused.
const minQueueBytes = 64 << 20

// simpleName is what a sink or a key set may be called: a metric label, and the name of a sink's directory.
var simpleName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// deadLetters is the directory of dead letters, beside those of the sinks' queues.
const deadLetters = "dead-letters"

func (r Reports) validate() []error {
	r = r.WithDefaults()
	var problems []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	names := slices.Sorted(maps.Keys(r.Sinks))
	add(len(r.DefaultSinks) == 0, "reports.default_sinks is missing; name at least one of %s", strings.Join(names, ", "))
	for i, name := range r.DefaultSinks {
		add(!slices.Contains(names, name), "reports.default_sinks has %q, which is no sink; use some of %s", name, strings.Join(names, ", "))
		add(slices.Contains(r.DefaultSinks[:i], name), "reports.default_sinks has %q twice; keep one", name)
	}
	add(r.Flush < 0 || r.Flush > time.Hour, "reports.flush is %s; use 0s to 1h0m0s", r.Flush)
	writers := map[string]string{} // by the paths of their files
	for _, name := range names {
		add(!simpleName.MatchString(name), "reports.sinks has %q; name a sink with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", name)
		add(name == deadLetters, "reports.sinks has %q, which is the directory of dead letters; choose another name", name)
		for _, problem := range r.Sinks[name].validate() {
			problems = append(problems, fmt.Errorf("reports.sinks.%s.%w", name, problem))
		}
		if f := r.Sinks[name].File; f != nil && f.Path != "" {
			path := filepath.Clean(f.Path)
			other, taken := writers[path]
			add(taken, "reports.sinks.%s.file.path is %q, which the sink %q writes; give each a file of its own", name, f.Path, other)
			writers[path] = name
		}
	}
	return problems
}

func (s Sink) validate() []error {
	var problems []error
	var kinds []string
	for _, kind := range s.kinds() {
		if kind.set {
			kinds = append(kinds, kind.key)
			problems = append(problems, kind.problems...)
		}
	}
	switch len(kinds) {
	case 1:
	case 0:
		problems = append(problems, fmt.Errorf("%s is missing; give the sink one of %s", sinkKinds()[0], strings.Join(sinkKinds(), ", ")))
	default:
		problems = append(problems, fmt.Errorf("%s stands beside %s; a sink is of one kind, so make two", kinds[0], strings.Join(kinds[1:], ", ")))
	}
	return append(problems, s.bounds()...)
}

type sinkKind struct {
	key      string
	set      bool
	problems []error
}

// kinds returns all kinds of sinks, with what is wrong with those that are set.
func (s Sink) kinds() []sinkKind {
	return []sinkKind{
		{key: "stdout", set: s.Stdout != nil},
		{key: "file", set: s.File != nil, problems: s.File.validate()},
		{key: "otlp", set: s.OTLP != nil},
		{key: "kafka", set: s.Kafka != nil},
		{key: "http", set: s.HTTP != nil},
		{key: "prometheus", set: s.Prometheus != nil},
	}
}

func sinkKinds() (keys []string) {
	for _, kind := range (Sink{}).kinds() {
		keys = append(keys, kind.key)
	}
	return keys
}

func (f *FileSink) validate() []error {
	if f == nil {
		return nil
	}
	var problems []error
	if f.Path == "" {
		problems = append(problems, errors.New(`file.path is ""; name a file`))
	}
	return append(problems, outOf([]bound{
		{"file.megabytes", int64(f.Megabytes), 1, 1 << 20, false},
		{"file.every", int64(f.Every), 0, int64(8760 * time.Hour), true},
		{"file.keep_days", int64(f.KeepDays), 0, 36500, false},
		{"file.keep_files", int64(f.KeepFiles), 0, 1 << 20, false},
	})...)
}

// bound is a number or a duration with what it may be.
type bound struct {
	key                string
	value, least, most int64
	isDuration         bool
}

func outOf(bounds []bound) (problems []error) {
	for _, b := range bounds {
		switch {
		case b.value >= b.least && b.value <= b.most:
		case b.isDuration:
			problems = append(problems, fmt.Errorf("%s is %s; use %s to %s", b.key, time.Duration(b.value), time.Duration(b.least), time.Duration(b.most)))
		default:
			problems = append(problems, fmt.Errorf("%s is %d; use %d to %d", b.key, b.value, b.least, b.most))
		}
	}
	return problems
}

func (s Sink) bounds() []error {
	q, b := s.Queue, s.Batch
	const year = int64(8760 * time.Hour)
	problems := outOf([]bound{
		{"queue.max_bytes", q.MaxBytes, minQueueBytes, 1 << 50, false},
		{"queue.max_age", int64(q.MaxAge), 0, year, true},
		{"queue.full_wait", int64(q.FullWait), int64(time.Millisecond), int64(time.Second), true},
		{"batch.records", int64(b.Records), 1, 1 << 20, false},
		{"batch.bytes", int64(b.Bytes), 1 << 10, 64 << 20, false},
		{"batch.wait", int64(b.Wait), int64(time.Millisecond), int64(time.Minute), true},
		{"batch.concurrency", int64(b.Concurrency), 1, 256, false},
		{"batch.timeout", int64(b.Timeout), int64(10 * time.Millisecond), int64(time.Hour), true},
		{"batch.backoff", int64(b.Backoff), int64(time.Millisecond), int64(time.Hour), true},
		{"batch.max_backoff", int64(b.MaxBackoff), int64(b.Backoff), int64(time.Hour), true},
		{"batch.give_up_after", int64(b.GiveUpAfter), 0, year, true},
	})
	if !slices.Contains([]string{"refuse", "drop_oldest", "drop_newest"}, q.Full) {
		problems = append(problems, fmt.Errorf("queue.full is %q; use refuse, drop_oldest or drop_newest", q.Full))
	}
	if q.Sync != "always" && q.Sync != "os" {
		problems = append(problems, fmt.Errorf("queue.sync is %q; use always or os", q.Sync))
	}
	return problems
}
