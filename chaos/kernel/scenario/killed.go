package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dmps/client/hostdev"
	"dmps/internal/blockdev"
	"dmps/internal/swapctl"
)

// moment is when a client is ended, and how.
type moment struct {
	detach bool           // while it is being detached; otherwise while it starts
	call   string         // while another process makes this call for it (blockdev.Apart); "": at random
	frozen bool           // all servers are stopped first, and go on when it has ended
	looked bool           // somebody reads the device as soon as it is there, as udev does
	signal syscall.Signal // 0: SIGKILL
	rounds int
}

func (m moment) String() string {
	what := []string{"start", "detach"}[index(m.detach)] + ", " + []string{"in " + m.call, "at random"}[index(m.call == "")]
	if m.looked {
		what += ", device looked at"
	}
	if m.frozen {
		what += ", servers frozen"
	}
	return what + ", " + []string{"killed", "told to end"}[index(m.signal != 0)]
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// startKilled are fifty random moments of a first start: nothing but the kill
// goes wrong.
var startKilled = []moment{{rounds: 50}}

// startSilent are moments at which the client would wait for its own device, and
// what it waits for does not answer.
var startSilent = []moment{
	{call: "format", rounds: 3},
	{call: "format", frozen: true, rounds: 3},
	{call: "format", frozen: true, signal: syscall.SIGTERM, rounds: 1},
	{call: "swapon", rounds: 3},
	{call: "swapon", frozen: true, rounds: 3},
	{call: "swapon", frozen: true, signal: syscall.SIGTERM, rounds: 1},
	{call: "unthrottle", looked: true, rounds: 2},
	{call: "unthrottle", looked: true, frozen: true, rounds: 2},
	{frozen: true, rounds: 5},
}

// detachKilled are moments of a detach. ublk alone has a call to stop a device.
func detachKilled(kind string) []moment {
	all := []moment{
		{detach: true, rounds: 5},
		{detach: true, frozen: true, rounds: 3},
		{detach: true, call: "claim", rounds: 3},
		{detach: true, call: "claim", frozen: true, rounds: 2},
		{detach: true, call: "claim", frozen: true, signal: syscall.SIGTERM, rounds: 1},
	}
	if kind == "ublk" {
		all = append(all, moment{detach: true, call: "ublk-stop", rounds: 2}, moment{detach: true, call: "ublk-stop", frozen: true, rounds: 2})
	}
	return all
}

// How long things may take.
const (
	endPatience   = 20 * time.Second // for a client that was killed
	leavePatience = 30 * time.Second // for one that was told to end: what a unit has
	backPatience  = 90 * time.Second // for the next one, until the kernel swaps to its device
)

// A heap that takes long to fill would make most of a start.
var swapArgs = []string{"--swap", "--heap-limit", "48MiB"}

// little is a volume that is emptied soon.
var little = scheme{redundancy: "mirror:2", servers: 3, m: 1, volumeMiB: 48, serverMiB: 64}

// killing is a cluster whose clients are ended again and again.
type killing struct {
	*cluster
	kind         string
	rng          *rand.Rand
	starts, ends time.Duration // how long a start takes, until the kernel swaps, and a detach
	tallies      map[moment]*tally
}

// tally is what was seen at a moment.
type tally struct {
	had    map[string]int // what clients had when they were ended
	missed int            // rounds in which the call was over too soon to be met
}

func (k *killing) tally(m moment) *tally {
	if k.tallies[m] == nil {
		k.tallies[m] = &tally{had: make(map[string]int)}
	}
	return k.tallies[m]
}

// killedAt ends clients at moments, each of which must end, and has the next one
// go on.
func killedAt(kind string, moments []moment) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		c, err := newCluster(ctx, g, little)
		if err != nil {
			return err
		}
		k := &killing{cluster: c, kind: kind, rng: rand.New(rand.NewPCG(g.Seed, 4)), tallies: make(map[moment]*tally)}
		began := time.Now()
		if err := k.up(ctx); err != nil {
			return err
		}
		k.starts, began = time.Since(began), time.Now()
		if err := k.down(ctx); err != nil {
			return err
		}
		k.ends = time.Since(began)
		fmt.Printf("a start takes %v, a detach %v\n", k.starts, k.ends)
		if err := k.rounds(ctx, moments); err != nil {
			return err
		}
		var errs []error
		for _, m := range moments {
			t := k.tally(m)
			fmt.Printf("%v: %d of %d recovered; ended with %v; %d met no such call\n", m, m.rounds, m.rounds, t.had, t.missed)
			if t.missed == m.rounds {
				errs = append(errs, fmt.Errorf("%v: no such call was met: it shows nothing", m))
			}
		}
		return errors.Join(errs...)
	}
}

// rounds has all moments take turns, so that a fault in one shows early.
func (k *killing) rounds(ctx context.Context, moments []moment) error {
	most := slices.MaxFunc(moments, func(a, b moment) int { return a.rounds - b.rounds }).rounds
	for i := range most {
		for _, m := range moments {
			if i >= m.rounds {
				continue
			}
			began := time.Now()
			err := k.round(ctx, m)
			if err == nil {
				err = k.g.kmsg.err()
			}
			if err != nil {
				return fmt.Errorf("%v, round %d: %w", m, i, err)
			}
			fmt.Printf("%v, round %d: recovered, %.0f s in all\n", m, i, time.Since(began).Seconds())
		}
	}
	return nil
}

// up starts a client and waits until the kernel swaps to the device.
func (k *killing) up(ctx context.Context) error {
	if err := k.launchAttach(k.kind, swapArgs...); err != nil {
		return err
	}
	return k.swapping(ctx)
}

// swapping waits until the kernel swaps and the client is through with its start: the
// kernel may do so already, because of a call of the client before.
func (k *killing) swapping(ctx context.Context) error {
	return until(ctx, backPatience, "swapping", func() error {
		if err := k.swapped(ctx); err != nil {
			return err
		}
		if !k.attach.said(serving) {
			return errors.New("the client is not through with its start")
		}
		return nil
	})
}

// serving is what a client logs at the end of its start.
const serving = "msg=serving"

// down ends the use of the device, empties the volume, and detaches it: the next
// start has everything to do.
func (k *killing) down(ctx context.Context) error {
	st, err := k.status(ctx)
	if err != nil {
		return err
	}
	if err := swapctl.Off(st.Device); err != nil {
		return err
	}
	if err := discardAll(st.Device); err != nil {
		return err
	}
	if err := k.detach(ctx); err != nil {
		return err
	}
	return k.alone("")
}

// alone is nil when the kernel has one device of a volume, or none with "", and
// nobody is left in a call.
func (k *killing) alone(device string) error {
	all, err := hostdev.List()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(d hostdev.Device) bool { return d.Path == device })
	if len(all) > 0 {
		return fmt.Errorf("devices besides %q: %v", device, all)
	}
	if pids := calling(); len(pids) > 0 {
		stacks(pids[0])
		return fmt.Errorf("processes %v are still in a call for a client that has ended", pids)
	}
	return nil
}

// round ends one client, and has the next one go on.
func (k *killing) round(ctx context.Context, m moment) error {
	if m.detach {
		if err := k.up(ctx); err != nil {
			return err
		}
	} else if err := k.launchAttach(k.kind, swapArgs...); err != nil {
		return err
	}
	ended := k.attach
	if m.looked {
		defer k.look(ctx)()
	}
	var detaching *process
	most := k.starts
	if m.detach {
		var err error
		if detaching, err = k.g.start("detach", "", dmps, "--meta", metaURL, "detach", volume, "--yes"); err != nil {
			return err
		}
		most = k.ends
	}
	if m.call == "" {
		time.Sleep(time.Duration(k.rng.Int64N(int64(most))))
	} else if !met(m, ended) {
		k.tally(m).missed++
	}
	if err := k.end(ended, m); err != nil {
		return err
	}
	return k.recover(ctx, m, detaching)
}

// look reads the first device of the kind when it is there. The function that it
// returns waits for that.
func (k *killing) look(ctx context.Context) (wait func()) {
	path := map[string]string{"nbd": "/dev/nbd0", "ublk": "/dev/ublkb0"}[k.kind]
	ctx, cancel := context.WithTimeout(ctx, backPatience)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for ctx.Err() == nil {
			if f, err := os.Open(path); err == nil {
				n, _ := f.Read(make([]byte, 64<<10)) // of nbd, nothing until it is connected
				_ = f.Close()                        // it was read only
				if n > 0 {
					return
				}
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// end ends the client, which must not need an answer for that.
func (k *killing) end(p *process, m moment) error {
	limit, with := endPatience, syscall.SIGKILL
	if m.signal != 0 {
		limit, with = leavePatience, m.signal
	}
	if m.frozen {
		for _, s := range k.servers {
			if err := s.signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
		time.Sleep(500 * time.Millisecond) // for what is under way to get as far as it can
	}
	if err := p.cmd.Process.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to the client: %w", with, err)
	}
	select {
	case <-p.over:
		return k.note(m)
	case <-time.After(limit):
		stacks(p.cmd.Process.Pid)
		return fmt.Errorf("the client has not ended %v after %v", limit, with)
	}
}

// note counts what a client that has ended had.
func (k *killing) note(m moment) error {
	devices, err := hostdev.List()
	if err != nil {
		return err
	}
	spaces, err := swapctl.Spaces()
	if err != nil {
		return err
	}
	switch {
	case len(spaces) > 0:
		k.tally(m).had["swap"]++
	case len(devices) > 0:
		k.tally(m).had["a device"]++
	default:
		k.tally(m).had["no device"]++
	}
	return nil
}

// recover starts the next client while the servers are still frozen, and ends it
// in order.
func (k *killing) recover(ctx context.Context, m moment, detaching *process) error {
	if err := k.launchAttach(k.kind, swapArgs...); err != nil {
		return err
	}
	if m.frozen {
		time.Sleep(300 * time.Millisecond)
		for _, s := range k.servers {
			if err := s.signal(syscall.SIGCONT); err != nil {
				return err
			}
		}
	}
	if detaching != nil {
		select {
		case <-detaching.over: // with or without an error, which is for whoever detaches
		case <-time.After(backPatience):
			stacks(detaching.cmd.Process.Pid)
			return errors.New("detach does not end")
		}
		// What was told to the first client may have reached the second.
		if k.attach.alive() != nil {
			if err := k.launchAttach(k.kind, swapArgs...); err != nil {
				return err
			}
		}
	}
	if err := k.swapping(ctx); err != nil {
		return err
	}
	st, err := k.status(ctx)
	if err != nil {
		return err
	}
	if err := until(ctx, endPatience, "the end of all calls", func() error { return k.alone(st.Device) }); err != nil {
		return err
	}
	return k.down(ctx)
}

// met waits until another process makes the call for a client, and reports whether
// it did before the client got further or ended.
func met(m moment, client *process) bool {
	for end := time.Now().Add(backPatience); time.Now().Before(end) && client.alive() == nil; {
		for range 20 { // a call may be over in milliseconds
			if slices.ContainsFunc(children(client.cmd.Process.Pid), func(pid int) bool { return callOf(pid, m.call) }) {
				return true
			}
		}
		if !m.detach && client.said(serving) {
			return false
		}
	}
	return false
}

// children are the processes that a process has started and that run.
func children(pid int) []int {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		panic(err) // not with this pattern
	}
	var pids []int
	for _, f := range files {
		b, _ := os.ReadFile(f) // or the thread has ended
		for _, p := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(p); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// callOf reports whether a process makes a call for another one; "": any call.
func callOf(pid int, call string) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // or it has ended
	argv := strings.Split(string(b), "\x00")
	return len(argv) > 2 && argv[1] == blockdev.Command && (call == "" || argv[2] == call)
}

// calling are all processes that make a call for another one.
func calling() []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // not with this pattern
	}
	var pids []int
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && callOf(pid, "") {
			pids = append(pids, pid)
		}
	}
	return pids
}
