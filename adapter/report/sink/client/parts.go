package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// Parts delivers batches to who takes or refuses several records at once, so that a refused one takes no others with it. The zero
// value is ready; it is safe for concurrent use.
type Parts struct {
	mu sync.Mutex
	// known is why records were refused whose batch is to be tried again for the sake of others.
	known map[identity]error
}

type identity struct {
	spool    record.SpoolID
	sequence uint64
	index    int
}

func identify(r *record.Record) identity { return identity{r.Spool, r.Sequence, r.Index} }

// maxKnown bounds the memory: a lane that gives a batch up does not tell. What is forgotten is refused once more.
const maxKnown = 1 << 16

// Deliver is a sink's Deliver by means of send, which hands a part over and may return, beside nil,
//
//   - a permanent *report.Undelivered without Records: nothing of the part can ever be delivered;
//   - a permanent one with Records: the others are delivered, and among these is one that cannot be. They are sent again in halves
//     until it is alone: one bad record of n costs at most 2·log2(n)+1 more calls;
//   - one that is not permanent, with Records: the others are delivered, these are to be tried again;
//   - any other error: all of the part is to be tried again.
//
// What is to be tried again ends the attempt with an error about all that was not delivered. The next one, with these records, knows which
// of them were refused; so there is progress as long as an attempt has time for log2(n)+1 calls.
func (p *Parts) Deliver(ctx context.Context, batch []record.Record, send func(context.Context, []record.Record) error) error {
	a := attempt{batch: batch, delivered: make([]bool, len(batch)), refused: map[int]error{}}
	for todo := [][]int{p.recall(&a)}; len(todo) > 0; {
		part := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if len(part) == 0 {
			continue
		}
		suspects, err := a.send(ctx, part, send)
		if err != nil {
			p.remember(&a)
			return a.unfinished(err)
		}
		half := len(suspects) / 2
		todo = append(todo, suspects[half:], suspects[:half])
	}
	p.forget(batch)
	return a.result()
}

// attempt is what came of a batch so far.
type attempt struct {
	batch     []record.Record
	delivered []bool
	refused   map[int]error
	cause     error // of the first
}

// send hands over some records and returns those that are to be sent again in smaller parts.
func (a *attempt) send(ctx context.Context, part []int, send func(context.Context, []record.Record) error) (suspects []int, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	records := a.batch
	if len(part) < len(a.batch) {
		records = make([]record.Record, len(part))
		for i, index := range part {
			records[i] = a.batch[index]
		}
	}
	err = send(ctx, records)
	if err == nil {
		a.deliver(part)
		return nil, nil
	}
	u, ok := errors.AsType[*report.Undelivered](err)
	if !ok {
		return nil, err
	}
	undelivered := u.Among(len(part))
	for i, not := range undelivered {
		if not {
			suspects = append(suspects, part[i])
		} else {
			a.delivered[part[i]] = true
		}
	}
	switch {
	case !u.Permanent:
		return nil, &report.Undelivered{After: u.After, Err: u.Err}
	case undelivered == nil:
		a.refuse(part, u.Err)
		return nil, nil
	case len(part) == 1:
		a.refuse(suspects, u.Err)
		return nil, nil
	}
	return suspects, nil
}

func (a *attempt) deliver(part []int) {
	for _, index := range part {
		a.delivered[index] = true
	}
}

// unfinished makes an error that ends the attempt one about what was not delivered.
func (a *attempt) unfinished(err error) error {
	if !slices.Contains(a.delivered, true) {
		return err
	}
	rest := &report.Undelivered{Err: err}
	if u, ok := errors.AsType[*report.Undelivered](err); ok {
		rest.After, rest.Err = u.After, u.Err
	}
	for i, delivered := range a.delivered {
		if !delivered {
			rest.Records = append(rest.Records, i)
		}
	}
	return rest
}

func (a *attempt) refuse(part []int, cause error) {
	if a.cause == nil {
		a.cause = cause
	}
	for _, index := range part {
		a.refused[index] = cause
	}
}

func (a *attempt) result() error {
	if len(a.refused) == 0 {
		return nil
	}
	indices := make([]int, 0, len(a.refused))
	for index := range a.refused {
		indices = append(indices, index)
	}
	slices.Sort(indices)
	return &report.Undelivered{
		Permanent: true, Records: indices, Err: fmt.Errorf("%d of %d records refused: %w", len(indices), len(a.batch), a.cause),
	}
}

// recall returns the records that are still to be sent.
func (p *Parts) recall(a *attempt) []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := make([]int, 0, len(a.batch))
	for i := range a.batch {
		if cause, known := p.known[identify(&a.batch[i])]; known {
			a.refuse([]int{i}, cause)
		} else {
			open = append(open, i)
		}
	}
	return open
}

func (p *Parts) remember(a *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known)+len(a.refused) > maxKnown {
		p.known = map[identity]error{}
	}
	for i, cause := range a.refused {
		p.known[identify(&a.batch[i])] = cause
	}
}

func (p *Parts) forget(batch []record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) == 0 {
		return
	}
	for i := range batch {
		delete(p.known, identify(&batch[i]))
	}
}
