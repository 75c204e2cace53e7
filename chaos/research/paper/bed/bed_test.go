package bed

import (
	"bytes"
	"dmps/chaos/figures"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/research/paper"
)

// TestRunRefuses: no figure runs on a machine that is no guest; this one.
func TestRunRefuses(t *testing.T) {
	if kernel.InGuest() == nil {
		t.Skip("this is a guest")
	}
	var out bytes.Buffer
	b := Bed{Dir: t.TempDir()}
	for _, figure := range paper.Figures {
		if err := b.Run(t.Context(), figure, figures.NewReport(&out, figure)); !errors.Is(err, kernel.ErrNotInGuest) {
			t.Errorf("%s: %v", figure, err)
		}
	}
	if _, err := b.swap(device{path: "/nonexistent"}); !errors.Is(err, kernel.ErrNotInGuest) {
		t.Errorf("swap: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("it reported: %s", &out)
	}
}

// TestDeviceClose: what was put up last is taken down first, and what fails does
// not keep the rest.
func TestDeviceClose(t *testing.T) {
	var order []int
	broken := errors.New("broken")
	d := device{undo: []func() error{
		func() error { order = append(order, 1); return nil },
		func() error { order = append(order, 2); return broken },
		func() error { order = append(order, 3); return nil },
	}}
	if err := d.close(); !errors.Is(err, broken) {
		t.Error(err)
	}
	if len(order) != 3 || order[0] != 3 || order[2] != 1 {
		t.Errorf("in the order %v", order)
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10 * time.Second)
		if !b.allows(100) {
			t.Fatal("nobody knows how long the first step takes")
		}
		time.Sleep(2 * time.Second)
		b.step()
		if !b.allows(3) || b.allows(4.5) {
			t.Error("8 s are left: three times 2 s fit, nine do not")
		}
		time.Sleep(5 * time.Second)
		b.step()
		if b.allows(1) {
			t.Error("5 s in 3 s")
		}
	})
}

func TestUpIn(t *testing.T) {
	for list, want := range map[string]int{
		`[]`: 0,
		`[{"id":"a","state":"up"},{"id":"b","state":"suspect"},{"id":"c","state":"up"}]`: 2,
	} {
		if n, err := upIn([]byte(list)); err != nil || n != want {
			t.Errorf("%s: %d, %v", list, n, err)
		}
	}
	if _, err := upIn([]byte("no servers")); err == nil {
		t.Error("no list was taken for one")
	}
}
