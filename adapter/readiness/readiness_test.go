package readiness_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/readiness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConditions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var certificate, keys, disk error
		c := &readiness.Conditions{SourceWait: time.Minute}
		c.Add(readiness.Condition{Name: "tls.cert", Probe: func() error { return certificate }})
		c.Add(
			readiness.Condition{Name: "key_sets.idp", Source: true, Probe: func() error { return keys }},
			readiness.Condition{Name: "reports.sinks.main", Calls: readiness.Reports, Probe: func() error { return disk }},
		)
		expect := func(all, reports, verbose string) {
			t.Helper()
			for calls, want := range map[readiness.Calls]string{readiness.All: all, readiness.Reports: reports} {
				if err := c.For(calls).Err(); want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, want)
				}
			}
			assert.Equal(t, verbose, c.For(readiness.Reports).String())
		}
		expect("", "", "[+]tls.cert ok\n[+]key_sets.idp ok\n[+]reports.sinks.main ok\n")
		assert.Len(t, c.For(readiness.All), 2, "checks need no disk")

		disk = errors.New("full")
		expect("", "reports.sinks.main: full", "[+]tls.cert ok\n[+]key_sets.idp ok\n[-]reports.sinks.main failed: full\n")

		keys = errors.New("never loaded")
		time.Sleep(time.Hour)
		expect("key_sets.idp: never loaded", "key_sets.idp: never loaded\nreports.sinks.main: full",
			"[+]tls.cert ok\n[-]key_sets.idp failed: never loaded\n[-]reports.sinks.main failed: full\n")
		c.Start()
		time.Sleep(59 * time.Second)
		require.Error(t, c.For(readiness.All).Err(), "the time begins with the start")
		time.Sleep(time.Second)
		expect("", "reports.sinks.main: full", "[+]tls.cert ok\n[!]key_sets.idp not waited for any more: never loaded\n[-]reports.sinks.main failed: full\n")

		certificate, disk = errors.New("expired"), nil
		expect("tls.cert: expired", "tls.cert: expired", "[-]tls.cert failed: expired\n[!]key_sets.idp not waited for any more: never loaded\n[+]reports.sinks.main ok\n")
	})
}

// Who waits for nothing is ready at once.
func TestNoWait(t *testing.T) {
	t.Parallel()
	c := &readiness.Conditions{}
	c.Add(readiness.Condition{Name: "lists.away", Source: true, Probe: func() error { return errors.New("never loaded") }})
	c.Start()
	assert.NoError(t, c.For(readiness.All).Err())
}
