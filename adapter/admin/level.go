package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/observe"
)

// Bounds of how long a level may last.
const (
	shortestLevel = time.Second
	longestLevel  = 24 * time.Hour
)

// level shows the log's level.
func level(l *observe.Level) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, l.State()) }
}

// setLevel changes it to what the body names, for as long as ?for says or until it is changed again. Only this machine may.
func setLevel(l *observe.Level) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !fromThisMachine(r) {
			http.Error(w, "the level is changed from this machine alone, without a proxy; use kubectl port-forward or kubectl exec", http.StatusForbidden)
			return
		}
		const longestName = 16
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longestName))
		name := strings.TrimSpace(string(body))
		wanted, ok := observe.ParseLevel(name)
		if err != nil || !ok {
			http.Error(w, fmt.Sprintf("the level is %q; send debug, info, warn or error", name), http.StatusBadRequest)
			return
		}
		var lasts time.Duration
		if text := r.URL.Query().Get("for"); text != "" {
			if lasts, err = time.ParseDuration(text); err != nil || lasts < shortestLevel || lasts > longestLevel {
				http.Error(w, fmt.Sprintf("for is %.32q; use %s to %s, such as 10m", text, shortestLevel, longestLevel), http.StatusBadRequest)
				return
			}
		}
		writeJSON(w, l.Set(r.Context(), wanted, lasts, "admin listener"))
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil { // whoever asked is gone
		return
	}
}
