package kafka

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// Options say where records go and how.
type Options struct {
	// Brokers are some of the cluster's, as host:port; at least one. The others are learned from them.
	Brokers []string
	// Topic takes the records. It must exist: this sink creates none.
	Topic string
	// TLS secures the connections.
	TLS client.TLS
	// SASL says who we are to the brokers.
	SASL SASL
	// Compression is of the batches: "zstd" (the default), "snappy", "lz4", "gzip" or "none". Brokers that do not know it get none.
	Compression string
	// Key is what a record's key is, which decides about its partition.
	Key Key
	// MaxMessageBytes bounds a Kafka batch before compression, and with it a record; from 1024 to 64 MiB, default 1000000. Brokers
	// and topics have a bound of their own, message.max.bytes and max.message.bytes.
	MaxMessageBytes int
}

// SASL is how we log in to brokers. Files are read at every login.
type SASL struct {
	// Mechanism is "plain", "scram-sha-256" or "scram-sha-512"; empty for no login.
	Mechanism string
	// User and Password are needed with a mechanism.
	User, Password client.Credential
}

// Key says what the keys of Kafka records are.
type Key string

// The keys.
const (
	// KeyRecord, the default, is the record's id: records spread evenly, and a compacted topic keeps one of those that came twice.
	KeyRecord Key = "record"
	// KeyHandler is the handler's name.
	KeyHandler Key = "handler"
	// KeyInstance is the instance's full name; the record's id where it has none.
	KeyInstance Key = "instance"
	// KeyTrace is a span's trace id; the record's id for all other records, and for spans without one.
	KeyTrace Key = "trace"
)

const (
	defaultMessageBytes = 1_000_000
	minMessageBytes     = 1 << 10
	maxMessageBytes     = 64 << 20
)

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// Validate returns all that is wrong with the options. It reads no file.
func (o Options) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if len(o.Brokers) == 0 {
		problem("brokers is empty; name at least one as host:port")
	}
	for i, broker := range o.Brokers {
		host, port, err := net.SplitHostPort(broker)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
			problem("brokers[%d] is %q; write host:port", i, broker)
		}
	}
	if !topicName.MatchString(o.Topic) || o.Topic == "." || o.Topic == ".." {
		problem("topic is %q; use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'", o.Topic)
	}
	if err := o.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	problems = append(problems, o.SASL.validate()...)
	if _, err := o.codec(); err != nil {
		problems = append(problems, err)
	}
	switch o.Key {
	case "", KeyRecord, KeyHandler, KeyInstance, KeyTrace:
	default:
		problem("key is %q; use record, handler, instance or trace", o.Key)
	}
	if n := o.MaxMessageBytes; n != 0 && (n < minMessageBytes || n > maxMessageBytes) {
		problem("max_message_bytes is %d; use %d to %d", n, minMessageBytes, maxMessageBytes)
	}
	return errors.Join(problems...)
}

func (s SASL) validate() (problems []error) {
	files := []struct{ key, value string }{{"sasl.user.file", s.User.File}, {"sasl.password.file", s.Password.File}}
	switch s.Mechanism {
	case "":
		for _, f := range files {
			if f.value != "" {
				problems = append(problems, fmt.Errorf("%s is %q without a sasl.mechanism; name one, or remove it", f.key, f.value))
			}
		}
	case mechanismPlain, mechanismSCRAM256, mechanismSCRAM512:
		for _, f := range files {
			if f.value == "" {
				problems = append(problems, fmt.Errorf("%s is empty; sasl.mechanism %q needs it", f.key, s.Mechanism))
			}
		}
	default:
		problems = append(problems, fmt.Errorf("sasl.mechanism is %q; use plain, scram-sha-256 or scram-sha-512", s.Mechanism))
	}
	return problems
}

const (
	mechanismPlain    = "plain"
	mechanismSCRAM256 = "scram-sha-256"
	mechanismSCRAM512 = "scram-sha-512"
)

func (o Options) codec() (kgo.CompressionCodec, error) {
	switch o.Compression {
	case "", "zstd":
		return kgo.ZstdCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "none":
		return kgo.NoCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("compression is %q; use zstd, snappy, lz4, gzip or none", o.Compression)
}
