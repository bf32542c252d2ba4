package connections

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// idleEnv is how many idle connections there are: 10 000, over plaintext. With tlsEnv they are TLS, whose handshakes take a minute.
const (
	idleEnv = "TOLLGATE_IDLE"
	tlsEnv  = "TOLLGATE_IDLE_TLS"
)

// long is how long those attacks go on that do not end by themselves.
const long = 2 * time.Second

const (
	healthWatch = "/grpc.health.v1.Health/Watch"
	// hasty and watchful make those ends come soon that are to come. A busy machine may need as long for a good caller, so others have what is usual.
	hasty    = "connections: {handshake_timeout: 5s}"
	watchful = "connections: {keepalive: 1s, keepalive_timeout: 10s}"
	// connectionsEach is how many connections an attack opens, unless it needs more.
	connectionsEach = 50
)

// attack is something that no good caller does.
type attack struct {
	// do does it until it has seen what must become of it, or ctx is done. An error says that something else became of it.
	do func(ctx context.Context, s *site) error
	// mebibytes is how much larger the process may become by it.
	mebibytes int64
	settings  string        // further ones
	plaintext bool          // at a port without TLS
	within    time.Duration // what it may take; twice the patience if zero
}

var attacks = map[string]attack{
	"connections that say nothing": {mebibytes: 48, settings: hasty, do: each(connectionsEach, func(ctx context.Context, s *site, i int) error {
		connection, err := s.raw(ctx, i)
		if err != nil {
			return err
		}
		return drain(connection)
	})},
	"connections that stop after TLS": {mebibytes: 48, settings: hasty, do: each(connectionsEach, func(ctx context.Context, s *site, i int) error {
		connection, err := s.secureInTime(ctx, i)
		if err != nil {
			return err
		}
		return drain(connection)
	})},
	"a preface byte by byte": {mebibytes: 48, settings: hasty, do: each(connectionsEach, func(ctx context.Context, s *site, i int) error {
		connection, err := s.secureInTime(ctx, i)
		if err != nil {
			return err
		}
		return trickle(ctx, connection, []byte(http2.ClientPreface), time.Second)
	})},
	"headers byte by byte": {mebibytes: 48, do: holding(func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		go drain(h)
		return trickle(ctx, h, frame(http2.FrameHeaders, 1, h.header(mixertest.Method)), 100*time.Millisecond)
	})},
	"checks byte by byte": {mebibytes: 64, do: holding(func(ctx context.Context, s *site, i int) error {
		return slowBodies(ctx, s, i, mixertest.Method)
	})},
	"reports byte by byte": {mebibytes: 64, do: holding(func(ctx context.Context, s *site, i int) error {
		return slowBodies(ctx, s, i, mixertest.LogEntryMethod)
	})},
	"callers that are gone without a word": {mebibytes: 48, settings: watchful, do: each(connectionsEach, func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		return drain(h) // it answers no ping
	})},
	"garbage": {mebibytes: 48, do: each(connectionsEach, sending(false, func() []byte {
		garbage := make([]byte, 64<<10)
		_, _ = rand.Read(garbage)
		return garbage
	}))},
	"garbage after TLS": {mebibytes: 48, do: each(connectionsEach, sending(true, func() []byte { return bytes.Repeat([]byte("garbage "), 8<<10) }))},
	"garbage after the preface": {mebibytes: 48, do: each(connectionsEach, sending(true, func() []byte {
		return append([]byte(http2.ClientPreface), bytes.Repeat([]byte{0xff}, 64<<10)...)
	}))},
	"garbage without TLS": {mebibytes: 48, plaintext: true, do: each(connectionsEach, sending(false, func() []byte { return make([]byte, 64<<10) }))},
	"plaintext HTTP/2 on the TLS port": {mebibytes: 48, do: each(connectionsEach, sending(false, func() []byte {
		return append([]byte(http2.ClientPreface), frame(http2.FrameSettings, 0, nil)...)
	}))},
	"HTTP/1.1": {mebibytes: 48, do: each(connectionsEach, sending(true, func() []byte { return []byte("GET / HTTP/1.1\r\nHost: tollgate\r\n\r\n") }))},
	"headers that are too large": {mebibytes: 128, do: each(connectionsEach, func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		// 128 KiB in headers, which a frame has no room for.
		block := h.header(mixertest.Method, hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 128<<10), Sensitive: true})
		if h.writeBlock(1, block) != nil {
			return nil // the server had enough of it
		}
		return h.refuses(ctx, 1)
	})},
	"headers without an end": {mebibytes: 64, do: each(10, func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		go endless(ctx, func() error {
			h.fields.Reset()
			_ = h.encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 8<<10), Sensitive: true})
			return h.WriteContinuation(1, false, h.fields.Bytes())
		}, h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.header(mixertest.Method)}))
		return drain(h)
	})},
	"streams without an end": {mebibytes: 128, do: holding(func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		go drain(h)
		for n := range uint32(100) {
			if err := h.open(2*n+1, healthWatch); err != nil {
				return err
			}
			if err := h.WriteData(2*n+1, true, message(nil)); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return nil
	})},
	"more streams than there may be": {mebibytes: 128, do: each(4, func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		const tooMany = 1024 // those of connections.streams, and one more
		for n := range uint32(tooMany + 1) {
			if err := h.open(2*n+1, mixertest.Method); err != nil {
				return err
			}
		}
		return h.refuses(ctx, 2*tooMany+1)
	})},
	// Up to connections.streams of them are under way on each connection at some 20 KiB, of which the collector lets five times as much pile up.
	"streams that are opened and reset": {mebibytes: 768, do: holding(func(ctx context.Context, s *site, i int) error {
		if i >= 4 {
			return nil
		}
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		go drain(h)
		body := message(checkCall())
		stream := uint32(1)
		endless(ctx, func() error {
			err := errors.Join(h.open(stream, mixertest.Method), h.WriteData(stream, true, body), h.WriteRSTStream(stream, http2.ErrCodeCancel))
			stream += 2
			return err
		}, nil)
		return nil
	})},
	"settings that nobody reads the answers to": {mebibytes: 64, do: holding(func(ctx context.Context, s *site, i int) error {
		if i >= 4 {
			return nil
		}
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		endless(ctx, func() error { return h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }, nil)
		return nil
	})},
	"pings": {mebibytes: 96, do: each(4, func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i)
		if err != nil {
			return err
		}
		go endless(ctx, func() error { return h.WritePing(false, [8]byte{}) }, nil)
		return drain(h)
	})},
	"answers that nobody reads": {mebibytes: 128, do: holding(func(ctx context.Context, s *site, i int) error {
		h, err := s.session(ctx, i, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		if err != nil {
			return err
		}
		body := message(checkCall())
		for n := range uint32(200) {
			if err := errors.Join(h.open(2*n+1, mixertest.Method), h.WriteData(2*n+1, true, body)); err != nil {
				return nil // its window for the connection is full, or the server had enough
			}
		}
		<-ctx.Done()
		return nil
	})},
}

// Whatever others do with their connections: a caller who means well is answered, the process stays within bounds, and when the others
// have gone nothing of them is left.
func TestHostileConnections(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withstand(t, newSite(t, !attack.plaintext, attack.settings), attack)
		})
	}
}

// Ten thousand callers who are connected and do nothing.
func TestIdleConnections(t *testing.T) {
	idle := 10_000
	if text := os.Getenv(idleEnv); text != "" {
		var err error
		idle, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	raiseFileLimit(t, idle+1000)
	const each = 1000 // which connections.max_per_address allows
	withstand(t, newSite(t, os.Getenv(tlsEnv) != "", "connections: {max: 1000000}"), attack{mebibytes: int64(idle) * 80 >> 10, within: 10 * patience, do: func(ctx context.Context, s *site) error {
		errs := make([]error, 8)
		var dialers sync.WaitGroup
		for d := range errs {
			dialers.Go(func() {
				for i := d; i < idle && errs[d] == nil; i += len(errs) {
					_, errs[d] = s.session(ctx, i/each)
				}
			})
		}
		dialers.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		pause(ctx, long)
		return nil
	}})
}

// One address has no more connections than it may.
func TestConnectionsOfOneAddress(t *testing.T) {
	t.Parallel()
	withstand(t, newSite(t, false, "connections: {max_per_address: 100}\n"), attack{mebibytes: 32, do: func(ctx context.Context, s *site) error {
		for i := range 101 {
			_, err := s.session(ctx, 0)
			if refused := err != nil; refused != (i == 100) {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		return nil
	}})
}

// withstand asks checks while a site is attacked, and looks at the process before, meanwhile and after.
func withstand(t *testing.T, s *site, a attack) {
	t.Helper()
	caller, call := s.caller(t), checkCall()
	answered := 0
	ask := func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		result, err := mixertest.Send(ctx, caller, call)
		require.NoError(t, err, "a good caller was not answered")
		require.Zero(t, result.Status.Code)
		answered++
	}
	ask()
	metrics, err := s.Metrics(t)
	require.NoError(t, err)
	goroutines, before := metrics.Sum("go_goroutines"), s.Resident(t)

	ctx, stop := context.WithTimeout(t.Context(), cmp.Or(a.within, 2*patience))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- a.do(ctx, s) }()
	var slowest time.Duration
	for underWay := true; underWay; {
		select {
		case err := <-done:
			require.NoError(t, err)
			underWay = false
		case <-time.After(20 * time.Millisecond):
		}
		begin := time.Now()
		ask()
		slowest = max(slowest, time.Since(begin))
	}
	metrics, err = s.Metrics(t)
	require.NoError(t, err)
	open := metrics.Sum("tollgate_connections")
	// Somebody new gets in as well.
	fresh := s.caller(t)
	_, err = mixertest.Send(t.Context(), fresh, call)
	require.NoError(t, err)
	require.NoError(t, fresh.Close())
	stop()

	peak := s.Peak(t)
	t.Logf("%s: %.0f connections at the end; RSS from %d to at most %d MiB; %d checks answered meanwhile, the slowest after %s",
		t.Name(), open, before>>20, peak>>20, answered, slowest.Round(time.Millisecond))
	assert.LessOrEqual(t, (peak-before)>>20, a.mebibytes, "MiB more than before")
	const strays = 5
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		metrics, err = s.Metrics(t)
		require.NoError(t, err)
		if metrics.Sum("tollgate_connections") == 1 && metrics.Sum("go_goroutines") <= goroutines+strays {
			break
		}
		require.True(t, time.Now().Before(end), "%.0f connections and %.0f goroutines, from %.0f, are left", metrics.Sum("tollgate_connections"), metrics.Sum("go_goroutines"), goroutines)
	}
	ask()
}

// each does something with so many connections at once; all of them must end as do says.
func each(n int, do func(ctx context.Context, s *site, i int) error) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { errs[i] = do(ctx, s, i) })
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// holding does something with many connections for a while.
func holding(do func(ctx context.Context, s *site, i int) error) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		ctx, stop := context.WithTimeout(ctx, long)
		defer stop()
		return each(connectionsEach, func(ctx context.Context, s *site, i int) error {
			if err := do(ctx, s, i); ctx.Err() == nil {
				return err
			}
			return nil // the end cut it
		})(ctx, s)
	}
}

// sending sends something, with TLS or without, and waits for the server to end the connection.
func sending(encrypted bool, what func() []byte) func(context.Context, *site, int) error {
	return func(ctx context.Context, s *site, i int) error {
		connect := s.raw
		if encrypted {
			connect = s.secure
		}
		connection, err := connect(ctx, i)
		if err != nil {
			return err
		}
		_, _ = connection.Write(what()) // the server may have had enough of it
		return drain(connection)
	}
}

// trickle sends a byte at a time until all are sent, ctx is done, or the server ends the connection.
func trickle(ctx context.Context, connection net.Conn, content []byte, every time.Duration) error {
	for i := range content {
		if !pause(ctx, every) {
			return ctx.Err()
		}
		if _, err := connection.Write(content[i : i+1]); err != nil {
			return nil //nolint:nilerr // the server had enough of it
		}
	}
	return fmt.Errorf("the server waited for %d bytes", len(content))
}

// endless does something until ctx is done or the server ends the connection.
func endless(ctx context.Context, do func() error, err error) {
	for err == nil && ctx.Err() == nil {
		err = do()
	}
}

// slowBodies begins many calls of a MiB each, and sends them byte by byte.
func slowBodies(ctx context.Context, s *site, from int, method string) error {
	h, err := s.session(ctx, from)
	if err != nil {
		return err
	}
	go drain(h)
	const calls = 20
	for n := range uint32(calls) {
		if err := errors.Join(h.open(2*n+1, method), h.WriteData(2*n+1, false, message(make([]byte, 1<<20))[:5])); err != nil {
			return err
		}
	}
	for pause(ctx, 100*time.Millisecond) {
		for n := range uint32(calls) {
			if err := h.WriteData(2*n+1, false, []byte{0}); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeBlock sends a block of headers in as many frames as it takes.
func (h *session) writeBlock(stream uint32, block []byte) error {
	const most = 16 << 10
	first := block[:min(len(block), most)]
	block = block[len(first):]
	err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: len(block) == 0})
	for err == nil && len(block) > 0 {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		err = h.WriteContinuation(stream, len(block) == 0, part)
	}
	return err
}

// refuses reads until the server resets the stream, or answers it with an error, or ends the connection.
func (h *session) refuses(ctx context.Context, stream uint32) error {
	for {
		f, err := h.ReadFrame()
		switch {
		case err != nil && ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return fmt.Errorf("stream %d was not refused: %w", stream, err)
		case err != nil:
			return nil //nolint:nilerr // the connection is ended
		}
		if f.Header().StreamID != stream {
			continue
		}
		if f.Header().Type == http2.FrameRSTStream || f.Header().Flags.Has(http2.FlagHeadersEndStream) {
			return nil
		}
	}
}

// frame is a whole frame.
func frame(kind http2.FrameType, stream uint32, payload []byte) []byte {
	var content bytes.Buffer
	_ = http2.NewFramer(&content, nil).WriteRawFrame(kind, http2.FlagHeadersEndHeaders, stream, payload) // to memory
	return content.Bytes()
}

// message is a message as gRPC sends it.
func message(content []byte) []byte {
	framed := make([]byte, 5, 5+len(content))
	binary.BigEndian.PutUint32(framed[1:], uint32(len(content)))
	return append(framed, content...)
}

// raiseFileLimit lets this process, and the server that it starts, have so many files open, or skips the test and says so; in continuous
// integration that is a failure.
func raiseFileLimit(t *testing.T, files int) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur >= uint64(files) {
		return
	}
	limit.Cur, limit.Max = uint64(files), max(limit.Max, uint64(files))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "needs %d open files: %v", files, err)
		t.Skipf("needs %d open files, more than the system allows: %v", files, err)
	}
}

// Reports that come byte by byte keep no others away.
func TestSlowReportsKeepNoOthersAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, true, "limits: {reports: {calls: 4, wait: 10s}}\n")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	slow := make(chan error, 1)
	go func() { slow <- slowBodies(ctx, s, 0, mixertest.LogEntryMethod) }()
	caller := s.caller(t)
	for end := time.Now().Add(patience); ; {
		metrics, err := s.Metrics(t)
		require.NoError(t, err)
		if metrics.Sum("tollgate_connections") > 0 {
			break
		}
		require.True(t, time.Now().Before(end))
	}
	call := mixertest.LogEntries(mixertest.Params(&configpb.Params{Name: "good"}), mixertest.LogEntry(nil))
	for begin := time.Now(); time.Since(begin) < long; {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		require.NoError(t, mixertest.SendReport(ctx, caller, mixertest.LogEntryMethod, call))
		cancel()
	}
	stop()
	<-slow // whatever it says: its connection was cut
}
