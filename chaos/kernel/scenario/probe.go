package scenario

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Probed is what a process sees of the swap space that its memory lies in.
type Probed struct {
	OutMiB, OutSeconds float64   // swapped out while all memory was written, in order
	InMiB, InSeconds   float64   // swapped in while it was read, in order
	Faults             []float64 // ms of each touch, at random, that read its page from swap space, and no other; sorted
}

// Out and In are rates, MiB/s.
func (p *Probed) Out() float64 { return p.OutMiB / p.OutSeconds }
func (p *Probed) In() float64  { return p.InMiB / p.InSeconds }

// Fault is a quantile of the faults, ms.
func (p *Probed) Fault(q float64) float64 {
	if len(p.Faults) == 0 {
		return 0
	}
	return p.Faults[min(int(q*float64(len(p.Faults))), len(p.Faults)-1)]
}

// Probe writes mib MiB of memory, of which its cgroup lets it keep a part, reads
// them, and touches pages at random without reading ahead. It verifies all that
// it reads.
func Probe(mib, touches int, seed uint64) (*Probed, error) {
	mem, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	h := &hog{mem: mem, seed: seed, version: make([]uint32, len(mem)/page)}
	p := new(Probed)
	pages := len(h.version)
	if p.OutMiB, p.OutSeconds, err = counted("pswpout", func() error {
		for i := range pages {
			h.write(i)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	// What the writing left in memory has no place in swap space yet, and would
	// be written by the readers: once around without being measured.
	if err := h.verifyAll(); err != nil {
		return nil, err
	}
	if p.InMiB, p.InSeconds, err = counted("pswpin", h.verifyAll); err != nil {
		return nil, err
	}
	const cluster = "/proc/sys/vm/page-cluster"
	was, err := os.ReadFile(cluster)
	if err == nil {
		err = os.WriteFile(cluster, []byte("0"), 0)
	}
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	for range touches {
		i := rng.IntN(pages)
		before, err := majorFaults()
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := h.verify(i); err != nil {
			return nil, err
		}
		took := time.Since(began)
		after, err := majorFaults()
		if err != nil {
			return nil, err
		}
		if after == before+1 {
			p.Faults = append(p.Faults, took.Seconds()*1e3)
		}
	}
	slices.Sort(p.Faults)
	if err := os.WriteFile(cluster, was, 0); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	return p, nil
}

// counted runs f and gives how much of a kind went through swap space meanwhile.
func counted(kind string, f func() error) (mib, seconds float64, err error) {
	from, err := vmstat(kind)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := f(); err != nil {
		return 0, 0, err
	}
	seconds = time.Since(began).Seconds()
	to, err := vmstat(kind)
	return float64(to[kind]-from[kind]) * page / (1 << 20), seconds, err
}

func majorFaults() (int64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	return u.Majflt, nil
}

// PrintProbe is the program probe.
func PrintProbe(mib, touches int, seed uint64) error {
	p, err := Probe(mib, touches, seed)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(p)
}
