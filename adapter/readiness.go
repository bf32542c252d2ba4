package adapter

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
)

// readiness returns the conditions of what the adapter is made of. Whoever adds a room whose handlers need something from elsewhere adds
// a condition here.
func (a *Adapter) readiness() []readiness.Condition {
	conditions := []readiness.Condition{{Name: "serving", Probe: func() error {
		if !a.serving.Load() {
			return errors.New("starting or shutting down")
		}
		return nil
	}}}
	conditions = append(conditions, a.transport.Conditions()...)
	for _, source := range a.sources() {
		for _, name := range slices.Sorted(maps.Keys(source.stats())) {
			conditions = append(conditions, readiness.Condition{Name: source.setting + "." + name, Source: true, Probe: func() error {
				if source.stats()[name].Loaded {
					return nil
				}
				return source.problem(name)
			}})
		}
	}
	// A disk that is full must not keep checks away: all replicas may have one.
	for _, name := range a.pipeline.Sinks() {
		conditions = append(conditions, readiness.Condition{Name: "reports.sinks." + name, Calls: readiness.Reports, Probe: func() error {
			return a.pipeline.Stats()[name].Fault
		}})
	}
	return conditions
}

// watchReadiness tells the health service and the log what calls can be served, until ctx is done.
func (a *Adapter) watchReadiness(ctx context.Context) error {
	const every = time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var checks, reports error
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		serving, checksNow, reportsNow := a.updateHealth()
		if !serving {
			continue
		}
		switch {
		case checksNow != nil && checks == nil:
			a.logger.Error("not ready for calls", "error", checksNow)
		case checksNow == nil && checks != nil:
			a.logger.Info("ready for calls")
		}
		// What keeps all calls away was said.
		if checksNow == nil {
			switch {
			case reportsNow != nil && reports == nil:
				a.logger.Error("reports cannot be accepted; checks go on", "error", reportsNow)
			case reportsNow == nil && reports != nil:
				a.logger.Info("reports can be accepted again")
			}
			reports = reportsNow
		}
		checks = checksNow
	}
}

// updateHealth tells the health service what is found now, and returns why checks and reports cannot be served. It does nothing where
// nothing is served at all.
func (a *Adapter) updateHealth() (serving bool, checks, reports error) {
	a.statusMu.Lock()
	defer a.statusMu.Unlock()
	if !a.serving.Load() {
		return false, nil, nil
	}
	checks, reports = a.conditions.For(readiness.All).Err(), a.conditions.For(readiness.Reports).Err()
	a.setStatus("", checks == nil)
	for _, service := range mixer.CheckServices() {
		a.setStatus(service, checks == nil)
	}
	for _, service := range mixer.ReportServices() {
		a.setStatus(service, reports == nil)
	}
	return true, checks, reports
}

// setServing begins or ends to serve, as far as the health service and whoever asks the admin listener are concerned.
func (a *Adapter) setServing(serving bool) {
	a.statusMu.Lock()
	a.serving.Store(serving)
	if !serving {
		for _, service := range slices.Concat([]string{""}, mixer.CheckServices(), mixer.ReportServices()) {
			a.setStatus(service, false)
		}
	}
	a.statusMu.Unlock()
	_, _, _ = a.updateHealth()
}

func (a *Adapter) setStatus(service string, serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus(service, status)
}
