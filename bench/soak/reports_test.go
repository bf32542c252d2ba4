package soak

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/edge"
	"github.com/tollgate-mesh/tollgate/template/logentry"
	"github.com/tollgate-mesh/tollgate/template/metric"
	"github.com/tollgate-mesh/tollgate/template/reportnothing"
	"github.com/tollgate-mesh/tollgate/template/tracespan"
)

// reportSinks are the sinks that get all reports.
var reportSinks = []string{"file", "collector", "webhook"}

const (
	perCall = 5 // records
	padding = 200
)

// marks finds records by their numbers, in whatever form a sink gave them.
var marks = regexp.MustCompile(`soak-\d{10}`)

func mark(number int) string { return fmt.Sprintf("soak-%010d", number) }

// reported is what was reported.
type reported struct {
	next atomic.Int64 // number of a record

	mu           sync.Mutex // guards what follows
	acknowledged []int
}

// numbers returns numbers for a call's records.
func (r *reported) numbers() []int {
	first, numbers := int(r.next.Add(perCall))-perCall, make([]int, perCall)
	for i := range numbers {
		numbers[i] = first + i
	}
	return numbers
}

func (r *reported) acknowledge(numbers []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acknowledged = append(r.acknowledged, numbers...)
}

func (r *reported) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acknowledged)
}

// missing returns which of the acknowledged records were not found.
func (r *reported) missing(f *found) (missing []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, number := range r.acknowledged {
		if !f.has(number) {
			missing = append(missing, number)
		}
	}
	return missing
}

// found is what arrived somewhere.
type found struct {
	mu   sync.Mutex
	seen []bool // by number
}

func (f *found) has(number int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return number < len(f.seen) && f.seen[number]
}

// look finds records in a text.
func (f *found) look(text []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, mark := range marks.FindAll(text, -1) {
		number, _ := strconv.Atoi(strings.TrimLeft(string(mark[len("soak-"):]), "0")) // "" is 0
		if more := number + 1 - len(f.seen); more > 0 {
			f.seen = append(f.seen, make([]bool, more)...)
		}
		f.seen[number] = true
	}
}

// files finds records in files of lines. One that got nothing may be missing.
func (f *found) files(t *testing.T, paths []string) {
	t.Helper()
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		for line := range bytes.Lines(content) {
			if bytes.HasSuffix(line, []byte("\n")) {
				f.look(line)
			}
		}
	}
}

// report makes a report call of these records, of the template whose turn it is.
func report(call int, numbers []int) (method string, encoded []byte) {
	configuration := &types.Any{TypeUrl: config.TypeURL, Value: mixertest.Params(&configpb.Params{
		Name: fmt.Sprint("reports-", call/1000), Report: &configpb.Report{Sinks: reportSinks},
	})}
	now := &policyv1beta1.TimeStamp{Value: types.TimestampNow()}
	values := func(number int) map[string]*policyv1beta1.Value {
		return map[string]*policyv1beta1.Value{"number": mixertest.Text(mark(number)), "padding": mixertest.Text(strings.Repeat("x", padding))}
	}
	var message interface{ Marshal() ([]byte, error) }
	switch call % 5 {
	case 0:
		m := &logentry.HandleLogEntryRequest{AdapterConfig: configuration}
		for _, n := range numbers {
			m.Instances = append(m.Instances, &logentry.InstanceMsg{Name: "accesslog.instance.default", Severity: "info", Timestamp: now, Variables: values(n)})
		}
		method, message = mixertest.LogEntryMethod, m
	case 1:
		m := &metric.HandleMetricRequest{AdapterConfig: configuration}
		for _, n := range numbers {
			m.Instances = append(m.Instances, &metric.InstanceMsg{
				Name: "requests.instance.default", Value: &policyv1beta1.Value{Value: &policyv1beta1.Value_Int64Value{Int64Value: 1}}, Dimensions: values(n),
			})
		}
		method, message = mixertest.MetricMethod, m
	case 2:
		m := &tracespan.HandleTraceSpanRequest{AdapterConfig: configuration}
		for _, n := range numbers {
			m.Instances = append(m.Instances, &tracespan.InstanceMsg{
				Name: "span.instance.default", TraceId: fmt.Sprintf("%032x", n+1), SpanId: fmt.Sprintf("%016x", n+1), SpanName: "soak",
				StartTime: now, EndTime: now, SpanTags: values(n), HttpStatusCode: http.StatusOK,
			})
		}
		method, message = "/tracespan.HandleTraceSpanService/HandleTraceSpan", m
	case 3:
		m := &edge.HandleEdgeRequest{AdapterConfig: configuration}
		for _, n := range numbers {
			m.Instances = append(m.Instances, &edge.InstanceMsg{Name: "edge.instance.default", Timestamp: now, SourceUid: mark(n), DestinationUid: "kubernetes://shop"})
		}
		method, message = "/edge.HandleEdgeService/HandleEdge", m
	default:
		m := &reportnothing.HandleReportNothingRequest{AdapterConfig: configuration}
		for _, n := range numbers { // it has nothing but a name
			m.Instances = append(m.Instances, &reportnothing.InstanceMsg{Name: mark(n) + ".instance.default"})
		}
		method, message = "/reportnothing.HandleReportNothingService/HandleReportNothing", m
	}
	encoded, err := message.Marshal()
	if err != nil {
		panic(err) // only what this package makes up
	}
	return method, encoded
}

// webhook is a web server that takes records, or is told not to.
type webhook struct {
	*httptest.Server

	found found
	fault atomic.Int32
}

// The ways in which the webhook does not take records.
const (
	healthy int32 = iota
	refuses       // at once
	hangs         // longer than the sink waits
	cuts          // the connection, when the records have been read
)

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	w := &webhook{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		fault := w.fault.Load()
		if fault == refuses {
			answer.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		unzipped, err := gzip.NewReader(request.Body)
		if err != nil {
			answer.WriteHeader(http.StatusBadRequest)
			return
		}
		content, err := io.ReadAll(unzipped)
		if err != nil {
			return // the sink gave up
		}
		switch fault {
		case hangs:
			pause(request.Context(), time.Minute)
		case cuts:
			panic(http.ErrAbortHandler)
		default:
			w.found.look(content)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

// verify says what was acknowledged and did not arrive.
func (r *reported) verify(t *testing.T, sink string, f *found) (lost int) {
	t.Helper()
	missing := r.missing(f)
	assert.Empty(t, missing[:min(len(missing), 10)], "acknowledged and not in %s, the first of %d", sink, len(missing))
	return len(missing)
}
