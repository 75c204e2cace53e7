package metaclient

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// The answer of a node of a lower generation than one that was heard is none, whatever
// was asked, and whether or not the node was told.
func TestLowerGenerationIsNotHeard(t *testing.T) {
	var is atomic.Uint64
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(GenerationHeader, FormatGeneration(r.Host, is.Load()))
	}))
	defer node.Close()
	g := &generations{seen: map[string]uint64{}, next: http.DefaultTransport}
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(cluster string, generation uint64) error {
		t.Helper()
		is.Store(generation)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, node.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = cluster
		res, err := g.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	for _, c := range []struct {
		cluster    string
		generation uint64
		ok         bool
	}{{"a", 3, true}, {"a", 5, true}, {"a", 3, false}, {"b", 3, true}, {"a", 5, true}, {"a", 0, true}} {
		if err := ask(c.cluster, c.generation); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "stop that node") {
			t.Errorf("cluster %s of generation %d: %v", c.cluster, c.generation, err)
		}
	}
	if g.of("a") != 5 || g.of("b") != 3 {
		t.Errorf("heard of %v", g.seen)
	}
}
