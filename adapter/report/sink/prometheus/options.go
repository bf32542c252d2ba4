package promsink

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Options are a sink's settings. The zero value of a field stands for its default.
type Options struct {
	// Namespace is put before the name of every metric, with an underscore: letters, digits and underscores, 64 at most; none by
	// default.
	Namespace string
	// MaxSeries is how many series are kept, a histogram of one set of labels being one: 100 to 1 000 000, by default 10 000.
	MaxSeries int
	// IdleExpiry is after how long without a value a series is forgotten: 1 minute to 365 days, by default 10 minutes.
	IdleExpiry time.Duration
}

// The bounds of Options, and what is no setting.
const (
	minSeries, defaultSeries, maxSeries = 100, 10_000, 1_000_000
	minIdle, defaultIdle, maxIdle       = time.Minute, 10 * time.Minute, 365 * 24 * time.Hour

	maxNamespaceBytes = 64
	// maxMetrics is how many names there can be. They come from handlers and instances, of which nobody has so many on purpose.
	maxMetrics   = 1000
	maxNameBytes = 300
	// maxLabels and maxLabelBytes bound the labels of a series, and so what max_series means in memory.
	maxLabels     = 64
	maxLabelBytes = 8 << 10
	maxBounds     = 100
)

// Validate returns all that is wrong with the settings.
func (o Options) Validate() error {
	var problems []error
	if o.Namespace != "" {
		switch {
		case len(o.Namespace) > maxNamespaceBytes:
			problems = append(problems, fmt.Errorf("namespace has %d bytes; use at most %d", len(o.Namespace), maxNamespaceBytes))
		case !isLabelName(o.Namespace):
			problems = append(problems, fmt.Errorf("namespace is %q; begin with a letter and go on with letters, digits and single underscores", o.Namespace))
		case isReserved(o.Namespace + "_"):
			problems = append(problems, fmt.Errorf("namespace is %q, by which Tollgate's own metrics begin; use another", o.Namespace))
		}
	}
	if n := o.MaxSeries; n != 0 && (n < minSeries || n > maxSeries) {
		problems = append(problems, fmt.Errorf("max_series is %d; use %d to %d", n, minSeries, maxSeries))
	}
	if d := o.IdleExpiry; d != 0 && (d < minIdle || d > maxIdle) {
		problems = append(problems, fmt.Errorf("idle_expiry is %s; use %s to %s", d, minIdle, maxIdle))
	}
	return errors.Join(problems...)
}

func (o Options) withDefaults() Options {
	o.MaxSeries = cmp.Or(o.MaxSeries, defaultSeries)
	o.IdleExpiry = cmp.Or(o.IdleExpiry, defaultIdle)
	return o
}

// isReserved reports whether a name may be one of those that the process has beside the reported ones. Two metrics of one name would
// make the whole page invalid.
func isReserved(name string) bool {
	for _, prefix := range []string{"tollgate_", "go_", "process_", "promhttp_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
