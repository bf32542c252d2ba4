package record_test

import (
	"encoding/json"
	"testing"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func BenchmarkAppendJSON(b *testing.B) {
	for _, kind := range record.Kinds() {
		b.Run(kind.String(), func(b *testing.B) {
			r := newRecord(b, kind, samples()[kind][0].raw)
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if line, err = record.AppendJSON(line[:0], &r); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(line)))
		})
	}
}

// BenchmarkEncodingJSON is what AppendJSON is measured against: the decoded record by encoding/json.
func BenchmarkEncodingJSON(b *testing.B) {
	r := newRecord(b, record.KindLogEntry, accessLog())
	b.ReportAllocs()
	for b.Loop() {
		e, err := record.DecodeLogEntry(r.Raw)
		if err != nil {
			b.Fatal(err)
		}
		variables := make(map[string]any, len(e.Variables))
		for _, entry := range e.Variables {
			text, ok := entry.Value.Text()
			if ok {
				variables[entry.Name] = text
			} else {
				variables[entry.Name] = entry.Value.Int64()
			}
		}
		if _, err := json.Marshal(map[string]any{"id": r.ID(), "arrived": r.Arrived, "severity": e.Severity, "timestamp": e.Timestamp, "variables": variables}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, kind := range record.Kinds() {
		b.Run(kind.String(), func(b *testing.B) {
			raw := samples()[kind][0].raw
			b.ReportAllocs()
			for b.Loop() {
				if err := record.Check(kind, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeLogEntry(b *testing.B) {
	raw := accessLog()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.DecodeLogEntry(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	raw := accessLog()
	for name, rules := range map[string]record.Rules{
		"none":         {},
		"no match":     {Drop: []string{"password", "x-*"}, Mask: []string{"token", "cookie"}},
		"one masked":   {Mask: []string{"user"}},
		"two dropped":  {Drop: []string{"user*"}},
		"mixed":        {Only: []string{"url", "user", "response*", "method"}, Mask: []string{"user"}},
		"all, masked":  {Mask: []string{"*"}},
		"all, dropped": {Drop: []string{"*"}},
	} {
		b.Run(name, func(b *testing.B) {
			filter, err := rules.Compile()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				filter.Apply(record.KindLogEntry, raw)
			}
		})
	}
}
