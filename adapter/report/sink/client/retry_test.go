package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "300": 5 * time.Minute, "301": 5 * time.Minute, "99999999999999999999999": 5 * time.Minute,
		"-1": 0, "1.5": 0, "soon": 0, " 7": 0,
		"Sat, 21 Nov 2026 12:00:30 GMT": 30 * time.Second, "Sat, 21 Nov 2026 13:00:00 GMT": 5 * time.Minute,
		"Sat, 21 Nov 2026 11:00:00 GMT": 0, "Saturday, 21-Nov-26 12:01:00 GMT": time.Minute, "Sat Nov 21 12:00:05 2026": 5 * time.Second,
	} {
		assert.Equal(t, want, RetryAfter(value, now), value)
	}
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, seed := range []string{"7", "-7", "Sat, 21 Nov 2026 12:00:30 GMT", "18446744073709551616"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if after := RetryAfter(value, now); after < 0 || after > MaxRetryAfter {
			t.Fatal(after)
		}
	})
}
