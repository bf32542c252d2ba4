// Package mesh runs Tollgate between the real parts of an Istio mesh: it starts the tollgate binary and real
// Mixer servers as processes, feeds Mixer its configuration, and asks it what it decides.
//
// Tests and the demo share it, so nothing here needs a testing.T: everything returns errors. Package meshtest
// puts a testing layer on top.
//
// A context given to a Start function bounds the start only. A process lives until Stop, Kill or Close, or until
// this process dies: the kernel then ends what it started, so that no run leaves servers behind.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Versions are the Istio releases whose Mixer the harness can run, newest first.
var Versions = []string{"1.7.8", "1.6.14", "1.5.10"}

// Namespace is the one that holds mesh-wide configuration, where rules apply to all requests.
const Namespace = "istio-system"

const (
	defaultTimeout = 2 * time.Minute
	pollInterval   = 20 * time.Millisecond
)

// WaitFor polls until check returns nil, and fails with check's last error when ctx ends first. It says what it
// waited for.
func WaitFor(ctx context.Context, what string, check func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		// An error that is only the end of ctx would hide the one that explains the wait.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %w)", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// errExited means that a process ended while something still waited for it.
var errExited = errors.New("process exited")
