package spool

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
)

// forgetful is a file system in memory that forgets what was not synced when its power goes, and fails when it is told to. Of
// what was not synced any part may survive: each directory entry for itself, each write as a whole, as a prefix, as some of its
// sectors or not at all, in any combination. A sync that fails leaves its writes in that state for ever, whatever later syncs
// say, as Linux does.
type forgetful struct {
	mu      sync.Mutex
	rng     *rand.Rand
	live    map[string]*inode // what programs see
	durable map[string]*inode // what a power loss leaves, entries alone
	ops     int
	dieAt   int // the power goes during that operation; 0 for never
	dead    bool
	locked  bool
	// fault decides on each operation: nil to let it be done. Of a write that fails a part is done.
	fault func(op, name string) error
}

// inode is a file.
type inode struct {
	live    []byte
	durable []byte
	pending []change
}

// change is a write or a truncation that was not synced.
type change struct {
	offset int64
	data   []byte // nil for a truncation
	lost   bool   // a sync failed: no later one makes it durable
}

var errDead = errors.New("the power is gone")

func newForgetful(rng *rand.Rand) *forgetful {
	return &forgetful{rng: rng, live: map[string]*inode{}, durable: map[string]*inode{}}
}

// step begins an operation.
func (f *forgetful) step(op, name string) error {
	if f.dead {
		return errDead
	}
	if f.ops++; f.ops == f.dieAt {
		f.dead = true
		return errDead
	}
	if f.fault != nil {
		return f.fault(op, filepath.Base(name))
	}
	return nil
}

// powerLoss returns what is left, as a file system that works again.
func (f *forgetful) powerLoss() *forgetful {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	after := newForgetful(f.rng)
	names := maps.Clone(f.durable)
	maps.Copy(names, f.live)
	for name := range names {
		n := f.durable[name]
		if f.rng.IntN(2) == 0 {
			n = f.live[name]
		}
		if n == nil {
			continue
		}
		data := n.settle(f.rng, false)
		kept := &inode{live: append([]byte(nil), data...), durable: data}
		after.live[name], after.durable[name] = kept, kept
	}
	return after
}

// killed returns what another process finds after this one was killed.
func (f *forgetful) killed() *forgetful {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	after := newForgetful(f.rng)
	after.live, after.durable = f.live, f.durable
	return after
}

// settle returns the durable content after the changes: all of them where synced says so, else some.
func (n *inode) settle(rng *rand.Rand, synced bool) []byte {
	data := append([]byte(nil), n.durable...)
	for _, c := range n.pending {
		switch {
		case synced && !c.lost:
			data = c.apply(data)
		case rng.IntN(3) == 0:
			data = c.apply(data)
		case c.data == nil || rng.IntN(3) == 0:
		default:
			data = c.applyPart(data, rng)
		}
	}
	return data
}

func (c change) apply(data []byte) []byte {
	end := c.offset + int64(len(c.data))
	if c.data == nil {
		if c.offset < int64(len(data)) {
			return data[:c.offset:c.offset]
		}
		end = c.offset
	}
	if grow := end - int64(len(data)); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[c.offset:], c.data)
	return data
}

// applyPart applies a prefix, or some of the sectors with or without the length.
func (c change) applyPart(data []byte, rng *rand.Rand) []byte {
	if rng.IntN(2) == 0 {
		c.data = c.data[:rng.IntN(len(c.data)+1)]
		return c.apply(data)
	}
	const sector = 512
	if rng.IntN(2) == 0 { // the length came through; what lies there may be anything
		length := len(data)
		data = change{offset: c.offset + int64(len(c.data))}.lengthen(data)
		if rng.IntN(2) == 0 {
			for i := length; i < len(data); i++ {
				data[i] = byte(rng.Uint32())
			}
		}
	}
	for i := 0; i < len(c.data); i += sector {
		if rng.IntN(2) == 0 {
			data = change{offset: c.offset + int64(i), data: c.data[i:min(i+sector, len(c.data))]}.apply(data)
		}
	}
	return data
}

func (c change) lengthen(data []byte) []byte {
	if c.offset > int64(len(data)) {
		return c.apply(data)
	}
	return data
}

func (f *forgetful) MakeDir(string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.step("mkdir", "")
}

func (f *forgetful) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("lock", name); err != nil {
		return nil, err
	}
	if f.locked {
		return nil, errLocked
	}
	f.locked = true
	return unlocker{f}, nil
}

type unlocker struct{ f *forgetful }

func (u unlocker) Close() error {
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	u.f.locked = false
	return nil
}

func (f *forgetful) Create(name string) (file, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("create", name); err != nil {
		if f.dead && f.live[name] == nil && f.rng.IntN(2) == 0 {
			f.live[name] = &inode{}
		}
		return nil, err
	}
	if f.live[name] != nil {
		return nil, fs.ErrExist
	}
	n := &inode{}
	f.live[name] = n
	return &handle{f: f, n: n, name: name, writable: true}, nil
}

func (f *forgetful) Open(name string, writable bool) (file, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("open", name); err != nil {
		return nil, err
	}
	n := f.live[name]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return &handle{f: f, n: n, name: name, writable: writable}, nil
}

func (f *forgetful) List(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("list", dir); err != nil {
		return nil, err
	}
	var names []string
	for name := range f.live {
		names = append(names, filepath.Base(name))
	}
	return names, nil
}

func (f *forgetful) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("remove", name); err != nil {
		return err
	}
	if f.live[name] == nil {
		return fs.ErrNotExist
	}
	delete(f.live, name)
	return nil
}

func (f *forgetful) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("syncdir", dir); err != nil {
		return err
	}
	f.durable = maps.Clone(f.live)
	return nil
}

// content is the file as programs see it.
func (f *forgetful) content(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live[name].live
}

// handle is an open file.
type handle struct {
	f        *forgetful
	n        *inode
	name     string
	writable bool
}

func (h *handle) ReadAt(p []byte, offset int64) (int, error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.step("read", h.name); err != nil {
		return 0, err
	}
	if offset >= int64(len(h.n.live)) {
		return 0, io.EOF
	}
	n := copy(p, h.n.live[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(p []byte, offset int64) (int, error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if !h.writable {
		return 0, syscall.EBADF
	}
	wasDead := h.f.dead
	err := h.f.step("write", h.name)
	if wasDead {
		return 0, err
	}
	n := len(p)
	if err != nil {
		n = h.f.rng.IntN(len(p) + 1)
	}
	if n > 0 {
		c := change{offset: offset, data: append([]byte(nil), p[:n]...)}
		h.n.live = c.apply(h.n.live)
		h.n.pending = append(h.n.pending, c)
	}
	if errors.Is(err, errShort) {
		err = nil
	}
	return n, err
}

// errShort as a fault makes a write short without an error.
var errShort = errors.New("short")

func (h *handle) Truncate(size int64) error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.step("truncate", h.name); err != nil {
		return err
	}
	c := change{offset: size}
	h.n.live = c.apply(append([]byte(nil), h.n.live...))
	h.n.pending = append(h.n.pending, c)
	return nil
}

func (h *handle) Sync() error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.step("sync", h.name); err != nil {
		if !h.f.dead {
			for i := range h.n.pending {
				h.n.pending[i].lost = true
			}
		}
		return err
	}
	h.n.durable, h.n.pending = h.n.settle(h.f.rng, true), nil
	return nil
}

func (h *handle) Size() (int64, error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.step("size", h.name); err != nil {
		return 0, err
	}
	return int64(len(h.n.live)), nil
}

func (h *handle) Close() error { return nil }
