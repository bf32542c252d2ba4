package mixertest

import (
	"context"

	"github.com/gogo/protobuf/types"
	"google.golang.org/grpc"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/template/logentry"
	"github.com/tollgate-mesh/tollgate/template/metric"
)

// LogEntryMethod is the logentry template's one method.
const LogEntryMethod = "/logentry.HandleLogEntryService/HandleLogEntry"

// LogEntry is an instance with some variables, all of them texts.
func LogEntry(variables map[string]string) *logentry.InstanceMsg {
	values := make(map[string]*policyv1beta1.Value, len(variables))
	for name, text := range variables {
		values[name] = Text(text)
	}
	return &logentry.InstanceMsg{Name: "accesslog.instance.istio-system", Severity: "info", Variables: values}
}

// LogEntries is the bytes of a call that reports instances to a handler.
func LogEntries(params []byte, instances ...*logentry.InstanceMsg) []byte {
	request := &logentry.HandleLogEntryRequest{
		Instances:     instances,
		AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: params},
		DedupId:       "13",
	}
	encoded, err := request.Marshal()
	if err != nil {
		panic(err)
	}
	return encoded
}

// SendReport makes a report call of the given bytes.
func SendReport(ctx context.Context, connection grpc.ClientConnInterface, method string, call []byte, options ...grpc.CallOption) error {
	var reply []byte
	if err := connection.Invoke(ctx, method, call, &reply, append(options, grpc.ForceCodecV2(Raw{}))...); err != nil {
		return err
	}
	return (&v1beta1.ReportResult{}).Unmarshal(reply)
}

// MetricMethod is the metric template's one method.
const MetricMethod = "/metric.HandleMetricService/HandleMetric"

// Metrics is the bytes of a call that reports one metric instance without dimensions to a handler.
func Metrics(params []byte, instance string, value int64) []byte {
	request := &metric.HandleMetricRequest{
		Instances:     []*metric.InstanceMsg{{Name: instance, Value: &policyv1beta1.Value{Value: &policyv1beta1.Value_Int64Value{Int64Value: value}}}},
		AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: params},
	}
	encoded, err := request.Marshal()
	if err != nil {
		panic(err)
	}
	return encoded
}
