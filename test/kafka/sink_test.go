package kafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/kafka"
)

func TestEachRecordArrivesOnce(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
	var workers sync.WaitGroup
	var batches [][]record.Record
	for sequence := range uint64(40) {
		batches = append(batches, batch(sequence, 250))
	}
	for worker := range 4 {
		workers.Go(func() {
			for i := worker; i < len(batches); i += 4 {
				assert.NoError(t, sink.Deliver(t.Context(), batches[i]))
			}
		})
	}
	workers.Wait()
	requireOnce(t, c, batches...)
}

func TestMessages(t *testing.T) {
	for compression, code := range map[string]uint8{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "": 4} {
		t.Run(compression, func(t *testing.T) {
			c := newFakeCluster(t)
			sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), Compression: compression})
			records := batch(7, 100)
			require.NoError(t, sink.Deliver(t.Context(), records))
			all := consume(t, topic, kgo.SeedBrokers(c.ListenAddrs()...))
			require.Len(t, all, len(records))
			partitions := map[int32]bool{}
			byID := map[string]stored{}
			for _, s := range all {
				partitions[s.Partition] = true
				byID[s.ID] = s
			}
			assert.Len(t, partitions, 4, "ids spread over the partitions")
			for i := range records {
				got := byID[records[i].ID()]
				line, err := record.AppendJSON(nil, &records[i])
				require.NoError(t, err)
				assert.Equal(t, string(line), string(got.Value))
				assert.Equal(t, records[i].ID(), string(got.Key))
				assert.Equal(t, code, got.Attrs.CompressionType())
				assert.True(t, records[i].Arrived.Equal(got.Timestamp))
				assert.Equal(t, []kgo.RecordHeader{
					{Key: "tollgate-record-id", Value: []byte(records[i].ID())},
					{Key: "tollgate-kind", Value: []byte("reportnothing")},
					{Key: "tollgate-handler", Value: []byte("bookinfo")},
				}, got.Headers)
			}
		})
	}
}

func TestOrderWithinAKey(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), Key: kafka.KeyHandler})
	for sequence := range uint64(10) {
		require.NoError(t, sink.Deliver(t.Context(), batch(sequence, 50)))
	}
	all := consume(t, topic, kgo.SeedBrokers(c.ListenAddrs()...))
	var want, got []string
	for sequence := range uint64(10) {
		want = append(want, ids(batch(sequence, 50))...)
	}
	for _, s := range all {
		got = append(got, s.ID)
	}
	assert.Equal(t, want, got)
}

// What the brokers answer to a produce request, once or more often, and what comes of it within one attempt.
func TestAnswersThatPass(t *testing.T) {
	for _, answer := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.NotEnoughReplicas,
		// These are answered although the records are stored. The broker knows them when they come again.
		kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend,
		// These end a producer id. The library gets itself another.
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch,
	} {
		t.Run(answer.Message, func(t *testing.T) {
			c := newFakeCluster(t)
			sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
			first, second, third := batch(1, 10), batch(2, 10), batch(3, 10)
			require.NoError(t, sink.Deliver(t.Context(), first))
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: answer, Count: 2})
			require.NoError(t, sink.Deliver(t.Context(), second))
			assert.Positive(t, fault.Hits())
			require.NoError(t, sink.Deliver(t.Context(), third))
			requireOnce(t, c, first, second, third)
		})
	}
}

// What an operator has to change is tried again, with the same sink, until it is changed.
func TestMistakesOfOperators(t *testing.T) {
	for name, fault := range map[string]kfake.Fault{
		"may not write":         {Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed},
		"may not look":          {Keys: []kmsg.Key{kmsg.Metadata}, Topic: topic, Err: kerr.TopicAuthorizationFailed},
		"may not be idempotent": {Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.ClusterAuthorizationFailed},
		"policy":                {Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.PolicyViolation},
		"storage":               {Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.UnknownServerError},
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t)
			sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
			fault.Count = -1
			handle := c.Fault(fault)
			records := batch(1, 10)
			for range 2 {
				err := sink.Deliver(t.Context(), records)
				requireRetryable(t, err)
				require.ErrorIs(t, err, fault.Err)
			}
			handle.Remove()
			require.NoError(t, sink.Deliver(t.Context(), records))
			requireOnce(t, c, records)
		})
	}
}

func TestUnknownTopic(t *testing.T) {
	c := newFakeCluster(t, kfake.AllowAutoTopicCreation())
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), Topic: "later"})
	err := sink.Deliver(t.Context(), batch(1, 3))
	requireRetryable(t, err)
	require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
	assert.Nil(t, c.TopicInfo("later"), "nobody but its owner makes a topic")
	require.NoError(t, c.CreateTopic("later", 2, nil))
	require.NoError(t, sink.Deliver(t.Context(), batch(1, 3)))
	assert.Len(t, consume(t, "later", kgo.SeedBrokers(c.ListenAddrs()...)), 3)
}

// One record among many that the brokers do not want takes no other with it, although they answer for whole Kafka batches.
func TestPoison(t *testing.T) {
	for _, answer := range []*kerr.Error{kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.MessageTooLarge} {
		t.Run(answer.Message, func(t *testing.T) {
			c := newFakeCluster(t)
			sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), Compression: "none"})
			records := batch(1, 200)
			poisoned := []byte(records[77].ID() + `"`)
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: answer, Count: -1, When: func(r kmsg.Request) bool {
				request, ok := r.(*kmsg.ProduceRequest)
				if !ok {
					return false
				}
				for _, t := range request.Topics {
					for _, p := range t.Partitions {
						if bytes.Contains(p.Records, poisoned) {
							return true
						}
					}
				}
				return false
			}})
			err := sink.Deliver(t.Context(), records)
			assert.Equal(t, []int{77}, refusedForGood(t, err))
			require.ErrorIs(t, err, answer)
			good := append(batch(1, 77), records[78:]...)
			next := batch(2, 50)
			require.NoError(t, sink.Deliver(t.Context(), next), "the producer goes on")
			requireOnce(t, c, good, next)
		})
	}
}

// The fake broker measures batches like a real one.
func TestTooLargeForTheTopic(t *testing.T) {
	c := newFakeCluster(t)
	require.NoError(t, c.CreateTopic("small", 1, map[string]string{"max.message.bytes": "20000"}))
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), Topic: "small", Compression: "none"})
	records := batch(1, 300) // about 90 kB
	require.NoError(t, sink.Deliver(t.Context(), records), "together too large, in parts not")
	records = batch(2, 300)
	records[5].Raw = nothing(random(t, 30_000))
	assert.Equal(t, []int{5}, refusedForGood(t, sink.Deliver(t.Context(), records)))
	count := times(consume(t, "small", kgo.SeedBrokers(c.ListenAddrs()...)))
	assert.Len(t, count, 599)
	for id, n := range count {
		assert.Equal(t, 1, n, id)
	}
}

func TestTooLargeForUs(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), MaxMessageBytes: 2000})
	records := batch(1, 100)
	records[3].Raw = nothing(random(t, 3000))
	records[4].Raw = "\xff"
	assert.Equal(t, []int{3, 4}, refusedForGood(t, sink.Deliver(t.Context(), records)))
	requireOnce(t, c, records[:3], records[5:])
}

func random(t *testing.T, n int) string {
	t.Helper()
	bytes := make([]byte, n)
	_, err := rand.Read(bytes)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(bytes)
}

// A partition that is away for longer than an attempt makes no duplicates in the others.
func TestPartitionAway(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
	require.NoError(t, sink.Deliver(t.Context(), batch(2, 10)), "so that the first attempt is not spent on connecting")
	away := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{2}, Err: kerr.NotLeaderForPartition, Count: -1})
	records := batch(1, 400)
	left := records
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		asked := away.Hits()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			defer cancel()
			// The third time it is asked after the second answer was read, and with that what the others answered.
			assert.NoError(t, away.Wait(ctx, asked+3))
		})
		err := sink.Deliver(overdue{ctx}, left)
		cancel()
		waiting.Wait()
		requireRetryable(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "not acknowledged")
		u, ok := errors.AsType[*report.Undelivered](err)
		require.True(t, ok)
		if u.Records == nil {
			continue // all of them
		}
		var rest []record.Record // what a lane delivers again
		for _, i := range u.Records {
			rest = append(rest, left[i])
		}
		left = rest
	}
	assert.Less(t, len(left), 200, "the other three partitions have theirs")
	away.Remove()
	require.NoError(t, sink.Deliver(t.Context(), left))
	requireOnce(t, c, batch(2, 10), records)
}

// overdue is a context whose time is over when the one in it is done.
type overdue struct{ context.Context }

func (o overdue) Err() error {
	if o.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

// A broker that hangs costs the attempt and no more.
func TestHang(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
	require.NoError(t, sink.Deliver(t.Context(), batch(1, 10)))

	arrived, release := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		select {
		case arrived <- struct{}{}:
		case <-release:
		}
		c.SleepControl(func() { <-release })
		return nil, nil, false
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sink.Deliver(ctx, batch(2, 10)) }()
	<-arrived
	cancel()
	err := <-done
	requireRetryable(t, err)
	require.ErrorIs(t, err, context.Canceled)
	close(release)

	require.NoError(t, sink.Deliver(t.Context(), batch(2, 10)))
	count := times(consume(t, topic, kgo.SeedBrokers(c.ListenAddrs()...)))
	assert.Len(t, count, 20)
	for id, n := range count {
		assert.LessOrEqual(t, n, 2, "%s: once for each attempt without an answer, and once for the last", id)
	}
}

// The connection breaks before the answer; within the attempt the library asks again, and the broker knows its records.
func TestConnectionBreaks(t *testing.T) {
	c := newFakeCluster(t)
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs()})
	require.NoError(t, sink.Deliver(t.Context(), batch(1, 10)))
	broken := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if broken++; broken == 3 {
			c.DropControl()
		}
		return nil, errors.New("a fake reset"), true
	})
	require.NoError(t, sink.Deliver(t.Context(), batch(2, 10)))
	assert.Equal(t, 3, broken)
	requireOnce(t, c, batch(1, 10), batch(2, 10))
}

func TestSASL(t *testing.T) {
	for mechanism, kafkas := range map[string]string{"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			const planted = "s3cret"
			c := newFakeCluster(t, kfake.EnableSASL(), kfake.Superuser(kafkas, "us", planted), kfake.Superuser("PLAIN", "reader", "reader"))
			dir := t.TempDir()
			user, password := client.Credential{File: filepath.Join(dir, "user")}, client.Credential{File: filepath.Join(dir, "password")}
			sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), SASL: kafka.SASL{Mechanism: mechanism, User: user, Password: password}})
			require.ErrorContains(t, sink.Deliver(t.Context(), batch(1, 10)), "sasl.user.file")
			require.NoError(t, os.WriteFile(user.File, []byte("us\n"), 0o600))
			require.ErrorContains(t, sink.Deliver(t.Context(), batch(1, 10)), "sasl.password.file")

			require.NoError(t, os.WriteFile(password.File, []byte("not "+planted), 0o600))
			err := sink.Deliver(t.Context(), batch(1, 10)) // the fake broker hangs up without a word
			requireRetryable(t, err)
			assert.NotContains(t, err.Error(), planted)

			require.NoError(t, os.WriteFile(password.File, []byte(planted+"\n"), 0o600))
			c.ControlKey(int16(kmsg.SASLAuthenticate), func(r kmsg.Request) (kmsg.Response, error, bool) {
				response := kmsg.NewPtrSASLAuthenticateResponse()
				response.Version, response.ErrorCode = r.GetVersion(), kerr.SaslAuthenticationFailed.Code // as a real one does
				return response, nil, true
			})
			err = sink.Deliver(t.Context(), batch(1, 10))
			requireRetryable(t, err)
			require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
			require.NoError(t, sink.Deliver(t.Context(), batch(1, 10)))
		})
	}
}

func TestTLS(t *testing.T) {
	lent := httptest.NewUnstartedServer(nil) // its certificate is for 127.0.0.1 too
	lent.StartTLS()
	defer lent.Close()
	c := newFakeCluster(t, kfake.TLS(&tls.Config{Certificates: lent.TLS.Certificates, MinVersion: tls.VersionTLS12}))
	ca := filepath.Join(t.TempDir(), "ca")
	sink := open(t, kafka.Options{Brokers: c.ListenAddrs(), TLS: client.TLS{Enabled: true, CA: ca}})
	require.ErrorIs(t, sink.Deliver(t.Context(), batch(1, 10)), os.ErrNotExist)
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: lent.Certificate().Raw}), 0o600))
	require.NoError(t, sink.Deliver(t.Context(), batch(1, 10)))

	for name, o := range map[string]client.TLS{
		"the system's CAs": {Enabled: true},
		"another name":     {Enabled: true, CA: ca, ServerName: "other.test"},
	} {
		err := open(t, kafka.Options{Brokers: c.ListenAddrs(), TLS: o}).Deliver(t.Context(), batch(2, 1))
		requireRetryable(t, err)
		require.ErrorContains(t, err, "x509", name)
	}
}
