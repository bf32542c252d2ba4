package reports

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// scrape is what /metrics said at one moment.
type scrape map[string]*dto.MetricFamily

func (s *server) scrape() (scrape, error) {
	_, body, err := s.get("/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(body))
}

func (s *server) mustScrape(t *testing.T) scrape {
	t.Helper()
	metrics, err := s.scrape()
	require.NoError(t, err)
	return metrics
}

// sum adds up the samples of a metric that have these labels, each as name=value.
func (s scrape) sum(metric string, labels ...string) (sum float64) {
	for _, m := range s[metric].GetMetric() {
		matching := 0
		for _, label := range m.GetLabel() {
			if slices.Contains(labels, label.GetName()+"="+label.GetValue()) {
				matching++
			}
		}
		if matching == len(labels) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// accounts are those of one sink, in records.
type accounts struct{ accepted, recovered, delivered, filtered, deadLettered, dropped, pending float64 }

func (s scrape) accounts(sink string) accounts {
	of := func(metric string) float64 { return s.sum("tollgate_report_"+metric, "sink="+sink) }
	return accounts{
		accepted: of("accepted_total"), recovered: of("recovered_total"), delivered: of("delivered_total"), filtered: of("filtered_total"),
		deadLettered: of("dead_lettered_total"), dropped: of("dropped_total"), pending: of("pending"),
	}
}

func (a accounts) balance() bool {
	return a.accepted+a.recovered == a.delivered+a.filtered+a.deadLettered+a.dropped+a.pending
}

func (a accounts) String() string {
	return fmt.Sprintf("accepted %.0f + recovered %.0f = delivered %.0f + filtered %.0f + dead-lettered %.0f + dropped %.0f + pending %.0f",
		a.accepted, a.recovered, a.delivered, a.filtered, a.deadLettered, a.dropped, a.pending)
}

// checker asks for checks while reports have their troubles: they must not notice.
type checker struct {
	cancel func()
	ended  chan struct{}

	answered int
	slowest  time.Duration
}

// check sends a check every 10 ms until it is ended. Every one has to be answered, and allowed.
func (s *server) check(t *testing.T) *checker {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &checker{cancel: cancel, ended: make(chan struct{})}
	connection := s.connect(t)
	call := mixertest.Call(&configpb.Params{Name: "checked", AuthKey: proto.String("abc")}, "abc")
	go func() {
		defer close(c.ended)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			begin := time.Now()
			patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			result, err := mixertest.Send(patient, connection, call)
			cancel()
			if !assert.NoError(t, err, "a check was not answered") || !assert.Zero(t, result.Status.Code, "a check was not allowed") {
				return
			}
			c.answered++
			c.slowest = max(c.slowest, time.Since(begin))
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { c.cancel(); <-c.ended })
	return c
}

// end ends the checks and says how many there were.
func (c *checker) end(t *testing.T) string {
	t.Helper()
	c.cancel()
	<-c.ended
	require.Positive(t, c.answered)
	return fmt.Sprintf("%d checks allowed, the slowest after %s", c.answered, c.slowest.Round(100*time.Microsecond))
}

// auditor looks at the accounts again and again.
type auditor struct {
	cancel func()
	ended  chan struct{}

	samples int
	apart   time.Duration // the longest time between two samples of one life
}

// audit scrapes until the auditor is ended, as often as finds accounts that are not of one moment, and fails the test where those of a
// sink do not balance. While the process is away there is nothing to see.
func (s *server) audit(t *testing.T, sinks ...string) *auditor {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &auditor{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(a.ended)
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		var last time.Time
		for ctx.Err() == nil {
			metrics, err := s.scrape()
			if err != nil {
				last = time.Time{}
			} else {
				for _, sink := range sinks {
					account := metrics.accounts(sink)
					assert.True(t, account.balance(), "%s: %s", sink, account)
				}
				now := time.Now()
				a.apart = max(a.apart, now.Sub(cmp.Or(last, now)))
				a.samples++
				last = now
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { a.cancel(); <-a.ended })
	return a
}

// end ends the auditing and says how much of it there was.
func (a *auditor) end(t *testing.T) string {
	t.Helper()
	a.cancel()
	<-a.ended
	require.Positive(t, a.samples, "the accounts were never seen")
	return fmt.Sprintf("accounts balanced in %d samples, at most %s apart", a.samples, a.apart.Round(time.Millisecond))
}

// awaitDelivered waits until nothing is pending, and returns the accounts of then.
func (s *server) awaitDelivered(t *testing.T, sink string) accounts {
	t.Helper()
	var account accounts
	s.await(t, "all to be delivered to "+sink, func() bool {
		metrics, err := s.scrape()
		if err != nil {
			return false
		}
		account = metrics.accounts(sink)
		return account.pending == 0
	})
	return account
}
