package state

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"dmps/meta/level"
)

// next is a build that knows one level more than there is.
var next = level.Build{Version: "next", Lowest: 1, Highest: level.Highest + 1}

// The level grows once all nodes know the next, and never shrinks.
func TestRaise(t *testing.T) {
	s := New()
	must := func(c Command) {
		t.Helper()
		if _, err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(c Command, code Code, want string) {
		t.Helper()
		var refusal *Refusal
		if _, err := s.Apply(&c); !errors.As(err, &refusal) || refusal.Code != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	node := func(id string, b level.Build) Command {
		return Command{PutNode: &Node{ID: id, Name: id, Build: b}}
	}
	to := Command{Raise: &Raise{To: level.Highest + 1, By: "next"}}
	must(Command{Init: &Init{Cluster: "c", Level: level.Highest}})
	must(node("a", next))
	must(node("b", level.This("old")))
	refused(to, LevelUnknown, "b (dmps old knows level")
	if s.Knows(level.Highest + 1) {
		t.Fatal("a refused raise raises")
	}
	must(node("b", next))
	must(to)
	must(to)
	if s.Level != level.Highest+1 || s.LevelBy != "next" || !s.Knows(level.Highest) {
		t.Errorf("level %d by %q", s.Level, s.LevelBy)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	refused(Command{Raise: &Raise{To: level.Highest}}, Invalid, "never lowered")
	refused(node("b", level.This("old")), LevelUnknown, "install dmps next")
	must(Command{Init: &Init{Cluster: "c", Level: level.Highest}})
	if s.Level != level.Highest+1 {
		t.Error("the cluster's first command, made again, lowers its level")
	}
}

// Nothing above the cluster's level is proposed, and a build reads nothing that it does
// not know wholly: of another level it says so.
func TestLevelOfCommands(t *testing.T) {
	init := Command{Init: &Init{Cluster: "c", Level: next.Highest, By: "next"}}
	raise := Command{Raise: &Raise{To: next.Highest, By: "next"}}
	for _, c := range []Command{init, raise} {
		b, err := c.Encode(level.Highest)
		if err != nil {
			t.Fatal(err)
		}
		var unknown *level.UnknownError
		if _, err := Decode(b, level.This("old")); !errors.As(err, &unknown) || unknown.Level != next.Highest || unknown.Since != "next" {
			t.Errorf("%s: %v", b, err)
		}
		if _, err := Decode(b, next); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	}
	// Every command needs the first level.
	var refusal *Refusal
	if _, err := (&Command{Purge: &Purge{ID: "s"}}).Encode(0); !errors.As(err, &refusal) || refusal.Code != LevelTooLow {
		t.Errorf("a command above the cluster's level: %v", err)
	}
	later := []byte(`{"level":9,"teleport":{"to":"mars"}}`)
	var unknown *level.UnknownError
	if _, err := Decode(later, next); !errors.As(err, &unknown) || unknown.Level != 9 {
		t.Errorf("a command of later: %v", err)
	}
	for _, b := range []string{`{"purge":{"id":"s","colour":1}}`, `{"level":1,"purge":{"id":"s"},"teleport":{}}`, `{"purge":{"id":"s"}}{}`} {
		if _, err := Decode([]byte(b), level.This("")); err == nil || errors.As(err, &unknown) {
			t.Errorf("%s: %v", b, err)
		}
	}
}

// Each command is one that is carried out.
func TestCommandsAreApplied(t *testing.T) {
	for _, f := range changes {
		c := Command{}
		v := reflect.ValueOf(&c).Elem().FieldByIndex(f)
		v.Set(reflect.New(v.Type().Elem()))
		b, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b, level.This("")); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		if _, err := New().Apply(&c); err != nil && strings.Contains(err.Error(), "empty command") {
			t.Errorf("nobody carries out %s", b)
		}
	}
}

// Records above the cluster's level are found.
func TestCheckLevels(t *testing.T) {
	s := New()
	if _, err := s.Apply(&Command{PutNode: &Node{ID: "a", Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	s.Level = 0
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "needs cluster level 1") {
		t.Errorf("check: %v", err)
	}
}
