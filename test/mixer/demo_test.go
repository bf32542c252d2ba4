package mixer_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDemo runs make demo's program.
func TestDemo(t *testing.T) {
	demo := exec.CommandContext(t.Context(), "go", "run", "./cmd/demo")
	demo.Env = append(os.Environ(), "GOWORK=off")
	out, err := demo.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, line := range []string{
		`(?m)^the right token +/reviews/1 +ALLOW +auth-header: header_match +5s, 1000 uses`,
		`(?m)^a wrong token +/reviews/1 +DENY PERMISSION_DENIED +auth-header: header_mismatch +not reused`,
		`(?m)^token, bucket-admins read +/buckets/7 +ALLOW `,
		`(?m)^token, guests read +/buckets/7 +DENY PERMISSION_DENIED `,
		`(?m)^token, policy is broken +/broken-closed +DENY UNAVAILABLE `,
		`(?m)^token, broken but opened +/broken-open +ALLOW .* this request only`,
		`(?m)^Try next:`,
	} {
		assert.Regexp(t, line, string(out))
	}
}
