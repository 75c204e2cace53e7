package reach

import (
	"strings"
	"testing"
)

func TestUnspecified(t *testing.T) {
	for a, want := range map[string]bool{
		"0.0.0.0:7301": true, "[::]:7301": true, ":7301": true, "[::ffff:0.0.0.0]:1": true, "[::%eth0]:1": true,
		"127.0.0.1:7301": false, "[::1]:1": false, "10.0.0.1:1": false, "host:1": false, "0.0.0.0": false, "": false,
	} {
		if Unspecified(a) != want {
			t.Errorf("%q: %v", a, !want)
		}
	}
}

func TestTold(t *testing.T) {
	any, one := []string{"10.0.0.1:1", "0.0.0.0:7301"}, []string{"10.0.0.1:7301"}
	for what, c := range map[string]struct {
		listen, advertise []string
		refused           bool
	}{
		"an address":           {one, nil, false},
		"any address":          {any, nil, true},
		"any, and what is":     {any, one, false},
		"one, and told of any": {one, any, true},
		"nothing":              {nil, nil, false},
	} {
		err := Told(c.listen, c.advertise, "--advertise")
		if (err != nil) != c.refused || err != nil && (!strings.Contains(err.Error(), "0.0.0.0:7301") || !strings.Contains(err.Error(), "--advertise")) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
