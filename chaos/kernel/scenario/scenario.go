package scenario

import (
	"context"
	"fmt"
	"time"
)

// Scenario is one thing that is tried in a guest.
type Scenario struct {
	Name      string
	MemoryMiB int           // of the guest; default 768
	Timeout   time.Duration // of the guest; default 5 minutes
	Programs  []string      // of the host, that it needs
	// MustFail: it shows what happens without dmps, and fails if nothing does.
	MustFail bool
	Run      func(context.Context, *Guest) error
}

// All are the scenarios, by name.
func All() []Scenario {
	return []Scenario{
		{Name: "boot", MemoryMiB: 256, Run: boot},
		{Name: "control", MemoryMiB: 512, MustFail: true, Run: control},
		{Name: "device-nbd", Run: device("nbd")},
		{Name: "swap-nbd-mirror2", Run: killM("nbd", mirror2)},
		{Name: "swap-nbd-rs21", Run: killM("nbd", rs21)},
		{Name: "swap-nbd-rs42", MemoryMiB: 1024, Run: killM("nbd", rs42)},
		{Name: "restart-nbd", Run: restart("nbd")},
		{Name: "freeze-nbd", Run: freeze("nbd")},
		{Name: "meta-gone-nbd", Run: metaGone("nbd")},
		{Name: "pressure-nbd", Timeout: 10 * time.Minute, Run: pressure("nbd")},
		{Name: "discard-nbd", Run: discard("nbd")},
	}
}

// Find is the scenario of a name.
func Find(name string) (Scenario, error) {
	for _, s := range All() {
		if s.Name == name {
			return s, nil
		}
	}
	return Scenario{}, fmt.Errorf("there is no scenario %q", name)
}

// boot does nothing: the guest came up and can be told apart from one that did
// not.
func boot(context.Context, *Guest) error { return nil }

// Do runs the scenario. What the kernel's log says of errors is one, unless the
// scenario is there to cause them.
func (s Scenario) Do(ctx context.Context, g *Guest) error {
	k, err := followKmsg()
	if err != nil {
		return err
	}
	g.kmsg = k
	if err := s.Run(ctx, g); err != nil || s.MustFail {
		return err
	}
	return k.err()
}
