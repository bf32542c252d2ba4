package mixer

import (
	"context"
	"errors"
	"time"

	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// The quota template's service and its one method.
const (
	quotaService = "quota.HandleQuotaService"
	quotaMethod  = "HandleQuota"
)

// quotaCall is the request of the quota template, once decoded.
type quotaCall struct {
	call
	// quota is request.Quota.
	quota policy.Quota
	// asks tells whether quota_request has an entry for the instance.
	asks bool
}

// errAsksNothing means that nothing is asked for the instance that the call is about.
var errAsksNothing = errors.New("quota_request has no entry for the instance")

// decodeQuota decodes a quota.HandleQuotaRequest.
func decodeQuota(message string, c *quotaCall) error {
	c.request.Quota = &c.quota
	var few [1]string
	amounts := few[:0]
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			r.Fail(decodeQuotaInstance(r.Text(typ), &c.request))
		case 2:
			c.hasConfig = true
			r.Fail(decodeAny(r.Text(typ), &c.call))
		case 3:
			c.quota.DedupID = r.Text(typ)
		case 4:
			amounts = append(amounts, r.Text(typ))
		default:
			r.Skip(typ)
		}
	}
	// Only now is it known for sure which instance it is.
	for _, amount := range amounts {
		r.Fail(c.decodeAmounts(amount))
	}
	return r.Err()
}

// decodeQuotaInstance decodes a quota.InstanceMsg.
func decodeQuotaInstance(message string, request *policy.Request) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			request.Quota.Dimensions = request.Quota.Dimensions.AppendEntry(&r, typ)
		case instanceNameField:
			request.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// decodeAmounts decodes a QuotaRequest. It is a map by instance, of which Mixer fills in one entry; of several for the instance the
// last counts.
func (c *quotaCall) decodeAmounts(message string) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		if field != 1 {
			r.Skip(typ)
			continue
		}
		var (
			instance string
			asked    policy.Quota
		)
		entry := wire.NewReader(r.Text(typ))
		for field, typ, ok := entry.Next(); ok; field, typ, ok = entry.Next() {
			switch field {
			case 1:
				instance = entry.Text(typ)
			case 2:
				asked = policy.Quota{}
				entry.Fail(decodeAmount(entry.Text(typ), &asked))
			default:
				entry.Skip(typ)
			}
		}
		r.Fail(entry.Err())
		if instance == c.request.Instance {
			c.quota.Amount, c.quota.BestEffort, c.asks = asked.Amount, asked.BestEffort, true
		}
	}
	return r.Err()
}

// decodeAmount decodes a QuotaRequest.QuotaParams.
func decodeAmount(message string, quota *policy.Quota) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			quota.Amount = int64(r.Number(typ))
		case 2:
			quota.BestEffort = r.Number(typ) != 0
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// quota answers one quota call. It always has an answer.
func (d *Door) quota(ctx context.Context, text string) (result *v1beta1.QuotaResult) {
	var call quotaCall
	defer func() {
		if r := recover(); r != nil {
			// Nobody was told of this decision: the observer itself panicked.
			result = quotaResult(call.request.Instance, panicked(quotaService, r))
		}
	}()
	start := time.Now()
	d.checks.Served(start)
	handler, _, decision := d.decide(ctx, d.quotas, quotaService, &call.call, func() error {
		err := decodeQuota(text, &call)
		if err == nil && call.hasConfig && !call.asks {
			err = errAsksNothing
		}
		return err
	})
	decision.Asked = max(call.quota.Amount, 0)
	if decision.Failure != nil && decision.Allowed() {
		decision.Granted = decision.Asked
	}
	elapsed := time.Since(start)
	decision.ID = d.recorder.Record(d.caller(ctx), handler, &call.request, decision, elapsed)
	d.observer.Decided(handler, call.request.Instance, decision, elapsed)
	if d.tracer != nil {
		d.tracer.Checked(ctx, start, quotaService, quotaMethod, handler, &call.request, decision)
	}
	return quotaResult(call.request.Instance, decision)
}
