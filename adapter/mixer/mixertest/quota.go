package mixertest

import (
	"context"

	"google.golang.org/grpc"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/template/quota"
)

// QuotaMethod is the quota template's one method.
const QuotaMethod = "/quota.HandleQuotaService/HandleQuota"

// QuotaInstance is the instance that quota calls are about.
const QuotaInstance = "requests.instance.istio-system"

// Quota is the bytes of a call for an amount, with dimensions that are texts. The id is what the proxy sends; Mixer puts the
// quota's name behind it.
func Quota(params []byte, id string, dimensions map[string]string, amount int64, bestEffort bool) []byte {
	values := make(map[string]*policyv1beta1.Value, len(dimensions))
	for name, text := range dimensions {
		values[name] = Text(text)
	}
	return encode(&quota.HandleQuotaRequest{
		Instance:      &quota.InstanceMsg{Name: QuotaInstance, Dimensions: values},
		AdapterConfig: adapterConfig(params),
		DedupId:       id + "requests",
		QuotaRequest: &v1beta1.QuotaRequest{Quotas: map[string]v1beta1.QuotaRequest_QuotaParams{
			QuotaInstance: {Amount: amount, BestEffort: bestEffort},
		}},
	})
}

// SendQuota makes a quota call of the given bytes, and returns what is answered for QuotaInstance, as Mixer does: nothing where nothing is.
func SendQuota(ctx context.Context, connection grpc.ClientConnInterface, call []byte, options ...grpc.CallOption) (v1beta1.QuotaResult_Result, error) {
	var reply []byte
	if err := connection.Invoke(ctx, QuotaMethod, call, &reply, append(options, grpc.ForceCodecV2(Raw{}))...); err != nil {
		return v1beta1.QuotaResult_Result{}, err
	}
	result := &v1beta1.QuotaResult{}
	err := result.Unmarshal(reply)
	return result.Quotas[QuotaInstance], err
}
