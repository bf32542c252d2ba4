package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Survey is all that can be told of a path without changing anything. Every byte was read.
type Survey struct {
	// Queues and Letters are those of Contents.
	Queues  []QueueSurvey   `json:"queues"`
	Letters []LettersSurvey `json:"dead_letters"`
}

// Sum counts frames, the records in them and the bytes of their payloads.
type Sum struct {
	Frames  uint64 `json:"frames"`
	Records uint64 `json:"records"`
	Bytes   uint64 `json:"bytes"`
}

// QueueSurvey is what a queue holds.
type QueueSurvey struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// ID is the queue's own.
	ID string `json:"id"`
	// InUse means that a process has the queue open.
	InUse bool `json:"in_use"`
	// Segments is how many files hold frames.
	Segments int `json:"segments"`
	// Pending frames are still to be delivered; Done ones are not removed yet.
	Pending Sum `json:"pending"`
	Done    Sum `json:"done"`
	// Oldest and Newest are the arrivals of pending frames.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	// DamagedRegions and DamagedBytes are what nobody wrote; DamagedHeaders are segments' own, which cost no frame.
	DamagedRegions uint64 `json:"damaged_regions"`
	DamagedBytes   uint64 `json:"damaged_bytes"`
	DamagedHeaders int    `json:"damaged_headers"`
	// TornBytes are half a frame at the end, which is no damage.
	TornBytes uint64 `json:"torn_bytes"`
	// UndecodableFrames are whole and were not made by this version; UndecodableRecords are of others that are.
	UndecodableFrames  uint64 `json:"undecodable_frames"`
	UndecodableRecords uint64 `json:"undecodable_records"`
	// Kinds and Handlers are those of pending records.
	Kinds    Table `json:"kinds"`
	Handlers Table `json:"handlers"`
	// Error is why the queue cannot be read to its end.
	Error string `json:"error,omitempty"`
}

// LettersSurvey is what a file of dead letters holds.
type LettersSurvey struct {
	Sink  string `json:"sink"`
	Path  string `json:"path"`
	State State  `json:"state"`
	// Letters is how many there are; Replayed ones of them were delivered again.
	Letters  uint64 `json:"letters"`
	Replayed uint64 `json:"replayed"`
	// Oldest and Newest are when records were refused.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	// UnreadableLines are no letters.
	UnreadableLines uint64 `json:"unreadable_lines"`
	// TornBytes are half a line at the end, which is no damage.
	TornBytes int64 `json:"torn_bytes"`
	// Causes are why records were refused, and Kinds what they are.
	Causes Table `json:"causes"`
	Kinds  Table `json:"kinds"`
	// Error is why the file cannot be read to its end.
	Error string `json:"error,omitempty"`
}

// Table counts records by a text, the most frequent first.
type Table struct {
	// Top are at most TopRows.
	Top []Row `json:"top"`
	// Others is how many records have another text.
	Others uint64 `json:"others"`
}

// Row is one text of a table.
type Row struct {
	Text    string `json:"text"`
	Records uint64 `json:"records"`
}

// TopRows is how many texts a table tells apart.
const TopRows = 20

// Look makes a survey. What cannot be read is told in the survey; an error is the context's.
func (c Contents) Look(ctx context.Context) (Survey, error) {
	s := Survey{Queues: []QueueSurvey{}, Letters: []LettersSurvey{}} // which JSON tells from null
	for _, queue := range c.Queues {
		s.Queues = append(s.Queues, queue.look(ctx))
	}
	for _, file := range c.Letters {
		s.Letters = append(s.Letters, file.look(ctx))
	}
	return s, ctx.Err()
}

func (q Queue) look(ctx context.Context) QueueSurvey {
	s := QueueSurvey{Name: q.Name, Path: q.Path}
	var kinds, handlers counter
	found, err := spool.Inspect(q.Path, func(frame spool.Frame, done bool) error {
		records, err := report.DecodeFrame(&frame)
		if err != nil {
			s.UndecodableFrames++
		}
		for i := range records {
			if record.Check(records[i].Kind, records[i].Raw) != nil {
				s.UndecodableRecords++
			}
		}
		if done {
			return ctx.Err()
		}
		s.Oldest, s.Newest = widen(s.Oldest, s.Newest, frame.Arrival)
		for i := range records {
			kinds.add(records[i].Kind.String())
			handlers.add(records[i].Handler)
		}
		return ctx.Err()
	})
	if err == nil {
		s.InUse, err = spool.InUse(q.Path)
	}
	s.ID, s.Segments = found.ID.String(), found.Segments
	s.Pending, s.Done = Sum(found.Pending), Sum(found.Done)
	s.DamagedRegions, s.DamagedBytes, s.TornBytes, s.DamagedHeaders = found.Damage.Regions, found.Damage.Bytes, found.Damage.Torn, found.Headers
	s.Kinds, s.Handlers = kinds.table(), handlers.table()
	s.Error = text(err)
	return s
}

func (f File) look(ctx context.Context) LettersSurvey {
	s := LettersSurvey{Sink: f.Sink, Path: f.Path, State: f.State}
	var causes, kinds counter
	err := f.each(func(l *line) error {
		if l.err != nil {
			s.UnreadableLines++
			return ctx.Err()
		}
		s.Letters++
		if l.done {
			s.Replayed++
		}
		s.Oldest, s.Newest = widen(s.Oldest, s.Newest, l.letter.At)
		causes.add(cause(l.letter.Cause))
		kinds.add(l.letter.Record.Kind.String())
		return ctx.Err()
	}, func(torn int64) { s.TornBytes = torn })
	s.Causes, s.Kinds = causes.table(), kinds.table()
	s.Error = text(err)
	return s
}

// each calls visit for every line, and then tells how many bytes are left of half a line.
func (f File) each(visit func(l *line) error, end func(torn int64)) error {
	in, err := openLetters(f)
	if err != nil {
		return err
	}
	defer in.close() //nolint:errcheck // only read
	for {
		l, err := in.next()
		if errors.Is(err, io.EOF) {
			end(in.torn)
			return nil
		}
		if err == nil {
			err = visit(&l)
		}
		if err != nil {
			return err
		}
	}
}

// Problems returns what is wrong with a queue; nil where it is sound.
func (s *QueueSurvey) Problems() (problems []string) {
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	add(s.Error != "", "%s", s.Error)
	add(s.DamagedRegions > 0, "%d damaged regions, %d bytes; the frames in them are lost", s.DamagedRegions, s.DamagedBytes)
	add(s.DamagedHeaders > 0, "%d segments with a damaged header; their frames can be read", s.DamagedHeaders)
	add(s.UndecodableFrames > 0, "%d frames that this version cannot decode", s.UndecodableFrames)
	add(s.UndecodableRecords > 0, "%d records that cannot be decoded", s.UndecodableRecords)
	return problems
}

// Problems returns what is wrong with a file; nil where it is sound.
func (s *LettersSurvey) Problems() (problems []string) {
	if s.Error != "" {
		problems = append(problems, s.Error)
	}
	if s.UnreadableLines > 0 {
		problems = append(problems, fmt.Sprintf("%d lines that are no dead letters", s.UnreadableLines))
	}
	return problems
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func widen(oldest, newest, t time.Time) (from, to time.Time) {
	t = t.UTC()
	if oldest.IsZero() || t.Before(oldest) {
		oldest = t
	}
	if newest.IsZero() || t.After(newest) {
		newest = t
	}
	return oldest, newest
}

var recordID = regexp.MustCompile(`[0-9a-f]{32}-\d+-\d+`)

// cause takes out of a cause what is different for every record, and what is too much.
func cause(text string) string {
	const longest = 200
	runes := []rune(recordID.ReplaceAllString(text, "<id>"))
	if len(runes) > longest {
		runes = append(runes[:longest], '…')
	}
	return string(runes)
}

// counter counts texts, as many as it tells apart.
type counter struct {
	counts map[string]uint64
	others uint64
}

func (c *counter) add(text string) {
	const most = 10_000
	if c.counts == nil {
		c.counts = map[string]uint64{}
	}
	if _, known := c.counts[text]; !known && len(c.counts) >= most {
		c.others++
		return
	}
	c.counts[text]++
}

func (c *counter) table() Table {
	t := Table{Top: make([]Row, 0, len(c.counts)), Others: c.others}
	for text, n := range c.counts {
		t.Top = append(t.Top, Row{Text: text, Records: n})
	}
	slices.SortFunc(t.Top, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Records, a.Records), cmp.Compare(a.Text, b.Text))
	})
	for _, row := range t.Top[min(TopRows, len(t.Top)):] {
		t.Others += row.Records
	}
	t.Top = t.Top[:min(TopRows, len(t.Top))]
	return t
}
