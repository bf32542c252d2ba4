package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const metadataMinAge = 500 * time.Millisecond

// clientOptions say how the library works for us. What it does without being told: idempotent, acknowledged by all in-sync
// replicas, no creation of topics, and retries that keep order and end only with the client, which an attempt's end closes. They are for
// one client, as long as its life is: the library writes into some of them.
func clientOptions(life context.Context, o Options, logger *slog.Logger) ([]kgo.Opt, error) {
	codec, err := o.codec()
	if err != nil {
		return nil, err
	}
	size := o.MaxMessageBytes
	if size == 0 {
		size = defaultMessageBytes
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID("tollgate"),
		kgo.WithLogger(libraryLog{logger}),
		kgo.WithContext(life),
		kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			const timeout = 10 * time.Second
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return o.TLS.Dial(ctx, network, address)
		}),
		kgo.DefaultProduceTopic(o.Topic),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(size)),
		// How long a partition that moved waits at least for its new leader. The library's own 5 s are most of an attempt.
		kgo.MetadataMinAge(metadataMinAge),
		// A batch is all that there is to buffer: take it whole, then send it.
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(math.MaxInt),
		kgo.DisableClientMetrics(),
	}
	if o.SASL.Mechanism != "" {
		options = append(options, kgo.SASL(o.SASL.login()))
	}
	return options, nil
}

// login reads user and password whenever a broker asks.
func (s SASL) login() sasl.Mechanism {
	read := func() (user, password string, err error) {
		if user, err = s.User.Read(); err != nil {
			return "", "", fmt.Errorf("sasl.user.file: %w", err)
		}
		if password, err = s.Password.Read(); err != nil {
			return "", "", fmt.Errorf("sasl.password.file: %w", err)
		}
		return user, password, nil
	}
	if s.Mechanism == mechanismPlain {
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			user, password, err := read()
			return plain.Auth{User: user, Pass: password}, err
		})
	}
	auth := func(context.Context) (scram.Auth, error) {
		user, password, err := read()
		return scram.Auth{User: user, Pass: password}, err
	}
	if s.Mechanism == mechanismSCRAM256 {
		return scram.Sha256(auth)
	}
	return scram.Sha512(auth)
}

// libraryLog is for who looks for a fault; what matters comes as errors.
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Level() kgo.LogLevel {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l libraryLog) Log(_ kgo.LogLevel, message string, pairs ...any) {
	l.logger.Debug("kafka client", "event", message, "details", fmt.Sprintf("%v", pairs))
}
