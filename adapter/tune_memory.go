package adapter

import (
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// TuneMemory trades memory for time: the heap may grow to five times what is in use before it is collected, which takes about a fifth
// off the CPU of a check (BenchmarkServer), but not beyond four fifths of what the control group allows. GOGC and GOMEMLIMIT in
// the environment win. It is for the process as a whole, so its command calls it.
func TuneMemory(logger *slog.Logger) {
	const percent, share = 400, 0.8
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, err := memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(share))
	switch {
	case err == nil && limit > 0:
		logger.Info("memory is limited by the control group", "soft_limit_bytes", limit)
	case err != nil && !errors.Is(err, memlimit.ErrNoLimit) && !errors.Is(err, memlimit.ErrNoCgroup) && !errors.Is(err, memlimit.ErrCgroupsNotSupported):
		logger.Warn("the control group's memory limit cannot be read; set GOMEMLIMIT", "error", err)
	}
}
