package credential

import (
	"maps"
	"net/http"
	"strings"

	"github.com/tollgate-mesh/tollgate/config"
)

// Challenge returns the denial that tells a caller how to authenticate: UNAUTHENTICATED, HTTP 401 with the header WWW-Authenticate; and
// otherwise what the operator wrote. Where that has an HTTP status or the header, these hold.
func Challenge(own config.Denial, challenge string) *config.Denial {
	denial := own
	denial.Code = config.Unauthenticated
	response := config.HTTPResponse{}
	if own.HTTP != nil {
		response = *own.HTTP
	}
	if response.Status == 0 {
		response.Status = http.StatusUnauthorized
	}
	response.Headers = withChallenge(response.Headers, challenge)
	denial.HTTP = &response
	return &denial
}

// withChallenge adds the header, unless the operator wrote one.
func withChallenge(headers map[string]string, challenge string) map[string]string {
	const name = "WWW-Authenticate"
	for key := range headers {
		if strings.EqualFold(key, name) {
			return headers
		}
	}
	all := map[string]string{name: challenge}
	maps.Copy(all, headers)
	return all
}
