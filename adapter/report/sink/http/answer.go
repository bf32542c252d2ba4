package httpsink

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// verdict tells what an answer to so many records means, in the terms of client.Parts.
func verdict(response *http.Response, records int) error {
	status := response.StatusCode
	cause := fmt.Errorf("the server answered %d %s", status, http.StatusText(status))
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fmt.Errorf("%w: redirects are not followed; set url to where the server really is", cause)
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity:
		all := make([]int, records)
		for i := range all {
			all[i] = i
		}
		return &report.Undelivered{Permanent: true, Records: all, Err: cause}
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return fmt.Errorf("%w; check the credential", cause)
	case status == http.StatusNotFound:
		return fmt.Errorf("%w; check url", cause)
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		status == http.StatusExpectationFailed:
		return throttled(response, cause)
	case status >= 400 && status < 500:
		return report.Permanent(cause)
	default:
		return throttled(response, cause)
	}
}

func throttled(response *http.Response, cause error) error {
	if after := client.RetryAfter(response.Header.Get("Retry-After"), time.Now()); after > 0 {
		return report.Throttled(after, cause)
	}
	return cause
}

// idempotencyKey is the same for the same records in the same order.
func idempotencyKey(part []record.Record) string {
	hash := sha256.New()
	var id []byte
	for i := range part {
		id = append(id[:0], part[i].Spool[:]...)
		id = binary.BigEndian.AppendUint64(id, part[i].Sequence)
		id = binary.BigEndian.AppendUint64(id, uint64(part[i].Index)) //nolint:gosec // none is negative
		_, _ = hash.Write(id)
	}
	const length = 16
	return hex.EncodeToString(hash.Sum(nil)[:length])
}
