package mixer

import (
	"context"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// MaxParamsBytes bounds the params of one handler. Larger ones are a configuration failure and are not even decoded.
const MaxParamsBytes = 4 << 20

// HandlerLimits bounds the cache of compiled handlers.
type HandlerLimits struct {
	// Entries is how many compiled handlers are kept.
	Entries int
	// Bytes is how many bytes of params they may come from; what is compiled takes a multiple.
	Bytes int
	// Compiling is how many are compiled at once; Waiting how many more may wait for it.
	Compiling, Waiting int
	// RetryAfter is how long a configuration that failed to compile is remembered as failed.
	RetryAfter time.Duration
}

// handlers keeps the compiled form of the configurations that calls bring, by their exact bytes. Each is compiled once, however
// many calls bring it first, and beside the calls: a call waits no longer than it may.
type handlers struct {
	compiler *policy.Compiler
	limits   HandlerLimits
	observer Observer
	now      func() time.Time

	compiling chan struct{}
	waiting   atomic.Int64

	mu    sync.Mutex // guards everything below
	lru   *simplelru.LRU[string, *entry]
	bytes int
}

// entry is one configuration on its way to a policy.
type entry struct {
	// handler is set as soon as the params are decoded, so that a call which cannot wait for the policy knows its modes.
	handler atomic.Pointer[config.Handler]
	// policy is set before ready is closed.
	policy atomic.Pointer[policy.Policy]
	ready  chan struct{}
	// until is when a failed entry is tried anew, in Unix nanoseconds; 0 for never.
	until atomic.Int64
}

// modes returns the failure modes that hold for a call which meets the entry as it is now.
func (e *entry) modes() config.Modes {
	if h := e.handler.Load(); h != nil {
		return h.Modes
	}
	return config.Modes{}
}

func newHandlers(compiler *policy.Compiler, limits HandlerLimits, observer Observer) *handlers {
	h := &handlers{
		compiler:  compiler,
		limits:    limits,
		observer:  observer,
		now:       time.Now,
		compiling: make(chan struct{}, max(limits.Compiling, 1)),
	}
	// The only error is a size below one.
	h.lru, _ = simplelru.NewLRU(max(limits.Entries, 1), func(params string, _ *entry) { h.bytes -= len(params) })
	return h
}

// get returns the entry of the params, and starts to compile them if there is none. It is nil where too many already wait.
func (h *handlers) get(params string) *entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	full := int(h.waiting.Load()) >= h.limits.Compiling+h.limits.Waiting
	if e, ok := h.lru.Get(params); ok {
		// A failure that cannot be tried anew now still knows the handler's modes, which an overload would not.
		if until := e.until.Load(); until == 0 || h.now().UnixNano() < until || full {
			return e
		}
		h.lru.Remove(params)
	}
	if full {
		return nil
	}
	// The params are a part of the whole call's text, which may be far larger than they are and would be kept with them.
	params = strings.Clone(params)
	e := &entry{ready: make(chan struct{})}
	h.lru.Add(params, e)
	h.bytes += len(params)
	for h.bytes > h.limits.Bytes && h.lru.Len() > 1 {
		h.lru.RemoveOldest()
	}
	h.waiting.Add(1)
	go h.compile(e, params)
	return e
}

// compile fills the entry in and makes it ready, whatever happens.
func (h *handlers) compile(e *entry, params string) {
	defer h.waiting.Add(-1)
	start := h.now()
	handler := &config.Handler{Name: "unknown"}
	defer func() {
		if r := recover(); r != nil {
			text := "panic"
			if err, ok := r.(runtime.Error); ok {
				text = err.Error()
			}
			e.policy.Store(policy.Broken(handler, policy.Fail(config.Panic, "compiling the handler: %s\n%s", text, debug.Stack())))
		}
		compiled := e.policy.Load()
		if compiled.Failure() != nil {
			e.until.Store(h.now().Add(h.limits.RetryAfter).UnixNano())
		}
		close(e.ready)
		// Nobody else would stop an observer's panic on its way to the end of the process.
		defer func() { _ = recover() }()
		h.observer.Compiled(compiled, h.now().Sub(start))
	}()
	// Decoding is quick and tells the modes, so it does not wait for its turn.
	handler, problems := config.Parse([]byte(params))
	e.handler.Store(handler)
	h.compiling <- struct{}{}
	defer func() { <-h.compiling }()
	e.policy.Store(h.compiler.Compile(handler, problems))
}

// decide answers a call with the policy of its params. The policy is nil where none was asked, the handler where none is known.
func (h *handlers) decide(ctx context.Context, params string, request *policy.Request) (*config.Handler, *policy.Policy, policy.Decision) {
	e := h.get(params)
	if e == nil {
		return nil, nil, policy.Fail(config.Overload, "%d handlers wait to be compiled; lower the number of different handlers or raise limits.handlers", h.limits.Waiting).
			Resolve(config.Modes{})
	}
	compiled := e.policy.Load()
	if compiled == nil {
		wait, cancel := context.WithDeadline(ctx, policy.Deadline(ctx, h.compiler.Timeout))
		defer cancel()
		select {
		case <-e.ready:
			compiled = e.policy.Load()
		case <-wait.Done():
			return e.handler.Load(), nil, policy.Fail(config.PolicyNotLoaded, "the handler is still being compiled").Resolve(e.modes())
		}
	}
	return compiled.Handler(), compiled, compiled.Evaluate(ctx, request)
}
