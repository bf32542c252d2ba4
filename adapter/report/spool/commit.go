package spool

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"time"
)

// committer writes frames to segments: all that wait at a time, with one write and one sync for each group.
type committer struct {
	disk  *Disk
	ended chan struct{}

	// Its goroutine's own.
	file    file     // of segment; nil where the next frame begins a new segment
	segment *segment // where the last frames went
	end     int64    // of the last frame that was kept
	uncut   bool     // behind end there may be frames that were refused
	buffer  []byte
	records []record
}

const (
	// groupBytes bounds a group of more than one frame, and with it how long the first waits for the last.
	groupBytes = 4 << 20
	// copyBelow is the payload that is cheaper to copy behind its header than to write by itself.
	copyBelow = 16 << 10
	// afterFailure is how long Reserve refuses after a failed commit, so that a broken disk is not tried for every frame.
	afterFailure = 100 * time.Millisecond
)

// run commits until the queue is closed and nothing waits.
func (c *committer) run() {
	defer close(c.ended)
	d := c.disk
	var spare []*Reservation
	for {
		d.mu.Lock()
		for len(d.queued) == 0 && !d.closed && !d.probe {
			d.work.Wait()
		}
		batch, probe := d.queued, d.probe
		d.queued, d.probe = spare, false
		ended := d.closed && len(batch) == 0
		d.mu.Unlock()
		if ended {
			return
		}
		if len(batch) == 0 && probe {
			c.commit(nil, 0)
		}
		for rest := batch; len(rest) > 0; {
			n, bytes := group(rest, min(groupBytes, d.opts.SegmentBytes-headerBytes))
			c.commit(rest[:n], bytes)
			rest = rest[n:]
		}
		clear(batch)
		spare = batch[:0]
	}
}

// group returns how many of the frames make the next group, and their size.
func group(rest []*Reservation, most int64) (n int, bytes int64) {
	for _, r := range rest {
		size := recordHeader + int64(len(r.frame.Payload))
		if n > 0 && bytes+size > most {
			break
		}
		n++
		bytes += size
	}
	return n, bytes
}

// commit writes a group and tells those who wait what came of it. An empty group finds out whether the disk works.
func (c *committer) commit(group []*Reservation, bytes int64) {
	d := c.disk
	failed := c.write(group, bytes)
	d.mu.Lock()
	d.broken = failed
	if failed == nil {
		idle := d.stats.Pending.Frames == 0
		for i, r := range group {
			c.segment.add(&c.records[i], false)
			d.accepted(r)
		}
		c.segment.bytes += bytes
		d.used += bytes
		d.live += bytes
		if idle && d.opts.MaxAge > 0 {
			d.keeper.wake()
		}
		d.wake()
	} else {
		d.until = d.clock.now() + int64(afterFailure)
		d.keeper.wake()
		for _, r := range group {
			r.err = failed
			d.reserved -= r.need
			d.count(failed.Class, r)
		}
	}
	d.grant()
	d.mu.Unlock()
	for _, r := range group {
		r.pending.Done()
	}
}

// write puts the group on the disk. Where that fails, the segment is cut back to what was kept before and never written again:
// after a failed sync nobody knows which of its pages the disk has.
func (c *committer) write(group []*Reservation, bytes int64) *Error {
	d := c.disk
	if c.file != nil && c.end > headerBytes && c.end+bytes > d.opts.SegmentBytes {
		c.seal()
	}
	if c.uncut {
		if err := c.cut(); err != nil {
			return fault(d.path(c.segment.number), "cut back after a failed write", err)
		}
	}
	if c.file == nil {
		if err := c.begin(group); err != nil {
			return err
		}
	}
	if err := c.put(group); err != nil {
		c.uncut = true
		_ = c.cut() // or before the next segment begins
		c.seal()
		return fault(d.path(c.segment.number), "append", err)
	}
	c.end += bytes
	return nil
}

// put writes the group behind the last one and syncs.
func (c *committer) put(group []*Reservation) error {
	d := c.disk
	d.mu.Lock()
	stamp := d.clock.now()
	d.mu.Unlock()
	offset, flushed := c.end, c.end
	b, records := c.buffer[:0], c.records[:0]
	flush := func(p []byte) error {
		n, err := c.file.WriteAt(p, flushed)
		flushed += int64(n)
		if err == nil && n < len(p) {
			return io.ErrShortWrite
		}
		return err
	}
	for _, r := range group {
		rec := record{
			offset:   offset,
			length:   uint32(len(r.frame.Payload)), //nolint:gosec // bounded by MaxPayload
			records:  uint32(r.frame.Records),      //nolint:gosec // bounded by maxRecords
			sequence: r.frame.Sequence,
			arrival:  nanoseconds(r.frame.Arrival),
			stamp:    stamp,
			payload:  r.frame.Payload,
		}
		offset += rec.size()
		b = rec.appendHeader(b, c.segment.seed)
		rec.payload = nil // the caller's
		records = append(records, rec)
		if len(r.frame.Payload) < copyBelow {
			b = append(b, r.frame.Payload...)
			continue
		}
		if err := flush(b); err != nil {
			return err
		}
		b = b[:0]
		if err := flush(r.frame.Payload); err != nil {
			return err
		}
	}
	c.buffer, c.records = b, records
	if len(b) > 0 {
		if err := flush(b); err != nil {
			return err
		}
	}
	if d.opts.Sync == SyncOS {
		return nil
	}
	return c.file.Sync()
}

// begin makes the next segment. Its header is synced together with the first group. The number is taken when the segment is
// entered and not before: until then a state that is written meanwhile must not count it as done. The header takes the room that its first
// frame, if there is one already, has booked for it.
func (c *committer) begin(group []*Reservation) *Error {
	d := c.disk
	for {
		d.mu.Lock()
		h := segmentHeader{id: d.id, number: d.next, sequence: d.sequence}
		d.mu.Unlock()
		name := d.path(h.number)
		f, err := d.opts.fs.Create(name)
		if errors.Is(err, fs.ErrExist) {
			d.mu.Lock()
			d.next++ // left by a begin that failed
			d.mu.Unlock()
			continue
		}
		if err != nil {
			return fault(name, "create", err)
		}
		b := h.append(nil)
		n, err := f.WriteAt(b, 0)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err == nil {
			err = d.opts.fs.SyncDir(d.dir)
		}
		if err != nil {
			_ = f.Close()
			_ = d.opts.fs.Remove(name) // or at the next Open
			return fault(name, "create", err)
		}
		s := &segment{number: h.number, seed: segmentSeed(d.id, h.number), end: headerBytes, bytes: headerBytes}
		c.file, c.segment, c.end = f, s, headerBytes
		d.mu.Lock()
		d.segments = append(d.segments, s)
		d.next = h.number + 1
		d.used += headerBytes
		if len(group) > 0 {
			d.reserved -= headerBytes
			group[0].need -= headerBytes
		}
		d.mu.Unlock()
		return nil
	}
}

// cut removes what was written behind the last frame that was kept, for good.
func (c *committer) cut() error {
	d := c.disk
	f := c.file
	if f == nil {
		var err error
		f, err = d.opts.fs.Open(d.path(c.segment.number), true)
		if d.gone(err) { // all that was kept there is done
			c.uncut = false
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // synced
	}
	if err := f.Truncate(c.end); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	c.uncut = false
	return nil
}

// seal ends the segment.
func (c *committer) seal() {
	d := c.disk
	_ = c.file.Close() // what counts is synced
	c.file = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	c.segment.sealed = true
	if c.segment.live == 0 {
		d.keeper.wake()
	}
}

// close seals the last segment.
func (c *committer) close() error {
	var failed error
	if c.uncut {
		if err := c.cut(); err != nil {
			failed = fault(c.disk.path(c.segment.number), "cut back after a failed write", err)
		}
	}
	if c.file != nil {
		// With SyncAlways there is nothing to sync.
		if c.disk.opts.Sync == SyncOS {
			if err := c.file.Sync(); err != nil {
				failed = fault(c.disk.path(c.segment.number), "sync", err)
			}
		}
		c.seal()
	}
	return failed
}

// nanoseconds returns the Unix time, held at the ends of what it can express.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	default:
		return t.UnixNano()
	}
}
