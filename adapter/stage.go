package adapter

import (
	"context"

	"github.com/tollgate-mesh/tollgate/adapter/report"
)

// stage is a part of the service that ends in its turn.
type stage struct {
	stop context.CancelFunc
	done chan error
}

func newStage(ctx context.Context, run func(ctx context.Context) error) *stage {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &stage{stop: stop, done: make(chan error, 1)}
	go func() { s.done <- run(ctx) }()
	return s
}

// end ends the part and returns when it has ended.
func (s *stage) end() error {
	s.stop()
	return <-s.done
}

// closePipeline lets go of a pipeline that never ran.
func closePipeline(ctx context.Context, pipeline *report.Pipeline) error {
	return closeUnused(ctx, func(ctx context.Context) error { return pipeline.Run(ctx, 0) })
}

// closeUnused lets go of a part that never ran.
func closeUnused(ctx context.Context, run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return run(ctx)
}
