// Package outage runs Tollgate with four sinks of which one works, one is dead and two go away under load and come back.
package outage

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if directory := os.Getenv(brokerDirectory); directory != "" {
		if err := serveFakeBroker(directory, os.Getenv(brokerPort), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is the fake broker's main
		}
		return
	}
	goleak.VerifyTestMain(m)
}
