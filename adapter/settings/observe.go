package settings

import "time"

// Traces says where the spans of calls go.
type Traces struct {
	// OTLP is where they are sent; nil for nowhere, and then none are made. It has the settings of a sink of that kind.
	OTLP *OTLPSink `yaml:"otlp"`
	// SampleOneIn is of how many calls one is sampled, where the trace that it belongs to does not say.
	SampleOneIn int64 `yaml:"sample_one_in"`
}

func (t Traces) validate() []error {
	return outOf([]bound{{"traces.sample_one_in", t.SampleOneIn, 1, 1 << 40, false}})
}

// Readiness says when the process should get calls.
type Readiness struct {
	// SourceWait is how long after its start the process is not ready for want of sources that were never loaded: key sets, lists, users and
	// policies.
	SourceWait time.Duration `yaml:"source_wait"`
}

func (r Readiness) validate() []error {
	return outOf([]bound{{"readiness.source_wait", int64(r.SourceWait), 0, int64(8760 * time.Hour), true}})
}
