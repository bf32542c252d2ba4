// Package httpsink sends records to a web server, as batches of JSON lines.
package httpsink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

const headerIdempotency = "Idempotency-Key"

// askFirst is the size of a request from which on the server is asked whether it wants it. One that answers 413 and closes the connection
// while we write might otherwise not be heard.
const askFirst = 64 << 10

// Sink sends to one URL. A batch is delivered when the server answers with a 2xx status: what that means for its disk is the server's
// affair. A batch comes again when its answer was lost: at most once more for each attempt that failed, and once for a crash, with
// the same ids, and as long as it is the same records with the same Idempotency-Key. An idle connection that the server had already
// closed is not an attempt: the same request is sent again at once on another.
type Sink struct {
	options Options
	client  *http.Client
	parts   client.Parts
	bodies  sync.Pool // of *body
}

// New returns a sink. It connects to nobody.
func New(o Options, _ *slog.Logger) (*Sink, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	config, err := o.TLS.Config()
	if err != nil {
		return nil, err
	}
	return &Sink{options: o, client: newClient(config), bodies: sync.Pool{New: func() any { return newBody() }}}, nil
}

// newClient has no time limits of its own where a request's context has one.
func newClient(config *tls.Config) *http.Client {
	const (
		handshake       = 10 * time.Second
		goAhead         = time.Second // then it is sent anyway
		idle            = 90 * time.Second
		idleConnections = 16
		headerBytes     = 64 << 10
	)
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    handshake,
			ExpectContinueTimeout:  goAhead,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // of answers, which nobody reads
			MaxIdleConns:           idleConnections,
			MaxIdleConnsPerHost:    idleConnections,
			IdleConnTimeout:        idle,
			MaxResponseHeaderBytes: headerBytes,
		},
		// Neither records nor credentials go where nobody configured them to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Deliver sends a batch and waits for the answer. Where a batch of several is refused for what is in it (400, 413, 422) it is sent again
// in halves until the refused ones are alone.
func (s *Sink) Deliver(ctx context.Context, batch []record.Record) error {
	return s.parts.Deliver(ctx, batch, s.send)
}

func (s *Sink) send(ctx context.Context, part []record.Record) error {
	pooled, _ := s.bodies.Get().(*body)
	defer s.bodies.Put(pooled)
	content, unwritable, cause := pooled.build(ctx, part, s.options.Compression)
	if cause != nil && unwritable == nil {
		return cause // there is nothing to send
	}
	if len(unwritable) < len(part) {
		request, err := s.request(ctx, content, idempotencyKey(part))
		if err != nil {
			return err
		}
		response, err := s.client.Do(request)
		if err != nil {
			return withoutURL(err)
		}
		defer response.Body.Close()
		defer discard(response.Body)
		if err := verdict(response, len(part)); err != nil {
			return err
		}
	}
	if unwritable != nil {
		return &report.Undelivered{Permanent: true, Records: unwritable, Err: cause}
	}
	return nil
}

func (s *Sink) request(ctx context.Context, content []byte, key string) (*http.Request, error) {
	credential, err := s.options.Credential.Read()
	if err != nil {
		return nil, fmt.Errorf("credential.file: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, s.options.Method, s.options.URL, bytes.NewReader(content))
	if err != nil {
		return nil, withoutURL(err)
	}
	for name, value := range s.options.Headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set(headerIdempotency, key)
	if len(content) > askFirst {
		request.Header.Set("Expect", "100-continue")
	}
	if s.options.Compression == compressionGzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	if credential != "" {
		if http.CanonicalHeaderKey(s.options.CredentialHeader) == credentialHeaderDefault && !strings.Contains(credential, " ") {
			credential = "Bearer " + credential
		}
		request.Header.Set(s.options.CredentialHeader, credential)
	}
	return request, nil
}

// withoutURL returns the cause of an error of net/http without the URL, whose query may hold a token.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// discard reads as much of an answer as is worth a connection. Nothing of it is ever told: servers like to quote what they
// were sent.
func discard(answer io.Reader) {
	const limit = 4 << 10
	_, _ = io.CopyN(io.Discard, answer, limit)
}

// Close closes idle connections.
func (s *Sink) Close(context.Context) error {
	s.client.CloseIdleConnections()
	return nil
}

// body is memory for requests.
type body struct {
	lines []byte
	gzip  *gzip.Writer
}

const keptLines = 4 << 20

func newBody() *body { return &body{gzip: gzip.NewWriter(nil)} }

// build returns the records as JSON lines, but for those that cannot be written, whose indices it returns, with why the first cannot; or a
// cause alone. The content is not used again: net/http may read it until long after the answer has come.
func (b *body) build(ctx context.Context, part []record.Record, compression string) (content []byte, unwritable []int, cause error) {
	lines := b.lines[:0]
	for i := range pace.Over(ctx, part) {
		var err error
		if lines, err = record.AppendJSON(lines, &part[i]); err != nil {
			unwritable = append(unwritable, i)
			if cause == nil {
				cause = fmt.Errorf("record %s cannot be written as JSON: %w", part[i].ID(), err)
			}
			continue
		}
		lines = append(lines, '\n')
	}
	b.lines = lines
	if cap(lines) > keptLines {
		b.lines = nil
	}
	if compression != compressionGzip {
		return bytes.Clone(lines), unwritable, cause
	}
	const usualRatio = 8
	compressed := bytes.NewBuffer(make([]byte, 0, len(lines)/usualRatio))
	b.gzip.Reset(compressed)
	_, writeErr := b.gzip.Write(lines)
	if err := errors.Join(writeErr, b.gzip.Close()); err != nil { // a buffer takes all
		return nil, nil, err
	}
	return compressed.Bytes(), unwritable, cause
}
