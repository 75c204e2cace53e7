//go:build !nextlevel

package store

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"dmps/meta/level"
	"dmps/meta/state"
)

var update = flag.Bool("update", false, "write down the fields of levels that were not released yet")

// Whatever is replicated has a level. A command or a field that was added is either
// noted in the list of a level that was not released yet, or has a tag with a higher
// one: see package level.
func TestLevels(t *testing.T) {
	fields := map[level.Level][]string{}
	for name, of := range map[string]reflect.Type{
		"command": reflect.TypeFor[state.Command](), "root": reflect.TypeFor[root](),
		"server": reflect.TypeFor[state.Server](), "volume": reflect.TypeFor[state.Volume](), "group": reflect.TypeFor[state.Group](),
		"node": reflect.TypeFor[state.Node](), "event": reflect.TypeFor[state.Event](),
	} {
		list, err := level.Fields(name, of)
		if err != nil {
			t.Fatal(err)
		}
		for l, f := range list {
			fields[l] = append(fields[l], f...)
		}
	}
	for l := level.Level(1); l <= level.Highest; l++ {
		slices.Sort(fields[l])
		is := strings.Join(fields[l], "\n") + "\n"
		path := filepath.Join("testdata", fmt.Sprintf("level-%d.txt", l))
		if *update && l > level.Released {
			if err := os.WriteFile(path, []byte(is), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := strings.Split(strings.TrimSpace(string(b)), "\n")
		for _, f := range fields[l] {
			if !slices.Contains(was, f) {
				t.Errorf("new in level %d: %s", l, f)
			}
		}
		for _, f := range was {
			if !slices.Contains(fields[l], f) {
				t.Errorf("no longer in level %d: %s", l, f)
			}
		}
		switch {
		case !t.Failed():
		case l <= level.Released:
			t.Errorf("level %d was released: give what is new a higher one, with a tag `level:\"N\"`, and bring back what is gone (package level)", l)
		default:
			t.Errorf("level %d was not released yet: go test ./meta/store -run TestLevels -update", l)
		}
	}
}
