package transport

import (
	"errors"
	"fmt"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/readiness"
)

// Conditions are what has to hold for calls to get through: the certificate has to be valid now, and whoever calls with tokens of an
// issuer needs its keys.
func (t *Transport) Conditions() (conditions []readiness.Condition) {
	if t.certificates != nil {
		conditions = append(conditions, readiness.Condition{Name: "tls.cert", Probe: t.certificates.valid})
	}
	for _, keys := range t.issuerKeys() {
		conditions = append(conditions, readiness.Condition{Name: keys.setting, Source: true, Probe: func() error {
			if keys.current() == nil {
				return errors.New("the issuer's keys were never loaded")
			}
			return nil
		}})
	}
	return conditions
}

// valid returns why callers cannot believe the certificate that is shown to them now; nil where they can. New contents of the file that
// cannot be used are no reason: what was there before is still shown, and all replicas may have got the same ones.
func (c *certificates) valid() error {
	now, pair := time.Now(), c.pair.value.Load()
	switch end := c.pair.file().Expires; {
	case !now.Before(end):
		return fmt.Errorf("the certificate or one of its chain expired on %s", end.UTC().Format(time.RFC3339))
	case pair.Leaf != nil && now.Before(pair.Leaf.NotBefore):
		return fmt.Errorf("the certificate is not valid before %s", pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}
