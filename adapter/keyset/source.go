package keyset

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// readFile returns at most one byte more than a key set may have.
func readFile(path string) ([]byte, error) {
	// To open a named pipe would wait for somebody to write.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, maxBytes+1))
}

// fetch returns at most one byte more than a key set may have. Its errors show nothing of the address, which may have a credential,
// but what kind of trouble there was. Connections are not kept: minutes pass between two fetches.
func fetch(ctx context.Context, address, ca string) ([]byte, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		// Read each time, so that it can be replaced.
		certificates, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(certificates) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", ca)
		}
	}
	const maxHeaderBytes = 64 << 10
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, ForceAttemptHTTP2: true, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it answers with a redirect; write the address that it leads to")
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, withoutAddress(err)
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutAddress(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers with HTTP status %d", response.StatusCode)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxBytes+1))
}

func withoutAddress(err error) error {
	if with, ok := errors.AsType[*url.Error](err); ok {
		return with.Err
	}
	return err
}

// settle lets a burst of events end before the file is read.
const settle = 50 * time.Millisecond

// watch tells of changes in the file's directory until it is stopped: files are replaced by a rename. Where the system reports none,
// changes are found by looking now and then.
func (s *Set) watch(ctx context.Context) (changed <-chan struct{}, stop func()) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(filepath.Dir(s.source.File)); err != nil {
			_ = watcher.Close()
		}
	}
	if err != nil {
		s.logger.Warn("a key set's file is looked at every 30s, because its directory cannot be watched", "error", err)
		return nil, func() {}
	}
	events := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-watcher.Events:
				if !ok {
					return
				}
			case err, ok := <-watcher.Errors:
				if !ok {
					return
				}
				s.logger.Warn("watching a key set's file", "error", err) // an event may be lost, so it is looked at
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, func() {
		_ = watcher.Close()
		<-done
	}
}
