package quota

import (
	"context"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// Remembered is how long a grant is remembered for calls that repeat it. Proxies repeat a call within their own deadline of five
// seconds; ids are not unique for long.
const Remembered = 10 * time.Second

// Store keeps counts.
type Store interface {
	// Take takes from one count, as one step that no other can come between. It returns when ctx is done at the latest. An error
	// means that nothing is known of the count; a *policy.Failure among them says of which class it is.
	Take(ctx context.Context, request Take) (Taken, error)
}

// Take is what is asked of a store.
type Take struct {
	// Key is the count's. A count that there is not is one that nothing was taken from.
	Key Key
	// Repeat is equal for calls that repeat one another; zero for a call that cannot be told from others. What a call of the last
	// [Remembered] with the same one took is the answer, and nothing more is taken.
	Repeat Key
	// Amount is how much is asked for, at least 1.
	Amount int64
	// BestEffort means that less will do.
	BestEffort bool
	// Limit is the count's, the same in every call with this Key.
	Limit config.QuotaLimit
	// Quota names the quota that the count belongs to, and MaxKeys is how many it may have at once, in stores that bound it.
	Quota   string
	MaxKeys int
}

// Taken is what a store has taken.
type Taken struct {
	// Amount is how much; 0 for nothing.
	Amount int64
	// Rest is how long the window in which it was taken goes on; none of a token bucket.
	Rest time.Duration
}
