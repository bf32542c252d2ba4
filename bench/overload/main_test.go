// Package overload measures what checks notice of a flood of reports.
package overload

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(floodEnv); address != "" {
		if err := flood(address, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is the flood's main
		}
		return
	}
	goleak.VerifyTestMain(m)
}
