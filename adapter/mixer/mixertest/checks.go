package mixertest

import (
	"github.com/gogo/protobuf/types"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/template/apikey"
	"github.com/tollgate-mesh/tollgate/template/checknothing"
	"github.com/tollgate-mesh/tollgate/template/listentry"
)

// The methods of the check templates beside authorization.
const (
	APIKeyMethod    = "/apikey.HandleApiKeyService/HandleApiKey" //nolint:gosec // a method and no key
	ListEntryMethod = "/listentry.HandleListEntryService/HandleListEntry"
	NothingMethod   = "/checknothing.HandleCheckNothingService/HandleCheckNothing"
)

// APIKey is the bytes of a call about an API call.
func APIKey(params []byte, instance *apikey.InstanceMsg) []byte {
	return encode(&apikey.HandleApiKeyRequest{Instance: instance, AdapterConfig: adapterConfig(params), DedupId: "14"})
}

// ListEntry is the bytes of a call about a value.
func ListEntry(params []byte, value *policyv1beta1.Value) []byte {
	return encode(&listentry.HandleListEntryRequest{
		Instance:      &listentry.InstanceMsg{Name: "value.instance.istio-system", Value: value},
		AdapterConfig: adapterConfig(params),
		DedupId:       "15",
	})
}

// Nothing is the bytes of a call about nothing in particular.
func Nothing(params []byte) []byte {
	return encode(&checknothing.HandleCheckNothingRequest{
		Instance:      &checknothing.InstanceMsg{Name: "nothing.instance.istio-system"},
		AdapterConfig: adapterConfig(params),
		DedupId:       "16",
	})
}

func adapterConfig(params []byte) *types.Any {
	return &types.Any{TypeUrl: config.TypeURL, Value: params}
}

func encode(message interface{ Marshal() ([]byte, error) }) []byte {
	encoded, err := message.Marshal()
	if err != nil {
		panic(err)
	}
	return encoded
}
