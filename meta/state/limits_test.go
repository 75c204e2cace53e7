package state

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"dmps/raid"
)

// Every string of every command is bounded, and fit for a terminal.
func TestEveryStringIsChecked(t *testing.T) {
	fields := 0
	kinds := reflect.TypeFor[Command]()
	for i := range kinds.NumField() {
		if kinds.Field(i).Type.Kind() != reflect.Pointer {
			continue
		}
		for _, bad := range []string{strings.Repeat("a", maxText+1), "a\x1b[2J", "a\nb", "\xff"} {
			n := 0
			walkStrings(kinds.Field(i).Type.Elem(), func(set func(reflect.Value, string)) {
				n++
				var c Command
				at := reflect.New(kinds.Field(i).Type.Elem())
				if c.Register, _ = at.Interface().(*Register); c.Register != nil {
					c.Register.ID = "s1"
				}
				reflect.ValueOf(&c).Elem().Field(i).Set(at)
				set(at.Elem(), "fit")
				if refusal := c.Check(); refusal != nil {
					t.Errorf("%s: %v", kinds.Field(i).Name, refusal)
				}
				set(at.Elem(), bad)
				if c.Check() == nil {
					t.Errorf("%s: string %d may be %.20q", kinds.Field(i).Name, n, bad)
				}
			})
			fields += n
		}
	}
	if fields < 4*20 {
		t.Errorf("only %d strings were tried", fields/4)
	}
}

// walkStrings gives for each string within a type how to set it.
func walkStrings(t reflect.Type, found func(func(reflect.Value, string))) {
	switch t.Kind() {
	case reflect.String:
		found(func(v reflect.Value, s string) { v.SetString(s) })
	case reflect.Struct:
		for i := range t.NumField() {
			walkStrings(t.Field(i).Type, func(set func(reflect.Value, string)) {
				found(func(v reflect.Value, s string) { set(v.Field(i), s) })
			})
		}
	case reflect.Pointer:
		walkStrings(t.Elem(), func(set func(reflect.Value, string)) {
			found(func(v reflect.Value, s string) {
				v.Set(reflect.New(t.Elem()))
				set(v.Elem(), s)
			})
		})
	case reflect.Slice:
		walkStrings(t.Elem(), func(set func(reflect.Value, string)) {
			found(func(v reflect.Value, s string) {
				v.Set(reflect.MakeSlice(t, 1, 1))
				set(v.Index(0), s)
			})
		})
	case reflect.Map:
		found(func(v reflect.Value, s string) {
			v.Set(reflect.ValueOf(map[string]string{s: "v"}))
		})
		found(func(v reflect.Value, s string) {
			v.Set(reflect.ValueOf(map[string]string{"k": s}))
		})
	}
}

func TestServersAndLabelsAreBounded(t *testing.T) {
	for id, ok := range map[string]bool{
		"s1": true, "node-7.rack:2_b": true, "": false, "-x": false, "a b": false, "a/b": false,
		strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "ghost\x1b]0;p\x07": false,
	} {
		if ValidServer(id) != ok {
			t.Errorf("%q: %v", id, !ok)
		}
		c := Command{Register: &Register{ID: raid.ServerID(id), Addr: "tcp://h:1"}}
		if refusal := c.Check(); (refusal == nil) != ok {
			t.Errorf("register %q: %v", id, refusal)
		}
	}
	labels := map[string]string{}
	for i := range maxLabels + 1 {
		labels[strings.Repeat("k", i+1)] = "v"
	}
	for _, l := range []map[string]string{labels, {"rack": strings.Repeat("r", maxLabel+1)}} {
		c := Command{Register: &Register{ID: "s1", Addr: "tcp://h:1", Labels: l}}
		if c.Check() == nil {
			t.Errorf("%d labels are taken", len(l))
		}
	}
}

func TestCountsAreBounded(t *testing.T) {
	s := New()
	for i := range maxServers {
		s.Servers[raid.ServerID(strings.Repeat("x", 1+i%100)+string(rune('a'+i/100)))] = &Server{}
	}
	for i := range maxNodes {
		s.Nodes[string(rune('a'+i))] = &Node{}
	}
	for i := range raid.VolumeID(maxVolumes) {
		s.Volumes[i+1] = &Volume{ID: i + 1}
	}
	for name, c := range map[string]*Command{
		"server": {Register: &Register{ID: "new", Incarnation: 1, Addr: "tcp://h:1"}},
		"node":   {PutNode: &Node{ID: "new-1", Name: "new"}},
		"volume": {CreateVolume: &CreateVolume{Name: "new", Pages: 256, Geometry: raid.Geometry{K: 1}}},
	} {
		var refusal *Refusal
		if _, err := s.Apply(c); !errors.As(err, &refusal) || refusal.Code != Invalid || !strings.Contains(refusal.Message, "at most") {
			t.Errorf("one %s more: %v", name, err)
		}
	}
}

func TestPrintableReason(t *testing.T) {
	for _, s := range []string{"", "s2: no session", "a\nb", "\xff\xfe", strings.Repeat("é", maxText), strings.Repeat("\xff", maxText+7)} {
		if got := Printable(s); len(got) > maxText || !printable(got) {
			t.Errorf("%.20q: %.40q", s, got)
		}
	}
	if got := Printable("a\nb"); got != "a b" {
		t.Errorf("%q", got)
	}
}

// A volume of wide groups is bounded by its chunks, long before it has too many groups.
func TestChunksOfAVolumeAreBounded(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	c := CreateVolume{Name: "v", Geometry: g}
	for groups, fits := range map[uint64]bool{maxChunks / 6: true, maxChunks/6 + 1: false} {
		if refusal := c.checkCount(minSlots, groups); (refusal == nil) != fits {
			t.Errorf("%d groups of %v: %v", groups, g, refusal)
		}
	}
}
