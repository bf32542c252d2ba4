package mixer

import (
	"maps"
	"time"

	"github.com/gogo/protobuf/types"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// DecisionIDHeader is the header in which a denial with an HTTP response of its own carries the id of its record.
const DecisionIDHeader = "x-tollgate-decision-id"

const directHTTPResponseURL = "type.googleapis.com/istio.policy.v1beta1.DirectHttpResponse"

// checkResult is Mixer's form of a decision.
//
// Mixer reads an OK of 0/0 as a minute and 10000 uses, so an allow that may not be reused is sent as config.SingleUse, and so is,
// whatever made it, an allow whose lifetime is not positive in both fields.
func checkResult(d policy.Decision) *v1beta1.CheckResult {
	lifetime := d.Lifetime
	if d.Allowed() && !lifetime.Reusable() {
		lifetime = config.SingleUse
	}
	result := &v1beta1.CheckResult{ValidDuration: lifetime.Duration, ValidUseCount: lifetime.Uses}
	if d.Allowed() {
		return result
	}
	result.Status.Code = int32(d.Code)
	result.Status.Message = d.Message
	if d.ID != "" && d.HTTP == nil {
		result.Status.Message += " (decision " + d.ID + ")"
	}
	if d.HTTP != nil {
		response := &policyv1beta1.DirectHttpResponse{
			Code:    policyv1beta1.HttpStatusCode(d.HTTP.Status),
			Body:    d.HTTP.Body,
			Headers: d.HTTP.Headers,
		}
		if d.ID != "" {
			response.Headers = maps.Clone(response.Headers) // it is the handler's
			if response.Headers == nil {
				response.Headers = map[string]string{}
			}
			response.Headers[DecisionIDHeader] = d.ID
		}
		// A message of strings and numbers always encodes; were it not so, the denial would go out without its reply.
		if encoded, err := response.Marshal(); err == nil {
			result.Status.Details = []*types.Any{{TypeUrl: directHTTPResponseURL, Value: encoded}}
		}
	}
	return result
}

// deniedFor is how long a denied quota is sent as valid. Mixer takes 0 for 0 s as no answer at all, and lets another handler's grant
// stand in its place.
const deniedFor = time.Millisecond

// quotaResult is Mixer's form of a decision about a quota. Mixer reads the amount and how long it is valid, and passes nothing else on.
func quotaResult(instance string, d policy.Decision) *v1beta1.QuotaResult {
	result := v1beta1.QuotaResult_Result{ValidDuration: max(d.Lifetime.Duration, deniedFor)}
	switch {
	case !d.Allowed():
		result.Status.Code = int32(d.Code)
		result.Status.Message = d.Message
	case d.Lifetime.Reusable():
		result.GrantedAmount = d.Granted
	default:
		result.GrantedAmount, result.ValidDuration = d.Granted, config.SingleUse.Duration
	}
	return &v1beta1.QuotaResult{Quotas: map[string]v1beta1.QuotaResult_Result{instance: result}}
}
