package meta

import (
	"net/http"
	"strings"
	"testing"
)

// A page in a browser on this machine, or one whose name resolves to this node, must not
// delete volumes.
func TestAPIRefusesWebPages(t *testing.T) {
	cfg := testConfig(t, "meta1")
	cfg.Hosts = []string{"meta.example"}
	n := start(t, cfg)
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"", "", http.StatusOK},
		{"meta.example:7200", "", http.StatusOK},
		{"evil.example", "", http.StatusForbidden},
		{"", "http://evil.example", http.StatusForbidden},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.APIURL()+"/dmps.meta.v1.ClusterService/GetNode", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Host = c.host
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("host %q, origin %q: %s", c.host, c.origin, res.Status)
		}
	}
}
