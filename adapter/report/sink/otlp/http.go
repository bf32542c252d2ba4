package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

const contentType = "application/x-protobuf"

// longestAnswer is how much of an answer is read. One that says what was rejected is far shorter.
const longestAnswer = 64 << 10

// httpExporter sends protobuf over HTTP/1.1. HTTP/2 would put all requests on one connection, and one that is dead without a word
// would take all of them along; so each attempt that is cut off takes only its own.
type httpExporter struct {
	options *Options
	client  *http.Client
	gzips   sync.Pool // *gzip.Writer
}

func newHTTPExporter(o *Options) (*httpExporter, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, err
	}
	config, err := o.tls(u.Hostname()).Config()
	if err != nil {
		return nil, err
	}
	return &httpExporter{options: o, client: &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     config,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     time.Minute,
			Protocols:           http1(),
		},
		// A redirect may lead anywhere, and the headers are for the endpoint alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

func (h *httpExporter) export(ctx context.Context, r *request) error {
	headers, err := h.options.headers()
	if err != nil {
		return err
	}
	body, err := h.body(r.message)
	if err != nil {
		return err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(h.options.Endpoint, "/")+r.signal.path(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	post.Header.Set("User-Agent", "tollgate")
	for name, value := range headers {
		post.Header.Set(name, value)
	}
	post.Header.Set("Content-Type", contentType)
	if h.options.Compression != compressionNone {
		post.Header.Set("Content-Encoding", "gzip")
	}
	answer, err := h.client.Do(post)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, longestAnswer))
	if answer.StatusCode/100 != 2 {
		return classifyHTTP(answer.StatusCode, answer.Header, redact(message(content), headers))
	}
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return read(answer.Header.Get("Content-Type"), content, r.answer)
}

// body marshals and compresses.
func (h *httpExporter) body(m proto.Message) ([]byte, error) {
	raw, err := proto.Marshal(m)
	if err != nil || h.options.Compression == compressionNone {
		return raw, err
	}
	w, ok := h.gzips.Get().(*gzip.Writer)
	if !ok {
		if w, err = gzip.NewWriterLevel(nil, gzip.BestSpeed); err != nil {
			return nil, err
		}
	}
	defer h.gzips.Put(w)
	var compressed bytes.Buffer
	w.Reset(&compressed)
	if _, err = w.Write(raw); err != nil {
		return nil, err
	}
	err = w.Close()
	return compressed.Bytes(), err
}

// message is what a refusal says, which should be a google.rpc.Status.
func message(content []byte) string {
	var s spb.Status
	if err := proto.Unmarshal(content, &s); err == nil && s.GetMessage() != "" {
		return s.GetMessage()
	}
	return string(bytes.TrimSpace(content))
}

// read reads the answer of a success. Some servers answer with something that is no OTLP and mean well; but a web page means
// that a web server took the records for a form.
func read(mediaType string, content []byte, answer proto.Message) error {
	mediaType, _, _ = mime.ParseMediaType(mediaType) // one that cannot be read is none
	switch mediaType {
	case contentType:
		if err := proto.Unmarshal(content, answer); err != nil {
			return errors.New("the answer is no OTLP; check the endpoint")
		}
	case "text/html":
		return errors.New("the answer is a web page; check the endpoint")
	}
	return nil
}

func (h *httpExporter) close() error {
	h.client.CloseIdleConnections()
	return nil
}
