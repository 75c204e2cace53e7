package bed

import (
	"context"
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"dmps/chaos/research/paper"
)

// link is a pair of virtual Ethernet devices of limited rate between the guest
// and a network namespace.
type link struct {
	name string // of the namespace, and of the guest's end
	host string // address of the guest's end
	far  string // address of the end in the namespace
}

var links = []link{{"path1", "10.77.1.1", "10.77.1.2"}, {"path2", "10.77.2.1", "10.77.2.2"}}

// lay makes the link. Each end sends rate bytes a second at most: what would be
// sent faster waits (tc-tbf).
func (l link) lay(ctx context.Context, rate int64) (remove func() error, err error) {
	steps := [][]string{
		{"ip", "netns", "add", l.name},
		{"ip", "link", "add", l.name, "type", "veth", "peer", "name", "far", "netns", l.name},
		{"ip", "addr", "add", l.host + "/24", "dev", l.name},
		{"ip", "link", "set", l.name, "up"},
		{"ip", "-n", l.name, "addr", "add", l.far + "/24", "dev", "far"},
		{"ip", "-n", l.name, "link", "set", "far", "up"},
		{"ip", "-n", l.name, "link", "set", "lo", "up"},
	}
	tbf := []string{"root", "tbf", "rate", strconv.FormatInt(rate*8, 10), "burst", "128kb", "latency", "100ms"}
	steps = append(steps,
		append([]string{"tc", "qdisc", "add", "dev", l.name}, tbf...),
		append([]string{"tc", "-n", l.name, "qdisc", "add", "dev", "far"}, tbf...))
	for _, s := range steps {
		if err := run(ctx, s...); err != nil {
			return nil, fmt.Errorf("laying %s: %w", l.name, err)
		}
	}
	return func() error {
		// Not ctx: a figure that was told to end cleans up too.
		return run(context.Background(), "ip", "netns", "del", l.name)
	}, nil
}

// carried is what the link has carried so far.
func (l link) carried() (paper.LinkLoad, error) {
	out, err := number("/sys/class/net/" + l.name + "/statistics/tx_bytes")
	if err != nil {
		return paper.LinkLoad{}, err
	}
	in, err := number("/sys/class/net/" + l.name + "/statistics/rx_bytes")
	return paper.LinkLoad{Out: out, In: in}, err
}

func number(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// paths measures volumes whose servers are behind one link, and behind two.
func (b *Bed) paths(ctx context.Context) error {
	const rate, size = 6_000_000, 64 << 20
	if err := b.report.Note("Two servers, each in a network namespace behind a link of %d MB/s each way (veth, tbf). Direct I/O in order in requests of 1 MiB on a volume of %d MiB, all of it written once, then read.", rate/1_000_000, size>>20); err != nil {
		return err
	}
	for _, l := range links {
		remove, err := l.lay(ctx, rate)
		if err != nil {
			return err
		}
		defer func() {
			if err := remove(); err != nil {
				b.log("%v", err)
			}
		}()
	}
	for _, v := range []struct {
		name   string
		far    [2]int // link of each server
		volume volume
	}{
		{"one path, striped", [2]int{0, 0}, volume{redundancy: "none", layout: "striped", overhead: 0.5}},
		{"two paths, linear", [2]int{0, 1}, volume{redundancy: "none", layout: "linear", overhead: 0.5}},
		{"two paths, striped", [2]int{0, 1}, volume{redundancy: "none", layout: "striped", overhead: 0.5}},
		{"two paths, log", [2]int{0, 1}, volume{redundancy: "none", layout: "log", overhead: 0.5}},
		{"one path, mirror:2", [2]int{0, 0}, volume{redundancy: "mirror:2", layout: "log", overhead: 1}},
		{"two paths, mirror:2", [2]int{0, 1}, volume{redundancy: "mirror:2", layout: "log", overhead: 1}},
	} {
		v.volume.servers = 2
		v.volume.meta = "0.0.0.0:7200"
		used := map[int]bool{}
		for i, n := range v.far {
			used[n] = true
			v.volume.places = append(v.volume.places, links[n].name)
			v.volume.addresses = append(v.volume.addresses, fmt.Sprintf("%s:%d", links[n].far, 7301+i))
			v.volume.metas = append(v.volume.metas, links[n].host+":7200")
		}
		b.log("%s", v.name)
		if err := b.path(ctx, v.name, len(used), rate, size, v.volume); err != nil {
			return fmt.Errorf("%s: %w\n%s", v.name, err, b.logs())
		}
	}
	return ctx.Err()
}

func (b *Bed) path(ctx context.Context, name string, n int, rate, size int64, v volume) (err error) {
	start, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	d, err := b.dmps(start, name, size, v)
	defer func() { err = errors.Join(err, d.close()) }()
	if err != nil {
		return err
	}
	c := paper.NewContent(6)
	for _, op := range []string{figures.Write, figures.Read} {
		before := make([]paper.LinkLoad, len(links))
		for i, l := range links {
			if before[i], err = l.carried(); err != nil {
				return err
			}
		}
		row := paper.PathRow{Layout: name, Links: n, Rate: rate, Op: op}
		a := paper.Amount{Bytes: size, Time: quick(b, time.Minute, 2*time.Second)}
		if op == figures.Read && b.Quick {
			a.Bytes = 1 << 20 // no further than what was written for sure
		}
		if row.Moved, err = paper.DirectIO(d.path, op, 1<<20, size, a, c); err != nil {
			return err
		}
		for i, l := range links {
			now, err := l.carried()
			if err != nil {
				return err
			}
			row.Sent = append(row.Sent, paper.LinkLoad{Out: now.Out - before[i].Out, In: now.In - before[i].In})
		}
		if err := b.report.Row(row); err != nil {
			return err
		}
	}
	return nil
}
