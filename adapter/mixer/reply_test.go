package mixer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// sent returns a reply as Mixer reads it.
func sent(t *testing.T, d policy.Decision) *v1beta1.CheckResult {
	t.Helper()
	data, err := NewCodec().Marshal(checkResult(d))
	require.NoError(t, err)
	result := &v1beta1.CheckResult{}
	require.NoError(t, result.Unmarshal(data.Materialize()))
	return result
}

func lifetimeOf(result *v1beta1.CheckResult) config.Lifetime {
	return config.Lifetime{Duration: result.ValidDuration, Uses: result.ValidUseCount}
}

func TestReplyToAnAllow(t *testing.T) {
	single := config.Lifetime{Duration: -time.Second, Uses: 1}
	for name, c := range map[string]struct{ lifetime, want config.Lifetime }{
		"reusable":       {config.Lifetime{Duration: 5 * time.Second, Uses: 10_000}, config.Lifetime{Duration: 5 * time.Second, Uses: 10_000}},
		"barely":         {config.Lifetime{Duration: 1, Uses: 1}, config.Lifetime{Duration: 1, Uses: 1}},
		"single-use":     {config.SingleUse, single},
		"nothing said":   {config.Lifetime{}, single},
		"no uses":        {config.Lifetime{Duration: 5 * time.Second}, single},
		"no duration":    {config.Lifetime{Uses: 5}, single},
		"negative uses":  {config.Lifetime{Duration: 5 * time.Second, Uses: -1}, single},
		"all negative":   {config.Lifetime{Duration: -5, Uses: -1}, single},
		"long, negative": {config.Lifetime{Duration: -time.Hour, Uses: 10}, single},
	} {
		t.Run(name, func(t *testing.T) {
			got := sent(t, policy.Decision{Lifetime: c.lifetime, Message: "not for an allow", HTTP: &config.HTTPResponse{Status: 401}})
			assert.Equal(t, &v1beta1.CheckResult{ValidDuration: c.want.Duration, ValidUseCount: c.want.Uses}, got)
		})
	}
}

func TestReplyToADenial(t *testing.T) {
	for name, lifetime := range map[string]config.Lifetime{
		"not reused": {},
		"reused":     {Duration: 3 * time.Second, Uses: 9},
		// What a denial says about its validity is passed on whatever it is: Mixer does not change it.
		"half": {Duration: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			got := sent(t, policy.Decision{Code: config.Unauthenticated, Message: "no token", Lifetime: lifetime})
			assert.EqualValues(t, 16, got.Status.Code)
			assert.Equal(t, "no token", got.Status.Message)
			assert.Empty(t, got.Status.Details)
			assert.Equal(t, lifetime, lifetimeOf(got))
		})
	}
}

func TestReplyCarriesAnHTTPResponse(t *testing.T) {
	got := sent(t, policy.Decision{Code: config.PermissionDenied, Message: "no", HTTP: &config.HTTPResponse{
		Status: 401, Body: "log in first", Headers: map[string]string{"WWW-Authenticate": `Basic realm="x"`, "X-Why": "no token"},
	}})
	require.Len(t, got.Status.Details, 1)
	assert.Equal(t, "type.googleapis.com/istio.policy.v1beta1.DirectHttpResponse", got.Status.Details[0].TypeUrl)
	response := &policyv1beta1.DirectHttpResponse{}
	require.NoError(t, response.Unmarshal(got.Status.Details[0].Value))
	assert.Equal(t, &policyv1beta1.DirectHttpResponse{
		Code: policyv1beta1.Unauthorized, Body: "log in first", Headers: map[string]string{"WWW-Authenticate": `Basic realm="x"`, "X-Why": "no token"},
	}, response)

	// Code 0 is Mixer's word for "derive it".
	got = sent(t, policy.Decision{Code: config.PermissionDenied, HTTP: &config.HTTPResponse{Body: "b"}})
	response = &policyv1beta1.DirectHttpResponse{}
	require.NoError(t, response.Unmarshal(got.Status.Details[0].Value))
	assert.EqualValues(t, 0, response.Code)
}

// Every failure, closed and opened: UNAVAILABLE or one single use, and never INTERNAL.
func TestReplyToAFailure(t *testing.T) {
	for _, class := range config.FailureClasses() {
		failure := policy.Fail(class, "detail for operators")
		closed := sent(t, failure.Resolve(config.Modes{}))
		assert.EqualValues(t, 14, closed.Status.Code, class)
		assert.NotContains(t, closed.Status.Message, "detail", class)
		assert.Zero(t, closed.ValidDuration, class)
		assert.Zero(t, closed.ValidUseCount, class)

		opened := sent(t, failure.Resolve(config.Modes{}.With(class, config.Open)))
		if class == config.MalformedRequest {
			assert.EqualValues(t, 14, opened.Status.Code, class)
			continue
		}
		assert.Equal(t, &v1beta1.CheckResult{ValidDuration: -time.Second, ValidUseCount: 1}, opened, class)
	}
}
