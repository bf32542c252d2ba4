package follow

import (
	"context"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Documents are the documents of one kind by their names.
type Documents[T any] map[string]*Document[T]

// ReadFiles reads those that are in files. Those at URLs wait for Run.
func (all Documents[T]) ReadFiles(ctx context.Context) {
	for _, d := range all {
		if d.source.File != "" {
			d.Read(ctx)
		}
	}
}

// Run follows all of them until ctx is done: it reads each whenever that is due. Only one Run or Read of a document may go on at a time.
func (all Documents[T]) Run(ctx context.Context) error {
	var files []*watched
	var group errgroup.Group
	for _, d := range all {
		if d.source.File != "" {
			files = append(files, &watched{directory: filepath.Dir(d.source.File), changed: d.changed, logger: d.logger})
		}
	}
	// Before any is read: a change between reading and watching would be missed.
	if watch := newWatch(files); watch != nil {
		group.Go(func() error { watch.run(ctx); return nil })
	}
	for _, d := range all {
		group.Go(func() error { d.follow(ctx); return nil })
	}
	return group.Wait()
}

// Stats are figures of one document.
type Stats struct {
	// Loaded is whether there ever was a good one; Age is how long ago it was last read.
	Loaded bool
	Age    time.Duration
	// Size is how many things the last good one has; only where its kind counts them.
	Size int
	// Read and Failed count the attempts that did and did not give a good document.
	Read, Failed uint64
}

// Stats returns figures of every document by its name. What a good one has is counted by size.
func (all Documents[T]) Stats(size func(value T) int) map[string]Stats {
	figures := make(map[string]Stats, len(all))
	for name, d := range all {
		last, stats := d.Last()
		if stats.Loaded {
			stats.Size = size(last)
		}
		figures[name] = stats
	}
	return figures
}
