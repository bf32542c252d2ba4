package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

const rotated = "kafka-2026-11-21T12-00-00.000-size.jsonl"

func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	letter := letterLines(t, "kafka", "refused", single(1, 0))
	fill(t, at("kafka"), 0, decisions(1, 1))
	fill(t, at("otlp"), 0)
	fill(t, at("lost+found"), 0) // so that it can be seen that nobody looks into it: root may read what others may not
	write(t, at("notes.txt"), "nothing of ours")
	write(t, at("other", "notes.txt"), "nothing of ours")
	require.NoError(t, os.Mkdir(at("empty"), 0o700))
	for name, content := range map[string]string{
		rotated: letter, "kafka.jsonl": "", "kafka.replay.jsonl": letter, "a-b.jsonl": "damaged\n" + letter,
		"kafka-2026-11-20T12-00-00.000-time.jsonl.replayed": letter,
		rotated + ".progress":                               "{}", rotated + ".unreadable": "x\n", "kafka.replay.lock": "",
		"records.jsonl": `{"id":"…","kind":"metric"}` + "\n", "notes.txt": "nothing of ours",
	} {
		write(t, at("dead-letters", name), content)
	}
	require.NoError(t, os.Mkdir(at("dead-letters", "directory.jsonl"), 0o700))
	letters := []File{
		{Sink: "a-b", Path: at("dead-letters", "a-b.jsonl"), State: Current},
		{Sink: "kafka", Path: at("dead-letters", "kafka-2026-11-20T12-00-00.000-time.jsonl.replayed"), State: Replayed},
		{Sink: "kafka", Path: at("dead-letters", rotated), State: Rotated},
		{Sink: "kafka", Path: at("dead-letters", "kafka.jsonl"), State: Current},
		{Sink: "kafka", Path: at("dead-letters", "kafka.replay.jsonl"), State: Current},
	}
	kafka, otlp := Queue{Name: "kafka", Path: at("kafka")}, Queue{Name: "otlp", Path: at("otlp")}
	for path, want := range map[string]Contents{
		dir:                         {Path: dir, Reports: true, Queues: []Queue{kafka, otlp}, Letters: letters},
		at("kafka"):                 {Path: at("kafka"), Queues: []Queue{kafka}},
		at("dead-letters"):          {Path: at("dead-letters"), Letters: letters},
		at("dead-letters", rotated): {Path: at("dead-letters", rotated), Letters: letters[2:3]},
	} {
		assert.Equal(t, want, find(t, path), path)
	}
	assert.Equal(t, at("dead-letters"), find(t, dir).DeadLetterDirectory())
	assert.Equal(t, at("dead-letters"), find(t, at("kafka")).DeadLetterDirectory())
	assert.Equal(t, at("dead-letters"), find(t, at("dead-letters", rotated)).DeadLetterDirectory())

	fresh := filepath.Join(t.TempDir(), "dead-letters")
	require.NoError(t, os.Mkdir(fresh, 0o700))
	assert.Equal(t, Contents{Path: fresh}, find(t, fresh), "no letters yet")
	assert.Equal(t, fresh, find(t, fresh).DeadLetterDirectory())
	assert.Equal(t, Contents{Path: filepath.Dir(fresh), Reports: true}, find(t, filepath.Dir(fresh)), "nor queues")

	for _, path := range []string{at("empty"), at("other"), at("notes.txt"), at("dead-letters", "records.jsonl"), at("kafka", "state"), os.DevNull} {
		_, err := Find(path)
		require.ErrorIs(t, err, ErrNothing, path)
		require.ErrorContains(t, err, path)
	}
	_, err := Find(at("none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestReplayable(t *testing.T) {
	t.Parallel()
	old := File{Sink: "kafka", Path: "/d/old", State: Replayed}
	first := File{Sink: "kafka", Path: "/d/first", State: Rotated}
	current := File{Sink: "kafka", Path: "/d/current", State: Current}
	other := File{Sink: "otlp", Path: "/d/other", State: Rotated}
	all := Contents{Path: "/d", Letters: []File{old, first, current, other}}
	for name, c := range map[string]struct {
		contents       Contents
		includeCurrent bool
		want           []File
		leftOut        int
	}{
		"those of the sink":   {all, false, []File{first}, 1},
		"the current one too": {all, true, []File{first, current}, 0},
		"one by name":         {Contents{Path: "/d/other", Letters: []File{other}}, false, []File{other}, 0},
		"current by name":     {Contents{Path: "/d/current", Letters: []File{current}}, false, nil, 1},
	} {
		files, leftOut, err := c.contents.Replayable("kafka", c.includeCurrent)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, files, name)
		assert.Equal(t, c.leftOut, leftOut, name)
	}
	_, _, err := Contents{Path: "/d/old", Letters: []File{old}}.Replayable("kafka", true)
	require.ErrorContains(t, err, "/d/old has been replayed")
}

func TestLookAtQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 2, decisions(1, 1), decisions(2, 3), decisions(3, 2))
	delivery := &record.Delivery{SampleOneIn: 10}
	fill(t, dir, 0,
		frame(4, 2, payload(record.KindNothing, "other", delivery, "", "")),
		frame(5, 7, []byte("\x02 another version")),
		frame(6, 2, payload(record.KindMetric, "bookinfo", nil, "\xff", "\xff")),
		frame(7, 1, payload(99, "bookinfo", nil, "x")),
	)
	write(t, filepath.Join(dir, "notes.txt"), "nothing of ours")
	q := survey(t, dir).Queues[0]
	assert.NotEqual(t, strings.Repeat("0", 32), q.ID)
	assert.Equal(t, QueueSurvey{
		Name: filepath.Base(dir), Path: dir, ID: q.ID, Segments: 2,
		Pending: Sum{Frames: 5, Records: 14, Bytes: q.Pending.Bytes}, Done: Sum{Frames: 2, Records: 4, Bytes: q.Done.Bytes},
		Oldest: noon.Add(3 * time.Second), Newest: noon.Add(7 * time.Second),
		UndecodableFrames: 1, UndecodableRecords: 3,
		Kinds:    Table{Top: []Row{{"decision", 2}, {"metric", 2}, {"reportnothing", 2}, {"unknown", 1}}},
		Handlers: Table{Top: []Row{{"bookinfo", 5}, {"other", 2}}},
	}, q)
	assert.Equal(t, []string{"1 frames that this version cannot decode", "3 records that cannot be decoded"}, q.Problems())
	assert.Positive(t, q.Pending.Bytes)
}

func TestLookAtSoundQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0)
	assert.Nil(t, survey(t, dir).Queues[0].Problems(), "an empty one")
	fill(t, dir, 1, decisions(1, 1), decisions(2, 3))
	assert.Nil(t, survey(t, dir).Queues[0].Problems())
}

// What a crash leaves of frames that nobody was told are kept is told, and is no damage.
func TestLookAtTornQueue(t *testing.T) {
	t.Parallel()
	dir, torn := t.TempDir(), t.TempDir()
	queue, err := spool.Open(dir, spool.Options{})
	require.NoError(t, err)
	put(t, queue, decisions(1, 1), decisions(2, 1))
	for name, content := range files(t, dir) { // as a process leaves it that is killed now
		write(t, filepath.Join(torn, name), content)
	}
	require.NoError(t, queue.Close())
	segment := filepath.Join(torn, "0000000000000001.seg")
	write(t, segment, read(t, segment)+"half")
	q := survey(t, torn).Queues[0]
	assert.EqualValues(t, 4, q.TornBytes)
	assert.EqualValues(t, 2, q.Pending.Frames)
	assert.Nil(t, q.Problems())
}

func TestLookAtDamagedQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0, decisions(1, 1), decisions(2, 1), decisions(3, 1))
	segment := filepath.Join(dir, "0000000000000001.seg")
	whole := read(t, segment)
	flip(t, segment, len(whole)/2)
	q := survey(t, dir).Queues[0]
	assert.EqualValues(t, 2, q.Pending.Frames)
	require.Len(t, q.Problems(), 1)
	assert.Regexp(t, `^1 damaged regions, \d+ bytes`, q.Problems()[0])

	write(t, segment, whole)
	flip(t, segment, 20)
	assert.Equal(t, []string{"1 segments with a damaged header; their frames can be read"}, survey(t, dir).Queues[0].Problems())

	// Every single byte matters, those of the segment's zero field included.
	for at := range whole {
		write(t, segment, whole)
		flip(t, segment, at)
		s, err := find(t, dir).Look(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, s.Queues[0].Problems(), "byte %d", at)
	}
}

func TestLookAtForeignSegment(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	fill(t, filepath.Join(dir, "a"), 0, decisions(1, 1))
	fill(t, filepath.Join(dir, "b"), 0, decisions(2, 1))
	fill(t, other, 0, decisions(1, 1))
	write(t, filepath.Join(dir, "a", "0000000000000001.seg"), read(t, filepath.Join(other, "0000000000000001.seg")))
	s := survey(t, dir)
	require.Len(t, s.Queues, 2)
	require.Len(t, s.Queues[0].Problems(), 1)
	assert.Contains(t, s.Queues[0].Problems()[0], "the segment is of queue")
	assert.Nil(t, s.Queues[1].Problems(), "which does not hide the other")
	assert.EqualValues(t, 1, s.Queues[1].Pending.Records)
}

func TestLookTellsWhoHoldsTheLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0, decisions(1, 1))
	assert.False(t, survey(t, dir).Queues[0].InUse)
	release := holdInProcess(t, dir)
	q := survey(t, dir).Queues[0]
	assert.True(t, q.InUse, "by another process")
	assert.EqualValues(t, 1, q.Pending.Records)
	assert.Empty(t, q.Problems())
	release()
	assert.False(t, survey(t, dir).Queues[0].InUse)
	queue, err := spool.Open(dir, spool.Options{})
	require.NoError(t, err)
	assert.True(t, survey(t, dir).Queues[0].InUse, "by this process")
	require.NoError(t, queue.Close())
}

func TestLookAtLetters(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dead-letters")
	one := letterLines(t, "kafka", "record "+(&record.Record{Spool: origin}).ID()+" is too large", single(1, 0))
	two := letterLines(t, "kafka", "record "+(&record.Record{Spool: origin, Index: 3}).ID()+" is too large", single(1, 1))
	three := letterLines(t, "kafka", strings.Repeat("ä", 300), record.Record{Spool: origin, Kind: record.KindMetric, Raw: "\xff"})
	write(t, filepath.Join(dir, rotated), one+"garbage\n"+two+"\n"+three)
	write(t, filepath.Join(dir, "kafka.jsonl"), one+two[:40])
	write(t, filepath.Join(dir, "otlp-2026-11-21T12-00-00.000-size.jsonl.replayed"), one)
	s := survey(t, dir).Letters
	require.Len(t, s, 3)
	for i := range s {
		assert.WithinDuration(t, time.Now(), s[i].Oldest, time.Minute)
		assert.False(t, s[i].Newest.Before(s[i].Oldest))
		s[i].Oldest, s[i].Newest = time.Time{}, time.Time{}
	}
	tooLarge := Row{Text: "record <id> is too large", Records: 2}
	assert.Equal(t, LettersSurvey{
		Sink: "kafka", Path: filepath.Join(dir, rotated), State: Rotated, Letters: 3, UnreadableLines: 2,
		Causes: Table{Top: []Row{tooLarge, {strings.Repeat("ä", 200) + "…", 1}}}, Kinds: Table{Top: []Row{{"decision", 2}, {"metric", 1}}},
	}, s[0])
	assert.Equal(t, []string{"2 lines that are no dead letters"}, s[0].Problems())
	assert.EqualValues(t, 40, s[1].TornBytes)
	assert.Nil(t, s[1].Problems(), "half a line at the end is no damage")
	assert.Equal(t, []any{uint64(1), uint64(1)}, []any{s[2].Letters, s[2].Replayed})
}

func TestTablesAreBounded(t *testing.T) {
	t.Parallel()
	var c counter
	const texts = 20_000
	for i := range texts {
		c.add(strings.Repeat("x", i%7) + string(rune('a'+i/7)))
		c.add("frequent")
	}
	assert.LessOrEqual(t, len(c.counts), 10_000)
	table := c.table()
	assert.Len(t, table.Top, TopRows)
	assert.Equal(t, Row{"frequent", texts}, table.Top[0])
	sum := table.Others
	for _, row := range table.Top {
		sum += row.Records
	}
	assert.EqualValues(t, 2*texts, sum)
}

func TestLookEndsWithTheContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, filepath.Join(dir, "kafka"), 0, decisions(1, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := find(t, dir).Look(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = find(t, lettersIn(t, 1)).Export(ctx, io.Discard, false)
	require.ErrorIs(t, err, context.Canceled, "dead letters that were not looked at")
	_, err = find(t, dir).Export(ctx, io.Discard, false)
	require.ErrorIs(t, err, context.Canceled)
}

// exported returns the ids of decisions and what else Export says.
func exported(t *testing.T, path string, all bool) (ids []string, e Exported, err error) {
	t.Helper()
	var out bytes.Buffer
	before := files(t, path)
	e, err = find(t, path).Export(t.Context(), &out, all)
	assert.Equal(t, before, files(t, path), "nothing is changed")
	for line := range strings.Lines(out.String()) {
		var r struct {
			ID string `json:"decision_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		ids = append(ids, r.ID)
	}
	assert.EqualValues(t, len(ids), e.Records)
	return ids, e, err
}

func TestExport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, filepath.Join(dir, "a"), 1, decisions(1, 1), decisions(2, 2), frame(3, 1, []byte("\x02")), frame(4, 2, payload(record.KindMetric, "h", nil, "\xff", "\xff")))
	fill(t, filepath.Join(dir, "b"), 0, decisions(5, 1))
	lines := letterLines(t, "a", "refused", single(6, 0), record.Record{Raw: string(decisions(7, 2).Payload)}, record.Record{Spool: origin, Kind: record.KindMetric, Raw: "\xff"})
	write(t, filepath.Join(dir, "dead-letters", "a.jsonl"), lines+"garbage\n"+lines[:100])
	write(t, filepath.Join(dir, "dead-letters", "b-2026-11-21T12-00-00.000-size.jsonl.replayed"), letterLines(t, "b", "refused", single(8, 0)))

	ids, e, err := exported(t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, []string{"2.0", "2.1", "5.0", "6.0", "7.0", "7.1"}, ids)
	assert.EqualValues(t, 5, e.Undecodable)
	ids, e, err = exported(t, dir, true)
	require.NoError(t, err)
	assert.Equal(t, []string{"1.0", "2.0", "2.1", "5.0", "6.0", "7.0", "7.1", "8.0"}, ids)
	assert.EqualValues(t, 5, e.Undecodable)

	flip(t, filepath.Join(dir, "b", "0000000000000001.seg"), -1)
	_, e, err = exported(t, filepath.Join(dir, "b"), true)
	require.NoError(t, err)
	assert.Equal(t, Exported{Damaged: 1}, e, "what is lost is told")
	flip(t, filepath.Join(dir, "b", "0000000000000001.seg"), -1)

	// A place that cannot be read does not hide the others.
	write(t, filepath.Join(dir, "a", "state"), strings.Repeat("x", 100))
	flip(t, filepath.Join(dir, "a", "0000000000000001.seg"), 20)
	write(t, filepath.Join(dir, "dead-letters", "a.jsonl.progress"), "{")
	fill(t, filepath.Join(dir, "c"), 0, decisions(9, 1))
	write(t, filepath.Join(dir, "c", "0000000000000002.seg"), read(t, filepath.Join(dir, "b", "0000000000000001.seg")))
	ids, _, err = exported(t, dir, false)
	require.ErrorContains(t, err, "under another name")
	require.ErrorContains(t, err, "a.jsonl.progress cannot be read; remove it")
	assert.Contains(t, ids, "5.0")
	assert.Contains(t, ids, "9.0")
}

// brokenPipe takes so many bytes.
type brokenPipe struct{ left int }

var errBroken = errors.New("broken pipe")

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.left -= len(b); p.left < 0 {
		return 0, errBroken
	}
	return len(b), nil
}

func TestExportStopsAtABrokenPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var frames []spool.Frame
	for i := range uint64(50) {
		frames = append(frames, decisions(i+1, 100))
	}
	fill(t, filepath.Join(dir, "a"), 0, frames...)
	fill(t, filepath.Join(dir, "b"), 0, frames...)
	contents := find(t, dir)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "b"))) // to see whether it is tried
	for _, room := range []int{0, 300_000} {
		pipe := &brokenPipe{left: room}
		e, err := contents.Export(t.Context(), pipe, false)
		require.ErrorIs(t, err, errBroken)
		assert.Equal(t, 1, strings.Count(err.Error(), errBroken.Error()))
		require.NotErrorIs(t, err, fs.ErrNotExist, "it does not go on")
		assert.Less(t, e.Records, uint64(5000))
	}
}

// FuzzLines: whatever is in a file, reading ends, counts every byte, and keeps no line that is too long.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"sink\":\"a\"}\nhalf"), 5)
	f.Add([]byte("\n\n\n"), 1)
	f.Add([]byte(strings.Repeat("x", 300_000)+"\ny\n"), 100)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, longest int) {
		path := filepath.Join(dir, "a.jsonl")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		in, err := openLetters(File{Path: path, State: Current})
		require.NoError(t, err)
		defer func() { require.NoError(t, in.close()) }()
		in.longest = max(longest, 0)
		var size, lines int
		for {
			l, err := in.next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			lines++
			if l.text == nil {
				require.Error(t, l.err)
				size = int(in.at)
				continue
			}
			require.LessOrEqual(t, len(l.text), in.longest)
			size += len(l.text)
			require.EqualValues(t, size, in.at)
		}
		require.Equal(t, bytes.Count(content, []byte("\n")), lines)
		require.EqualValues(t, len(content), in.at+in.torn)
	})
}

// The names that the rotation of dead letters gives are the ones that are known here.
func TestRotatedNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := deadletter.NewFile(dir, "a-b", jsonlines.Rotation{Megabytes: 1})
	require.NoError(t, err)
	large := single(1, 0)
	large.Raw = strings.Repeat("x", 300_000)
	for range 3 {
		require.NoError(t, f.Keep([]record.Record{large}, errors.New("refused")))
	}
	require.NoError(t, f.Close())
	var states []State
	for _, file := range find(t, dir).Letters {
		assert.Equal(t, "a-b", file.Sink)
		states = append(states, file.State)
	}
	assert.Equal(t, []State{Rotated, Current}, states)
	file, err := find(t, dir).Letters[1].rotate(time.Now().Add(time.Second))
	require.NoError(t, err)
	assert.Equal(t, []File{find(t, dir).Letters[0], file}, find(t, dir).Letters)
	assert.Equal(t, Rotated, file.State)
}
