package mesh

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPortsAreNobodyElses opens a port's lock once more, which is what another process does.
func TestPortsAreNobodyElses(t *testing.T) {
	t.Parallel()
	port, err := FreePort()
	require.NoError(t, err)
	lock, err := lockPort(port)
	require.NoError(t, err)
	assert.Nil(t, lock)
}
