package peers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"dmps/chaos/e2e/rig"
)

// cpuOf sums the CPU time of each role, with the children that its processes
// started (nbd-server forks one a connection).
func (t *Target) cpuOf() (map[string]time.Duration, error) {
	sum := make(map[string]time.Duration, len(t.Roles))
	for _, r := range t.Roles {
		for _, pid := range r.PIDs {
			tree, err := rig.Tree(pid)
			if err != nil {
				return nil, err
			}
			for i, p := range tree {
				u, err := rig.UsageOf(p)
				switch {
				case err == nil:
					sum[r.Name] += u.CPU
				case i == 0:
					return nil, fmt.Errorf("%s (pid %d) is gone: %w", r.Name, p, err)
				}
				// A child that ended meanwhile is in its parent's account from now on.
			}
		}
	}
	return sum, nil
}

// Memory is the largest resident size that any process of a role has had.
type Memory struct {
	Contender string `json:"contender"`
	Role      string `json:"role"`
	Processes int    `json:"processes"`
	Peak      int64  `json:"peak_bytes"`  // of the largest
	Limit     int64  `json:"limit_bytes"` // that it was told to use, 0: not told
}

func (t *Target) memory(contender string) ([]Memory, error) {
	var all []Memory
	for _, r := range t.Roles {
		m := Memory{Contender: contender, Role: r.Name, Processes: len(r.PIDs), Limit: r.Limit}
		for _, pid := range r.PIDs {
			u, err := rig.UsageOf(pid)
			if err != nil {
				return nil, fmt.Errorf("memory of %s: %w", r.Name, err)
			}
			m.Peak = max(m.Peak, u.Peak)
		}
		all = append(all, m)
	}
	return all, nil
}

// busyTicks is the CPU time that the whole machine has used, from /proc/stat.
func busyTicks() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(b)
}

// parseBusy sums the first line of proc_stat(5) but for idle and iowait. What
// the hypervisor stole counts as busy: it was not ours either.
func parseBusy(b []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := bytes.Fields(line)
	const user, idle, iowait, steal = 1, 4, 5, 8 // guest times behind are within user
	if len(f) <= steal || string(f[0]) != "cpu" {
		return 0, fmt.Errorf("/proc/stat: unexpected first line %q", line)
	}
	var ticks uint64
	for i := user; i <= steal; i++ {
		if i == idle || i == iowait {
			continue
		}
		n, err := strconv.ParseUint(string(f[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * rig.ClockTick, nil
}

const (
	settleStep  = 200 * time.Millisecond
	settleIdle  = 20 * time.Millisecond // CPU time a step that counts as idle: heartbeats
	settleLimit = 5 * time.Second
)

// settle waits until the contender is idle: a log cleans up after
// writes, and must do so on its own account and not in the next one's time.
// It reports whether that came to an end, and the CPU times then.
func (t *Target) settle(ctx context.Context) (map[string]time.Duration, bool, error) {
	before, err := t.cpuOf()
	if err != nil {
		return nil, false, err
	}
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(settleStep):
		}
		now, err := t.cpuOf()
		if err != nil {
			return nil, false, err
		}
		var used time.Duration
		for role := range now {
			used += now[role] - before[role]
		}
		if used <= settleIdle {
			return now, true, nil
		}
		if time.Since(start) > settleLimit {
			return now, false, nil
		}
		before = now
	}
}
