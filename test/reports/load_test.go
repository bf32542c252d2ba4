package reports

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

// workload says what a load reports.
type workload struct {
	// name is the handler's, and different for all loads of a test.
	name string
	// sinks are those that the handler names.
	sinks []string
	// clients are how many connections there are; each reports one call at a time.
	clients int
	// entries is how many log entries a call has at the most; each call has 1 to so many.
	entries int
	// bytes is the size of an entry's text.
	bytes int
	// pause is what a client waits between an answer and the next call.
	pause time.Duration
}

// load is clients that report log entries, each under an id of its own, and what they were answered.
type load struct {
	workload

	cancel    context.CancelFunc
	clients   []*client
	running   sync.WaitGroup
	acked     atomic.Int64 // records
	refusals  atomic.Int64 // calls
	lastError atomic.Pointer[error]
}

type client struct {
	name       string
	connection *grpc.ClientConn
	calls      []call
}

// call is one report call.
type call struct {
	entries int
	answer  answer
	at      time.Time // of the answer
}

// answer is what a client knows about a call.
type answer uint8

const (
	unknown      answer = iota // the process may have it or not
	acknowledged               // it is kept
	refused                    // it is not, says the process
)

// callTimeout is how long a client waits for an answer, which includes the time that the process is away. It bounds a test that fails and is no measure.
const callTimeout = patience

// report starts a load.
func (s *server) report(t *testing.T, w workload) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{workload: w, cancel: cancel}
	params := mixertest.Params(&configpb.Params{Name: w.name, Report: &configpb.Report{Sinks: w.sinks}})
	for i := range w.clients {
		c := &client{name: fmt.Sprintf("%s-%d", w.name, i), connection: s.connect(t)}
		l.clients = append(l.clients, c)
		l.running.Go(func() {
			for ctx.Err() == nil {
				l.call(ctx, c, params)
				select {
				case <-time.After(w.pause):
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) call(ctx context.Context, c *client, params []byte) {
	made := call{entries: 1 + rand.IntN(l.entries)}
	instances := make([]*logentry.InstanceMsg, made.entries)
	for i := range instances {
		id := c.id(len(c.calls), i)
		instances[i] = mixertest.LogEntry(map[string]string{"id": id, "text": l.text(id)})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout) // the end of the load waits for answers
	defer cancel()
	err := mixertest.SendReport(ctx, c.connection, mixertest.LogEntryMethod, mixertest.LogEntries(params, instances...), grpc.WaitForReady(true))
	made.at = time.Now()
	switch {
	case err == nil:
		made.answer = acknowledged
		l.acked.Add(int64(made.entries))
	case strings.HasPrefix(status.Convert(err).Message(), "the report could not be accepted"):
		made.answer = refused
		l.refusals.Add(1)
		l.lastError.Store(&err)
	}
	c.calls = append(c.calls, made)
}

// awaitAccepted waits until each client may have had a call accepted that it made after now.
func (l *load) awaitAccepted(t *testing.T, s *server) {
	t.Helper()
	// Of each client one call may have been answered before and is counted later.
	enough := l.acked.Load() + int64(len(l.clients)*l.entries)
	s.await(t, "calls of "+l.name+" to be accepted", func() bool { return l.acked.Load() > enough })
}

// end ends the load after the calls under way.
func (l *load) end() {
	l.cancel()
	l.running.Wait()
}

// refusal is the last refusal's code and message.
func (l *load) refusal() (codes.Code, string) {
	err := l.lastError.Load()
	if err == nil {
		return codes.OK, ""
	}
	return status.Code(*err), status.Convert(*err).Message()
}

// id is an entry's: the client, the call, the place in the call.
func (c *client) id(call, entry int) string { return fmt.Sprintf("%s/%d/%d", c.name, call, entry) }

// text is what the entry of an id holds: as long as the load says, give or take a few, and different for all.
func (w *workload) text(id string) string {
	return strings.Repeat(id+" ", w.bytes/(len(id)+1)+1)
}

// line is a delivered record.
type line struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Handler   string `json:"handler"`
	Instance  string `json:"instance"`
	Severity  string `json:"severity"`
	Undecoded any    `json:"undecoded"`
	Variables struct {
		ID   string `json:"id"`
		Text string `json:"text"`
	} `json:"variables"`
}

// comparison is what clients were answered beside what a sink has.
type comparison struct {
	calls, acknowledged, refused, unknown int      // calls
	kept                                  int      // records that were acknowledged
	found                                 int      // of them
	doubtful                              int      // records that are there, of calls without an answer
	lost                                  []string // the first of those that are not there
	duplicates                            int
	files                                 int
}

func (c comparison) String() string {
	return fmt.Sprintf("%d calls: %d acknowledged with %d records, %d refused, %d without an answer; %d files, lost=%d, duplicates=%d, of calls without an answer=%d",
		c.calls, c.acknowledged, c.kept, c.refused, c.unknown, c.files, c.kept-c.found, c.duplicates, c.doubtful)
}

// compare reads all files of a sink and fails the test unless every line is whole and is what a client sent under that id; a record
// that comes twice comes as the very same line; and what was refused does not come at all. What was acknowledged and is not there is
// for the caller to judge: kept less found.
func compare(t *testing.T, path string, loads ...*load) comparison {
	t.Helper()
	type entry struct {
		load   *load
		client *client
	}
	clients := map[string]entry{}
	for _, l := range loads {
		for _, c := range l.clients {
			clients[c.name] = entry{l, c}
		}
	}
	seed := maphash.MakeSeed()
	seen := map[*client][][]uint64{} // a hash of the line, by call and place
	callOf := map[string]string{}    // of what a call's record ids have in common, the client's name of the call
	files, err := filepath.Glob(strings.TrimSuffix(path, ".jsonl") + "*.jsonl")
	require.NoError(t, err)
	result := comparison{files: len(files)}
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for text := range bytes.Lines(content) {
			require.True(t, bytes.HasSuffix(text, []byte("\n")), "%s ends with half a line: %.200q", file, text)
			var l line
			require.NoError(t, json.Unmarshal(text, &l), "%s has a torn line: %.200q", file, text)
			id := l.Variables.ID
			name, call, place := parse(id)
			from := clients[name]
			require.NotNil(t, from.client, "nobody sent %.200q", text)
			require.Less(t, call, len(from.client.calls), "nobody sent %.200q", text)
			made := from.client.calls[call]
			require.Less(t, place, made.entries, "nobody sent %.200q", text)
			require.NotEqual(t, refused, made.answer, "refused, and there: %.200q", text)
			want := line{ID: l.ID, Kind: "logentry", Handler: from.load.name, Instance: "accesslog.instance.istio-system", Severity: "info"}
			want.Variables.ID, want.Variables.Text = from.client.id(call, place), from.load.text(id)
			if want != l { // require is slow
				require.Equal(t, want, l)
			}
			prefix, found := strings.CutSuffix(l.ID, "-"+strconv.Itoa(place))
			require.True(t, found, "%s is not the record in place %d of its call", l.ID, place)
			callID := strings.TrimSuffix(id, "/"+strconv.Itoa(place))
			if other, known := callOf[prefix]; known {
				require.Equal(t, other, callID, "two calls have the record id %s", prefix)
			}
			callOf[prefix] = callID

			if seen[from.client] == nil {
				seen[from.client] = make([][]uint64, len(from.client.calls))
			}
			hashes := &seen[from.client][call]
			if *hashes == nil {
				*hashes = make([]uint64, made.entries)
			}
			hash := maphash.Bytes(seed, text) | 1
			switch (*hashes)[place] {
			case 0:
			case hash:
				result.duplicates++
			default:
				require.Fail(t, "a record came twice and not as the same line", "%.500q", text)
			}
			(*hashes)[place] = hash
		}
	}
	for _, e := range clients {
		for i, made := range e.client.calls {
			result.calls++
			hashes := make([]uint64, made.entries)
			if seen[e.client] != nil {
				copy(hashes, seen[e.client][i])
			}
			there := 0
			for place, hash := range hashes {
				switch {
				case hash != 0:
					there++
				case made.answer == acknowledged && len(result.lost) < 10:
					result.lost = append(result.lost, e.client.id(i, place))
				}
			}
			switch made.answer {
			case acknowledged:
				result.acknowledged++
				result.kept += made.entries
				result.found += there
			case refused:
				result.refused++
			case unknown:
				result.unknown++
				result.doubtful += there
			}
		}
	}
	return result
}

// parse takes an id apart. What is none has no client.
func parse(id string) (client string, call, entry int) {
	parts := strings.Split(id, "/")
	if len(parts) != 3 {
		return "", 0, 0
	}
	call, callErr := strconv.Atoi(parts[1])
	entry, entryErr := strconv.Atoi(parts[2])
	if callErr != nil || entryErr != nil || call < 0 || entry < 0 {
		return "", 0, 0
	}
	return parts[0], call, entry
}

// compareAll is compare where all that was acknowledged has to be there.
func compareAll(t *testing.T, path string, loads ...*load) comparison {
	t.Helper()
	result := compare(t, path, loads...)
	assert.Equal(t, result.kept, result.found, "acknowledged records are lost: %q …", result.lost)
	assert.Positive(t, result.kept, "nothing was ever acknowledged")
	return result
}
