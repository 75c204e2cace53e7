package metaclient

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"connectrpc.com/connect"
)

// GenerationHeader names a cluster and its generation, in calls and in answers:
// FormatGeneration. A cluster that is restored or recovered is of a higher generation
// from then on. Its nodes of before must decide nothing any more: who heard of the
// higher one does not listen to them, and tells them.
const GenerationHeader = "Dmps-Generation"

// FormatGeneration gives a value of GenerationHeader.
func FormatGeneration(cluster string, generation uint64) string {
	return cluster + " " + strconv.FormatUint(generation, 10)
}

// ParseGeneration reads it; 0: there is none.
func ParseGeneration(s string) (cluster string, generation uint64) {
	cluster, number, _ := strings.Cut(s, " ")
	generation, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return "", 0
	}
	return cluster, generation
}

// generations passes calls on and keeps the highest generation of each cluster that
// answered. An answer of a lower one counts as none.
type generations struct {
	next http.RoundTripper
	mu   sync.Mutex
	seen map[string]uint64
}

// of gives the highest generation of a cluster that was heard of; 0: none.
func (g *generations) of(cluster string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[cluster]
}

// RoundTrip implements http.RoundTripper.
func (g *generations) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusForbidden && strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
		defer res.Body.Close()
		text, err := io.ReadAll(io.LimitReader(res.Body, 512))
		return nil, connect.NewError(connect.CodePermissionDenied, errors.Join(errors.New(strings.TrimSpace(string(text))), err)) // connect would leave the text out
	}
	cluster, is := ParseGeneration(res.Header.Get(GenerationHeader))
	if is == 0 {
		return res, nil // a node that belongs to no cluster yet, or of an older version
	}
	g.mu.Lock()
	known := g.seen[cluster]
	g.seen[cluster] = max(known, is)
	g.mu.Unlock()
	if is < known {
		_ = res.Body.Close() // nobody reads it
		return nil, fmt.Errorf("the node is of generation %d of cluster %s, which was restored or recovered since (generation %d): stop that node, and remove its folder", is, cluster, known)
	}
	return res, nil
}
