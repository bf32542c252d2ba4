package adapter

import (
	"log/slog"
	"os"
	"runtime"
)

// TuneProcessors gives the scheduler at least two processors, as Go does by itself where the control group allows one or less but the
// machine has more. With a single one, checks wait behind whatever runs, a disk that is being synced holds everybody up, and the network is
// looked at every ten milliseconds where there is much to do (bench/overload). GOMAXPROCS in the environment wins. It is for the process as
// a whole, so its command calls it.
func TuneProcessors(logger *slog.Logger) {
	const least = 2
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < least {
		runtime.GOMAXPROCS(least)
		logger.Info("there is one processor; work is scheduled as if there were two", "gomaxprocs", least)
	}
}
