package otlp

import (
	"time"

	logspb "go.opentelemetry.io/proto/slim/otlp/logs/v1"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// newLogRecord makes the log record of a log entry, an edge, a decision or an empty report.
func newLogRecord(r *record.Record, a *attributes) (*logspb.LogRecord, error) {
	l := &logspb.LogRecord{}
	l.ObservedTimeUnixNano, _ = nanos(r.Arrived)
	a.begin()
	var instance string
	switch r.Kind {
	case record.KindLogEntry:
		e, err := record.DecodeLogEntry(r.Raw)
		if err != nil {
			return nil, err
		}
		instance = e.Name
		l.EventName = validText(record.ShortInstance(e.Name))
		l.SeverityText = validText(e.Severity)
		l.SeverityNumber = logspb.SeverityNumber(r.Delivery.Severity(e.Severity))
		a.identify(r, r.Handler, e.Name)
		a.timestamp(l, e.Timestamp)
		a.resource(e.MonitoredResourceType, e.MonitoredResourceDimensions)
		a.values("variables", "", e.Variables)
	case record.KindEdge:
		e, err := record.DecodeEdge(r.Raw)
		if err != nil {
			return nil, err
		}
		instance = e.Name
		a.identify(r, r.Handler, e.Name)
		a.timestamp(l, e.Timestamp)
		a.edge(&e)
	case record.KindDecision:
		d, err := record.DecodeDecision(r.Raw)
		if err != nil {
			return nil, err
		}
		instance = d.Instance
		handler := d.Handler
		if handler == "" {
			handler = r.Handler
		}
		l.TimeUnixNano = l.ObservedTimeUnixNano
		l.SeverityNumber = decisionSeverity(d.Outcome)
		a.identify(r, handler, d.Instance)
		a.decision(&d)
	case record.KindNothing:
		n, err := record.DecodeNothing(r.Raw)
		if err != nil {
			return nil, err
		}
		instance = n.Name
		a.identify(r, r.Handler, n.Name)
	case record.KindMetric, record.KindTraceSpan:
		return nil, record.ErrKind
	}
	if r.Kind != record.KindLogEntry {
		l.EventName = r.Kind.String()
	}
	if short := record.ShortInstance(instance); short != "" {
		l.Body = textValue(short)
	}
	l.Attributes = a.take()
	return l, nil
}

// timestamp sets the time of a log record; OTLP has none before 1970.
func (a *attributes) timestamp(l *logspb.LogRecord, t time.Time) {
	var ok bool
	if l.TimeUnixNano, ok = nanos(t); !ok && !t.IsZero() {
		a.text(attrTimestamp, timeText(t))
	}
}

func (a *attributes) edge(e *record.Edge) {
	a.text("source_workload_namespace", e.SourceWorkloadNamespace)
	a.text("source_workload_name", e.SourceWorkloadName)
	a.text("source_owner", e.SourceOwner)
	a.text("source_uid", e.SourceUID)
	a.text("destination_workload_namespace", e.DestinationWorkloadNamespace)
	a.text("destination_workload_name", e.DestinationWorkloadName)
	a.text("destination_owner", e.DestinationOwner)
	a.text("destination_uid", e.DestinationUID)
	a.text("destination_service_namespace", e.DestinationServiceNamespace)
	a.text("destination_service_name", e.DestinationServiceName)
	a.text("context_protocol", e.ContextProtocol)
	a.text("api_protocol", e.APIProtocol)
}

func (a *attributes) decision(d *record.Decision) {
	a.text("decision_id", d.ID)
	a.text("outcome", d.Outcome)
	a.text("code", d.Code)
	a.text("check", d.Check)
	a.text("reason", d.Reason)
	a.text("class", d.Class)
	a.text("revision", d.Revision)
	if d.Cached {
		a.flag("cached")
	}
	a.double("latency_seconds", d.Latency.Seconds())
	a.text("input", d.Input)
	a.text("checks", d.Checks)
	a.text("shadow", d.Shadow)
}

func decisionSeverity(outcome string) logspb.SeverityNumber {
	switch outcome {
	case "allow":
		return logspb.SeverityNumber(record.SeverityInfo)
	case "deny":
		return logspb.SeverityNumber(record.SeverityWarn)
	case "failed_open", "failed_closed":
		return logspb.SeverityNumber(record.SeverityError)
	}
	return logspb.SeverityNumber(record.SeverityUnspecified)
}
