package meta

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"dmps/meta/metaclient"
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

// Who asks by a name that the node does not know is told so at once, and what helps.
func TestUnknownNameIsExplained(t *testing.T) {
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	to, err := url.Parse(n.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	named := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = "meta.example" // a name for the same address
	}})
	defer named.Close()
	c, err := metaclient.New([]string{named.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Servers(t.Context()); err == nil || !strings.Contains(err.Error(), `--allow-host "meta.example"`) || errors.Is(err, metaclient.ErrUnreachable) {
		t.Errorf("by an unknown name: %v", err)
	}
	both, err := metaclient.New([]string{named.URL, n.APIURL()})
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	if _, err := both.Servers(t.Context()); err != nil {
		t.Errorf("by two names, of which the second is known: %v", err)
	}
}
