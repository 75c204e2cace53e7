package scenario

import "testing"

func TestParseStat(t *testing.T) {
	// The name of a process may hold what separates the fields.
	c, err := parseStat("42 (a ) (b) S 1 42 42 0 -1 4194560 100 0 0 0 17 23 0 0 20 0 5 0 100 1 1")
	if err != nil {
		t.Fatal(err)
	}
	if c.name != "42 a ) (b" || c.user != 17 || c.system != 23 {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"", "42", "42 (x) S 1", ") 42 ("} {
		if c, err := parseStat(bad); err == nil {
			t.Errorf("%q is %+v", bad, c)
		}
	}
}
