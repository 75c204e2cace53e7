package level

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

type inner struct {
	A int
	B []int `level:"3"`
}

type outer struct {
	One  inner
	Many map[string]*inner
	Self *outer
	New  *struct{ C int } `json:"new" level:"2"`
	Not  int              `json:"-" level:"9"`
}

// A value needs the highest level of what is set in it, however deep.
func TestOf(t *testing.T) {
	for want, v := range map[Level]outer{
		1: {One: inner{A: 1}, Many: map[string]*inner{"": {A: 1}, "nil": nil}, Not: 1},
		2: {New: &struct{ C int }{}},
		3: {New: &struct{ C int }{}, Many: map[string]*inner{"": {B: []int{0}}}},
	} {
		if is := Of(&v); is != want {
			t.Errorf("%+v needs level %d, not %d", v, is, want)
		}
	}
	if is := Of(&outer{Self: &outer{One: inner{B: []int{1}}}}); is != 3 {
		t.Errorf("within itself: level %d", is)
	}
}

func TestFields(t *testing.T) {
	list, err := Fields("x", reflect.TypeFor[struct {
		A []string            `json:"a"`
		B map[string]struct{} `json:"b"`
	}]())
	if err != nil || !slices.Equal(list[1], []string{"x.a[] string", "x.b{string} empty"}) {
		t.Errorf("fields %v, %v", list, err)
	}
	for _, bad := range []reflect.Type{
		reflect.TypeFor[struct {
			A int `level:"soon"`
		}](), reflect.TypeFor[struct {
			A int `level:"1"`
		}](), reflect.TypeFor[struct {
			A int `level:"999"`
		}](),
	} {
		if _, err := Fields("x", bad); err == nil {
			t.Errorf("%v passes", bad)
		}
	}
}

// Who is too old learns what to install, who is too new what to do before.
func TestCheck(t *testing.T) {
	b := Build{Version: "v3", Lowest: 2, Highest: 3}
	for l, want := range map[Level]string{1: "install a version that knows both", 2: "", 3: "", 4: "install dmps v4, or a later version"} {
		err := b.Check("it", l, "v4")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("level %d: %v", l, err)
		}
	}
	if zero := (Build{}); !zero.Knows(1) || zero.Knows(2) {
		t.Error("who says nothing of itself knows the first level")
	}
	for v, ok := range map[string]bool{"": true, "v1.2-3-gabc-dirty": true, "a b": false, "\x1b[2J": false, strings.Repeat("v", 65): false} {
		if (Build{Version: v}).Valid() != ok {
			t.Errorf("version %q: valid is not %v", v, ok)
		}
		if b := This(v); !b.Valid() || ok && b.Version != v {
			t.Errorf("version %q becomes %q", v, b.Version)
		}
	}
}
