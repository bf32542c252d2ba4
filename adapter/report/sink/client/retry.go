package client

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// MaxRetryAfter is how long the other side may make us wait.
const MaxRetryAfter = 5 * time.Minute

// RetryAfter reads both forms of the header Retry-After, seconds and a date. What is neither, or in the past, is 0.
func RetryAfter(value string, now time.Time) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) { // then it is the largest there is
		return time.Duration(min(seconds, uint64(MaxRetryAfter/time.Second))) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), MaxRetryAfter)
}
