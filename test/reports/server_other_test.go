//go:build unix && !linux

package reports

import (
	"syscall"
	"testing"
	"time"
)

// dieWithParent does nothing: only Linux can tie a child's life to ours.
func dieWithParent() *syscall.SysProcAttr { return nil }

// Only Linux tells what follows.
func (*server) peakMemory(*testing.T) int          { return 0 }
func (*server) processor(*testing.T) time.Duration { return 0 }
