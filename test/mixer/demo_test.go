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
		`(?m)^the same, another bucket +/buckets/8 +ALLOW .*rego: policy_allow \(remembered\)`,
		`(?m)^token, an old partner key +/partners/7 +ALLOW .*partners: header_match`,
		`(?m)^  20 granted, valid for 5s\n  10 granted, valid for 5s$`,
		`(?m)^  tollgate_shadow_decisions_total\{divergence="would_deny",handler="partners"\} 1$`,
		`(?m)^  \{"time":".*","handler":"rego","outcome":"deny","code":"PERMISSION_DENIED","check":"rego/mixerauthz.allow","reason":"policy_deny"\}$`,
		`(?m)^token, guests read +/buckets/7 +DENY PERMISSION_DENIED `,
		`(?m)^token, policy is broken +/broken-closed +DENY UNAVAILABLE `,
		`(?m)^token, broken but opened +/broken-open +ALLOW .* this request only`,
		`11 are in the access log; the first:\n\n\{"id":"[0-9a-f]{32}-\d+-0","kind":"logentry","handler":"access-log".*"path":"/reviews/1".*"user":"\*\*\*"`,
		`(?m)^  istio_requests_total\{.*response_code="200".*\} 5$`,
		`(?m)^  istio_requests_total\{.*response_code="403".*\} 5$`,
		`(?m)^  tollgate_report_accepted_total\{sink="access-log"\} 12$`,
		`(?m)^  tollgate_report_delivered_total\{sink="metrics"\} 33$`,
		`(?m)^Try next:`,
	} {
		assert.Regexp(t, line, string(out))
	}
}
