package spool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Disk is a queue in a directory of its own. See the package comment.
//
// Frames come again that were done: after a crash those done within the last CursorEvery, and after any end those behind a frame that
// was not, as far as their segments still exist. Each comes again at most once an end.
type Disk struct {
	ledger
	dir string
	id  ID

	// Guarded by ledger.mu.
	segments []*segment     // in order of their numbers
	next     uint64         // number of the next segment
	live     int64          // bytes of the records that are pending
	ready    []waiting      // frames that were read and not handed out
	head     int            // of ready; those before it are gone
	loading  *block         // what a Next is reading
	loaded   place          // where loading is
	idle     sync.Cond      // for the end of loading and removing
	queued   []*Reservation // for the committer
	work     sync.Cond      // for more of them, a probe or the end
	probe    bool           // the committer is to find out whether the disk works again
	moved    bool           // what the state file says is not the latest
	removing bool           // somebody removes segments
	removed  bool           // segments were removed, and the directory was not synced since
	failing  *Error         // why the state file, or a removal, failed

	committer committer
	reader    reader
	keeper    keeper
	lock      io.Closer
}

// segment is one file. Guarded by ledger.mu, number and seed apart, which never change.
type segment struct {
	number uint64
	seed   uint32
	end    int64 // of the last intact record
	bytes  int64 // how much room the file takes
	sealed bool  // nothing will be added
	live   uint64
	blocks []block // frames that were not read
	head   int     // of blocks; those before it are gone
}

// block is a run of records in a segment: what is read at once, and what is dropped at once to make room. The frames in it are
// known by number and not one by one, which bounds the memory of a long queue.
type block struct {
	offset, end   int64
	tally         Tally
	oldest, stamp int64 // of the first and the last record
	recovered     bool
	failing       int64 // since when it could not be read; 0 for not
}

// blockBytes bounds blocks of more than one record.
const blockBytes = 64 << 10

// unreadable is how long a block is tried to be read before its frames are given up as damaged. What says
// nothing about them, see isAway, is tried for ever.
const unreadable = time.Minute

// add enters a record that was written.
func (s *segment) add(r *record, recovered bool) {
	s.end = r.offset + r.size()
	s.live++
	if len(s.blocks) > s.head {
		if b := &s.blocks[len(s.blocks)-1]; b.end == r.offset && s.end-b.offset <= blockBytes && b.recovered == recovered {
			b.end, b.stamp = s.end, r.stamp
			b.tally.add(r.tally())
			return
		}
	}
	s.blocks = append(s.blocks, block{offset: r.offset, end: s.end, tally: r.tally(), oldest: r.stamp, stamp: r.stamp, recovered: recovered})
}

// pop takes the first block off.
func (s *segment) pop() block {
	b := s.blocks[s.head]
	s.head++
	if s.head == len(s.blocks) {
		s.blocks, s.head = s.blocks[:0], 0
	}
	return b
}

// push puts a block back in front.
func (s *segment) push(b block) {
	if s.head == 0 {
		s.blocks = slices.Insert(s.blocks, 0, b)
		return
	}
	s.head--
	s.blocks[s.head] = b
}

func (d *Disk) path(number uint64) string { return filepath.Join(d.dir, segmentName(number)) }

// ID returns the directory's id.
func (d *Disk) ID() ID { return d.id }

// NextSequence returns a sequence that no frame of the directory has had. After a crash it leaves a gap, because with SyncOS
// the disk may have forgotten frames that were delivered.
func (d *Disk) NextSequence() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sequence
}

// Reserve books room for one frame. See Queue.
func (d *Disk) Reserve(ctx context.Context, bytes, records int) (*Reservation, error) {
	return d.reserve(ctx, bytes, records)
}

// start hands the frame to the committer.
func (d *Disk) start(r *Reservation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		r.state, r.err = ended, &Error{Class: Closed, Path: d.dir}
		d.reserved -= r.need
		d.count(Closed, r)
		return
	}
	r.state = started
	r.pending.Add(1)
	d.queued = append(d.queued, r)
	d.work.Signal()
}

// Next hands out the next frame. See Queue.
func (d *Disk) Next(ctx context.Context) (Frame, error) {
	d.mu.Lock()
	for {
		if d.closed {
			d.mu.Unlock()
			return Frame{}, &Error{Class: Closed, Path: d.dir}
		}
		d.expire()
		if d.head < len(d.ready) {
			w := d.popReady()
			d.handOut(&w.Frame, w.place)
			d.mu.Unlock()
			return w.Frame, nil
		}
		if s := d.unread(); s != nil && d.loading == nil {
			if err := d.load(s); err != nil {
				d.mu.Unlock()
				return Frame{}, err
			}
			continue
		}
		news := d.listen()
		d.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Frame{}, ctx.Err()
		}
		d.mu.Lock()
	}
}

// unread returns the first segment with frames that were not read.
func (d *Disk) unread() *segment {
	for _, s := range d.segments {
		if s.head < len(s.blocks) {
			return s
		}
	}
	return nil
}

// load reads the segment's first block. It lets the mutex go meanwhile; loading keeps others from reading too.
func (d *Disk) load(s *segment) error {
	b := s.pop()
	d.loading, d.loaded = &b, place{segment: s, offset: b.offset, stamp: b.oldest}
	d.mu.Unlock()
	frames, found, damage, err := d.reader.read(s, &b)
	d.mu.Lock()
	d.loading = nil
	d.idle.Broadcast()
	defer d.wake()
	if err != nil {
		now := d.clock.now()
		if b.failing == 0 || errors.Is(err, errUnopened) {
			b.failing = now
		}
		if now-b.failing < int64(unreadable) {
			s.push(b)
			return fault(d.path(s.number), "read", err)
		}
		damage = Damage{Regions: 1, Bytes: uint64(b.end - b.offset)}
	}
	d.ready = append(d.ready, frames...)
	d.stats.Damage.add(damage)
	missing := b.tally
	missing.sub(found)
	d.dropped(Damaged, missing)
	d.finish(s, missing)
	return nil
}

// popReady takes the first frame that was read.
func (d *Disk) popReady() waiting {
	w := d.ready[d.head]
	d.ready[d.head] = waiting{}
	d.head++
	if d.head == len(d.ready) {
		d.ready, d.head = d.ready[:0], 0
	}
	return w
}

// Done ends a frame's flight. See Queue.
func (d *Disk) Done(sequence uint64, outcome Outcome) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, p, ok := d.done(sequence, outcome)
	if ok {
		d.finish(p.segment, t)
	}
	return ok
}

// finish enters that frames of a segment are pending no more.
func (d *Disk) finish(s *segment, t Tally) {
	if t.Frames == 0 {
		return
	}
	s.live -= t.Frames
	d.live -= int64(t.Frames*recordHeader + t.Bytes)
	if !d.moved || s.sealed && s.live == 0 {
		d.keeper.wake()
	}
	d.moved = true
}

// dropOldest drops the oldest frames that are not in flight, one that was read or a block that was not. It reports whether
// there were any.
func (d *Disk) dropOldest(reason Reason, older func(stamp int64) bool) bool {
	if d.head < len(d.ready) {
		w := &d.ready[d.head]
		if !older(w.place.stamp) {
			return false
		}
		t := tallyOf(&w.Frame)
		d.dropped(reason, t)
		d.finish(w.place.segment, t)
		d.popReady()
		return true
	}
	s := d.unread()
	if s == nil || !older(s.blocks[s.head].stamp) {
		return false
	}
	b := s.pop()
	d.dropped(reason, b.tally)
	d.finish(s, b.tally)
	return true
}

// evict drops the oldest frames until those that are pending take no more than target bytes.
func (d *Disk) evict(target int64) {
	target -= int64(len(d.segments)) * headerBytes
	for more := true; more && d.live > target; {
		more = d.dropOldest(Oldest, func(int64) bool { return true })
	}
}

// reclaim removes what was evicted, so that room does not wait for the keeper, who may be waiting for the disk.
func (d *Disk) reclaim() bool {
	if d.removing {
		return false // whoever does it gives the room to those who wait
	}
	if err := d.remove(false); err != nil {
		d.failing = err
	}
	d.keeper.wake() // for the rest
	return true
}

// remove removes the segments in which nothing is pending or will be, the newest only where that is said, and frees their
// room. It lets the mutex go meanwhile.
func (d *Disk) remove(newest bool) (failing *Error) {
	if d.removing {
		return nil
	}
	d.removing = true
	defer func() {
		d.removing = false
		d.idle.Broadcast()
	}()
	for i := 0; i < len(d.segments); {
		s := d.segments[i]
		if !s.sealed || s.live > 0 || s.number+1 == d.next && !newest {
			i++
			continue
		}
		if d.loading == nil && d.reader.number == s.number { // else the reader is somebody's
			d.reader.close() // an open file keeps its space
		}
		d.mu.Unlock()
		err := d.opts.fs.Remove(d.path(s.number))
		gone := d.gone(err)
		d.mu.Lock()
		if err != nil && !gone {
			failing = fault(d.path(s.number), "remove", err)
			i++
			continue
		}
		// Nobody else takes segments off the list, and what is added is added behind.
		d.segments = append(d.segments[:i], d.segments[i+1:]...)
		d.used -= s.bytes
		d.grant()
		d.removed = true
	}
	return failing
}

// gone reports whether an error says that a segment is not there, and not that its directory is not: somebody may have moved that, or the
// volume that it is on, and may bring it back.
func (d *Disk) gone(err error) bool {
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	names, err := d.opts.fs.List(d.dir)
	return err == nil && slices.Contains(names, filepath.Base(stateName(d.dir)))
}

// expire drops frames that waited too long. Of a block that was not read it drops all or nothing; the rest expires when the
// block is read.
func (d *Disk) expire() {
	cutoff, ok := d.cutoff()
	for ok {
		ok = d.dropOldest(Expired, func(stamp int64) bool { return stamp < cutoff })
	}
}

// oldest returns where the oldest pending frame is.
func (d *Disk) oldest() (place, bool) {
	switch {
	case d.flight.first != nil:
		return d.flight.first.place, true
	case d.head < len(d.ready):
		return d.ready[d.head].place, true
	case d.loading != nil:
		return d.loaded, true
	}
	if s := d.unread(); s != nil {
		b := &s.blocks[s.head]
		return place{segment: s, offset: b.offset, stamp: b.oldest}, true
	}
	return place{}, false
}

// cursor returns what the state file should say. All before it is pending no more.
func (d *Disk) cursor() cursor {
	if p, ok := d.oldest(); ok {
		return cursor{segment: p.segment.number, offset: p.offset}
	}
	if n := len(d.segments); n > 0 {
		return cursor{segment: d.segments[n-1].number, offset: d.segments[n-1].end}
	}
	return cursor{segment: d.next}
}

// Stats returns the accounts. See Queue.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire()
	p, ok := d.oldest()
	s := d.snapshot(p.stamp, ok)
	if s.Fault == nil && d.failing != nil {
		s.Fault = d.failing
	}
	return s
}

// Close finishes what is being appended, writes the state and frees the directory. See Queue.
func (d *Disk) Close() error {
	d.mu.Lock()
	first := d.close()
	d.work.Broadcast()
	d.mu.Unlock()
	if !first {
		return nil
	}
	<-d.committer.ended
	close(d.keeper.quit)
	<-d.keeper.ended
	d.mu.Lock()
	for d.loading != nil || d.removing {
		d.idle.Wait()
	}
	d.mu.Unlock()

	err := d.committer.close()
	d.keeper.closing = err == nil
	d.keeper.tend(true)
	d.mu.Lock()
	failing := d.failing
	d.mu.Unlock()
	if err == nil && failing != nil {
		err = failing
	}
	d.reader.close()
	return errors.Join(err, d.keeper.file.Close(), d.lock.Close())
}
