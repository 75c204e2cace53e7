package hostcheck

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

func TestHandler(t *testing.T) {
	self, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	h := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		Names{"allowed.example"}.Of("meta1.example:7000", "http://Meta2.example:7000/x", "127.0.0.1:0", ""), "/metrics")
	for _, c := range []struct {
		host, origin, path string
		want               int
	}{
		{"127.0.0.1:7000", "", "/x", 200},
		{"[::1]:7000", "", "/x", 200},
		{"[::1]", "", "/x", 200},
		{"[fe80::1%eth0]:7000", "", "/x", 200},
		{"localhost:7000", "", "/x", 200},
		{self + ":7000", "", "/x", 200},
		{"allowed.example", "", "/x", 200},
		{"meta1.example:7000", "", "/x", 200},
		{"META2.EXAMPLE.:7000", "", "/x", 200},
		{"evil.example:7000", "", "/x", 403},
		{"127.0.0.1.evil.example", "", "/x", 403},
		{"evil.example", "", "/metrics", 200},
		{"evil.example", "", "/metrics/", 403},
		{"127.0.0.1:7000", "http://127.0.0.1:7000", "/x", 403},
		{"127.0.0.1:7000", "null", "/metrics", 403},
		{"", "", "/x", 403},
	} {
		r := httptest.NewRequest("POST", "http://ignored"+c.path, nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("host %q, origin %q, %s: %d, want %d", c.host, c.origin, c.path, w.Code, c.want)
		}
	}
}
