package scenario

import (
	"context"
	"fmt"
	"time"
)

// Scenario is one thing that is tried in a guest.
type Scenario struct {
	Name      string
	MemoryMiB int           // of the guest; default 832
	Timeout   time.Duration // of the guest; default 5 minutes
	Programs  []string      // of the host, that it needs
	// RDMA: the guest has soft RoCE, and dmps in it libfabric. RDMAEnv of package
	// kernel is its address.
	RDMA bool
	// Tests: the tests of transport/fabric are at fabricTest.
	Tests bool
	// MustFail: it shows what happens without dmps, and fails if nothing does.
	MustFail bool
	// Loses: pages are gone, and the kernel's log may say that they cannot be read.
	Loses bool
	Run   func(context.Context, *Guest) error
}

// All are the scenarios, by name.
func All() []Scenario {
	all := []Scenario{
		{Name: "boot", MemoryMiB: 256, Run: boot},
		{Name: "control", MemoryMiB: 512, MustFail: true, Run: control},
	}
	all = append(all, Scenario{Name: "compare", MemoryMiB: 1024, Timeout: 15 * time.Minute, Run: compare})
	all = append(all,
		Scenario{Name: "conformance-verbs", MemoryMiB: 1024, Timeout: 15 * time.Minute, RDMA: true, Tests: true, Run: conformance},
		Scenario{Name: "swap-verbs-rs21", MemoryMiB: 1536, Timeout: 15 * time.Minute, RDMA: true, Run: killM("ublk", rs21.over("verbs"))},
	)
	for _, kind := range []string{"nbd", "ublk"} {
		all = append(all,
			Scenario{Name: "device-" + kind, Run: device(kind)},
			Scenario{Name: "swap-" + kind + "-mirror2", Run: killM(kind, mirror2)},
			Scenario{Name: "swap-" + kind + "-rs21", Run: killM(kind, rs21)},
			Scenario{Name: "swap-" + kind + "-rs42", MemoryMiB: 1152, Timeout: 10 * time.Minute, Run: killM(kind, rs42)},
			Scenario{Name: "restart-" + kind, Run: restart(kind)},
			Scenario{Name: "freeze-" + kind, Run: freeze(kind)},
			Scenario{Name: "meta-gone-" + kind, Run: metaGone(kind)},
			Scenario{Name: "start-killed-" + kind, Timeout: 20 * time.Minute, Run: killedAt(kind, startKilled)},
			Scenario{Name: "start-silent-" + kind, Timeout: 20 * time.Minute, Run: killedAt(kind, startSilent)},
			Scenario{Name: "detach-killed-" + kind, Timeout: 20 * time.Minute, Run: killedAt(kind, detachKilled(kind))},
			Scenario{Name: "second-" + kind, MemoryMiB: 1280, Timeout: 10 * time.Minute, Run: second(kind)},
			Scenario{Name: "cycled-" + kind, MemoryMiB: 1024, Timeout: 10 * time.Minute, Loses: true, Run: cycled(kind)},
			Scenario{Name: "pressure-" + kind, Timeout: 10 * time.Minute, Run: pressure(kind)},
			Scenario{Name: "discard-" + kind, Run: discard(kind)},
			Scenario{Name: "ext4-" + kind, MemoryMiB: 1024, Timeout: 5 * time.Minute, Run: filesystem(kind),
				Programs: []string{"fio", "mkfs.ext4", "e2fsck"}},
		)
	}
	return all
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
	if s.Loses {
		k.expect("I/O error", "Read-error on swap-device", "Write-error on swap-device")
	}
	if err := s.Run(ctx, g); err != nil || s.MustFail {
		return err
	}
	return k.err()
}
