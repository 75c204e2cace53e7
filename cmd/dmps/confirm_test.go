package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"dmps/internal/exitcode"
)

func TestConsent(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   error
	}{
		{"y\n", nil}, {"Yes\n", nil}, {" y \n", nil}, {"y", nil},
		{"\n", errDeclined}, {"n\n", errDeclined}, {"yes please\n", errDeclined}, {"x", errDeclined},
	} {
		var w bytes.Buffer
		if err := askOn(strings.NewReader(c.answer), &w, "forget s1", []string{"2 groups lose a member."}); !errors.Is(err, c.want) {
			t.Errorf("answer %q: %v, want %v", c.answer, err, c.want)
		}
		if got, want := w.String(), "This will forget s1.\n  2 groups lose a member.\nGo on? [y/N] "; got != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
	if err := askOn(strings.NewReader(""), &bytes.Buffer{}, "x", nil); err == nil {
		t.Error("the end of the input is a yes")
	}
	var errs bytes.Buffer
	a := &app{in: strings.NewReader("y\n"), err: &errs}
	err := new(consent).ask(a, "forget s1")
	if codeOf(err) != exitcode.Usage || !strings.Contains(err.Error(), "forget s1") || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without a terminal: %v, exit code %d", err, codeOf(err))
	}
	if err := (&consent{given: true}).ask(a, "forget s1"); err != nil || errs.Len() != 0 {
		t.Errorf("with --yes: %v, printed %q", err, errs.String())
	}
}
