package scale

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/port"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// What CI runs is small; `make scale` has the sizes of a large cluster.
var (
	servers = flag.Int("scale.servers", 60, "memory servers")
	volumes = flag.Int("scale.volumes", 12, "volumes, each attached by a client")
	groups  = flag.Int("scale.groups", 200, "groups of each volume")
	steady  = flag.Duration("scale.steady", 3*time.Second, "how long nothing but heartbeats and renewals is measured")
	bars    = flag.Bool("scale.bars", false, "fail where a time is longer than it should be on two cores of its own; else only what was said is judged")
)

const (
	grace   = 3 * time.Second
	suspect = 2 * time.Second
)

// dmpsBin is the program under test; empty: it is skipped.
var dmpsBin = os.Getenv("DMPS_BIN")

// nodes are the metadata service.
type nodes struct {
	t     *testing.T
	procs []*rig.Process
	specs []rig.Spec
	urls  []string
}

func startNodes(t *testing.T, n int) *nodes {
	t.Helper()
	if dmpsBin == "" {
		t.Skip("no DMPS_BIN: make scale, make e2e")
	}
	all := &nodes{t: t}
	hold := func() string {
		p, err := port.Hold()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Release() })
		return p.At("127.0.0.1")
	}
	for range n {
		all.urls = append(all.urls, hold())
	}
	dir := t.TempDir()
	for i := range n {
		id := fmt.Sprintf("m%d", i)
		all.specs = append(all.specs, rig.Spec{
			Name: id, Log: filepath.Join(dir, id+".log"),
			Argv: []string{dmpsBin, "meta", "--id", id, "--dir", filepath.Join(dir, id), "--api", all.urls[i], "--raft", hold(),
				"--bootstrap-expect", fmt.Sprint(n), "--join", strings.Join(all.urls, ","), "--grace", grace.String(), "--suspect-after", suspect.String()},
		})
		all.procs = append(all.procs, nil)
		all.start(i)
	}
	t.Cleanup(func() {
		for i, p := range all.procs {
			if t.Failed() {
				t.Logf("%s:\n%s", all.specs[i].Name, rig.Tail(p.Log, 20))
			}
			if err := p.Stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
		}
	})
	return all
}

func (n *nodes) start(i int) {
	n.t.Helper()
	p, err := rig.Start(n.specs[i])
	if err != nil {
		n.t.Fatal(err)
	}
	n.procs[i] = p
}

// leader waits for one, and gives its place.
func (n *nodes) leader(ctx context.Context, c *metaclient.Client) int {
	n.t.Helper()
	for {
		members, err := c.Members(ctx)
		for _, m := range members {
			if m.Leader {
				return slices.IndexFunc(n.specs, func(s rig.Spec) bool { return s.Name == m.Name })
			}
		}
		if ctx.Err() != nil {
			n.t.Fatalf("no leader: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// judge reports a time, and whether it is within its bar.
func judge(t *testing.T, what string, is, bar time.Duration) {
	t.Helper()
	t.Logf("%-44s %9.3f s, bar %v", what, is.Seconds(), bar)
	if *bars && is > bar {
		t.Errorf("%s: %v, more than %v", what, is, bar)
	}
}

func TestScale(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	n := startNodes(t, 3)
	begin := time.Now()
	f, err := New(ctx, Config{
		URLs: n.urls, Servers: *servers, Volumes: *volumes, Groups: *groups, Geometry: raid.Geometry{K: 4, M: 2}, Beat: time.Second, Renew: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Logf("%d servers registered after %v", *servers, time.Since(begin).Round(time.Millisecond))
	f.Beat()
	created, err := f.Create(func(done int) {
		if done%100 == 0 {
			t.Logf("%d volumes", done)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Meta().Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, v := range st.Volumes {
		total += v.Groups
	}
	t.Logf("%d groups, %d chunks, on %d servers", total, f.Chunks(), *servers)
	judge(t, "create a volume, p99", created.Quantile(0.99), 500*time.Millisecond)
	beats, _, errs := f.Taken()
	t.Logf("while they were created: heartbeats p99 %v, most %v, %d errors", beats.Quantile(0.99), beats.Max(), len(errs))

	at := n.leader(ctx, f.Meta())
	before, err := rig.UsageOf(n.procs[at].PID())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(*steady)
	after, err := rig.UsageOf(n.procs[at].PID())
	if err != nil {
		t.Fatal(err)
	}
	beats, renewals, errs := f.Taken()
	t.Logf("in %v: %d heartbeats, p50 %v, p99 %v; %d renewals, p99 %v; %d errors", *steady, beats.Count(), beats.Quantile(0.5), beats.Quantile(0.99), renewals.Count(), renewals.Quantile(0.99), len(errs))
	judge(t, "the latest heartbeat", beats.Max(), suspect)
	judge(t, "the leader's CPU time, a second", time.Duration(float64(after.CPU-before.CPU)/steady.Seconds()), time.Second)
	t.Logf("the leader's memory: %d MiB", after.Peak>>20)

	lost := f.Silence(*servers / 2)
	took := n.replaced(ctx, f.Meta(), lost)
	judge(t, "members of a lost server placed anew", took, 5*time.Second)

	page, err := f.Meta().Events(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Taken()
	begin = time.Now()
	if err := n.procs[at].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.procs[at].Done()
	next := at
	for next == at {
		next = n.leader(ctx, f.Meta())
	}
	judge(t, "another leader", time.Since(begin), 10*time.Second)
	time.Sleep(max(*steady, 2*suspect+grace))
	n.start(at)
	_, _, errs = f.Taken()
	t.Logf("%d errors of heartbeats and renewals meanwhile: %v", len(errs), errors.Join(errs[:min(len(errs), 2)]...))
	n.nobodyBlamed(ctx, f.Meta(), page.Last, lost)

	begin = time.Now()
	now, err := f.Meta().NodeInfo(ctx, "http://"+n.urls[next])
	if err != nil {
		t.Fatal(err)
	}
	for {
		if info, err := f.Meta().NodeInfo(ctx, "http://"+n.urls[at]); err == nil && info.Applied >= now.Applied {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("the node that was killed does not come back: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	judge(t, "the killed node follows again", time.Since(begin), time.Minute)
}

// replaced waits until a silent server has no members any more, and gives how long that took
// since it counts as down.
func (n *nodes) replaced(ctx context.Context, c *metaclient.Client, lost raid.ServerID) time.Duration {
	n.t.Helper()
	var down time.Time
	for {
		all, err := c.Servers(ctx)
		i := slices.IndexFunc(all, func(s metaclient.Server) bool { return s.ID == lost })
		switch {
		case err != nil || i < 0:
		case all[i].State != metaclient.ServerDown:
		case down.IsZero():
			down = time.Now()
			fallthrough
		case all[i].Chunks == 0:
			if all[i].Chunks == 0 {
				return time.Since(down)
			}
		}
		if ctx.Err() != nil {
			n.t.Fatalf("members of %s stay where they are: %v", lost, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nobodyBlamed judges that no server but the lost one was suspected since an event.
func (n *nodes) nobodyBlamed(ctx context.Context, c *metaclient.Client, since uint64, lost raid.ServerID) {
	n.t.Helper()
	page, err := c.Events(ctx, since, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	blamed := 0
	for _, e := range page.Events {
		if strings.HasPrefix(e.Kind, "server-") && e.Server != lost {
			blamed++
			if blamed < 4 {
				n.t.Logf("%s %s: %s", e.At, e.Kind, e.Text)
			}
		}
	}
	n.t.Logf("%d servers suspected after the leader was killed", blamed)
	if *bars && blamed > 0 {
		n.t.Errorf("%d servers are blamed for the leader's end", blamed)
	}
}
