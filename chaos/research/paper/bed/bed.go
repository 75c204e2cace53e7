package bed

import (
	"context"
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/research/paper"
)

// Bed is the guest.
type Bed struct {
	Self  string // this program, absolute: it is also the processes beside (Work, ServeMessages)
	Dmps  string // the program dmps, absolute
	CC1   string // GCC's compiler proper, absolute
	Disk  string // the local disk, a block device that may be overwritten
	Dir   string // for logs, sockets and state, made when absent
	Quick bool   // cut sizes and times down
	Only  string // of the devices that a figure compares, this one alone; "" for all

	report *figures.Report
	log    func(format string, a ...any) // progress, for people
}

// Run measures one figure and reports it.
func (b *Bed) Run(ctx context.Context, figure string, r *figures.Report) error {
	if err := kernel.InGuest(); err != nil {
		return err
	}
	measures := map[string]func(context.Context) error{
		paper.FigureMessage: b.message, paper.FigureDirect: b.direct, paper.FigureFile: b.filesystem, paper.FigureFill: b.fill,
		paper.FigureCluster: b.cluster, paper.FigureApps: b.apps, paper.FigurePaths: b.paths,
	}
	f := measures[figure]
	if f == nil {
		return fmt.Errorf("there is no figure %q", figure)
	}
	start := time.Now()
	b.report = r
	b.log = func(format string, a ...any) {
		fmt.Fprintf(os.Stderr, "[%6.1f] %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
	}
	// /var/run is where ip keeps network namespaces.
	for _, dir := range []string{b.Dir, "/var/run"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := r.Line(figures.KindMachine, figures.ThisMachine()); err != nil {
		return err
	}
	if err := f(ctx); err != nil {
		return fmt.Errorf("figure %s: %w", figure, err)
	}
	return r.Line(figures.KindDone, time.Since(start).Seconds())
}

// quick gives n, or when sizes are cut down, small.
func quick[T any](b *Bed, n, small T) T {
	if b.Quick {
		return small
	}
	return n
}

// cgroups is where the guest has its control groups.
const cgroups = "/sys/fs/cgroup"

// limit makes a control group with so many bytes of memory, 0 without limit.
func (b *Bed) limit(name string, memory int64) (*paper.Limit, error) {
	if err := os.WriteFile(filepath.Join(cgroups, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	return paper.NewLimit(cgroups, name, memory)
}

// setting writes a setting of the kernel, a file below /proc/sys or /sys.
func setting(file, value string) error {
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("setting of the kernel: %w", err)
	}
	return nil
}

// before are counters at the start of a measurement.
type before struct {
	vm   paper.VM
	disk paper.Disk
	path string
}

func countersOf(path string) (before, error) {
	c := before{path: path}
	var err error
	if c.vm, err = paper.ReadVM(); err != nil {
		return c, err
	}
	if path != "" {
		c.disk, err = paper.ReadDisk(path)
	}
	return c, err
}

// since gives what happened since then.
func (c before) since() (paper.VM, paper.Disk, error) {
	now, err := countersOf(c.path)
	return now.vm.Sub(c.vm), now.disk.Sub(c.disk), err
}

// each attaches the devices one after another and runs f on each.
func (b *Bed) each(ctx context.Context, names []string, size int64, f func(device) error) error {
	for _, name := range names {
		if b.Only != "" && name != b.Only {
			continue
		}
		b.log("attaching %s", name)
		d, err := b.attach(ctx, name, size)
		if err != nil {
			return fmt.Errorf("attaching %s: %w", name, errors.Join(err, d.close()))
		}
		b.log("measuring on %s (%s)", name, d.path)
		if err := f(d); err != nil {
			return fmt.Errorf("on %s: %w\n%s", name, errors.Join(err, d.close()), b.logs())
		}
		if err := d.close(); err != nil {
			return fmt.Errorf("taking %s down: %w\n%s", name, err, b.logs())
		}
	}
	return nil
}

// logs are the last lines that the processes beside have said.
func (b *Bed) logs() string {
	var s strings.Builder
	files, _ := filepath.Glob(filepath.Join(b.Dir, "*.log")) // the pattern is right
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it only helps to understand another error
		}
		text = text[max(0, len(text)-1500):]
		fmt.Fprintf(&s, "-- %s --\n%s\n", filepath.Base(f), text)
	}
	return s.String()
}
