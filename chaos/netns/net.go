package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Net is a switch and its hosts. Its methods may be called from any goroutine.
type Net struct {
	prefix string // of the names of namespaces
	hosts  []*Host

	mu      sync.Mutex
	refused []*Host // that have rules of their own
}

// Host is a machine on the switch.
type Host struct {
	Name string
	IP   string
	net  *Net
}

// ours begins the names of all namespaces; the process that made them follows.
const ours = "dmps-"

// subnet is that of every Net: their switches are not connected.
const subnet = "10.77.0."

// Possible says why namespaces cannot be had here, or nil. It makes one to see,
// once.
var Possible = sync.OnceValue(possible)

func possible() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("network namespaces need iproute2 and nftables: %w", err)
		}
	}
	n, err := New("probe", "a", "b")
	if err != nil {
		return fmt.Errorf("this kernel has no network namespaces for us: %w", err)
	}
	return n.Close()
}

// New makes a net of hosts with these names. name tells it from other nets of this
// process. The caller closes it.
func New(name string, hosts ...string) (_ *Net, err error) {
	n := &Net{prefix: fmt.Sprintf("%s%d-%s-", ours, os.Getpid(), name)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a network: %w", err), n.Close())
		}
	}()
	if err := sweep(); err != nil {
		return nil, err
	}
	var batch strings.Builder
	if err := ip("netns", "add", n.hub()); err != nil {
		return nil, err
	}
	for i, h := range hosts {
		host := &Host{Name: h, IP: subnet + strconv.Itoa(i+1), net: n}
		if err := ip("netns", "add", host.namespace()); err != nil {
			return nil, err
		}
		n.hosts = append(n.hosts, host)
		fmt.Fprintf(&batch, "link add %s type veth peer name eth0 netns %s\n", port(i), host.namespace())
	}
	// All that is in the switch's namespace goes in one call, and one for each host.
	fmt.Fprintf(&batch, "link add switch type bridge\nlink set switch up\n")
	for i := range hosts {
		fmt.Fprintf(&batch, "link set %s master switch up\n", port(i))
	}
	if err := n.in(n.hub(), batch.String()); err != nil {
		return nil, err
	}
	for _, h := range n.hosts {
		err := n.in(h.namespace(), "link set lo up\naddr add "+h.IP+"/24 dev eth0\nlink set eth0 up\n")
		if err != nil {
			return nil, err
		}
	}
	return n, nil
}

func port(i int) string { return "port" + strconv.Itoa(i) }

func (n *Net) hub() string           { return n.prefix + "switch" }
func (h *Host) namespace() string    { return h.net.prefix + h.Name }
func ip(args ...string) error        { return tool("", "ip", args...) }
func (n *Net) in(ns, b string) error { return tool(b, "ip", "-n", ns, "-batch", "-") }

// toolLimit bounds every call of a program here.
const toolLimit = 20 * time.Second

// tool runs a program that must succeed.
func tool(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	late := time.AfterFunc(toolLimit, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill() // it may have ended
		}
	})
	defer late.Stop()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Hosts are those of the given names.
func (n *Net) Hosts(names ...string) (all []*Host) {
	for _, h := range n.hosts {
		if slices.Contains(names, h.Name) {
			all = append(all, h)
		}
	}
	return all
}

// Others are the hosts that are not given.
func (n *Net) Others(but []*Host) (all []*Host) {
	for _, h := range n.hosts {
		if !slices.Contains(but, h) {
			all = append(all, h)
		}
	}
	return all
}

// Argv is the command line that runs another one on the host. The process becomes
// that program: its pid stays the same.
func (h *Host) Argv(argv ...string) []string {
	return append([]string{"ip", "netns", "exec", h.namespace()}, argv...)
}

// Close ends what still runs on the hosts, and removes the network.
func (n *Net) Close() error {
	var errs []error
	for _, name := range n.namespaces() {
		errs = append(errs, endAll(name), ip("netns", "del", name))
	}
	n.hosts = nil
	return errors.Join(errs...)
}

// namespaces lists ours that exist.
func (n *Net) namespaces() (all []string) {
	for _, h := range n.hosts {
		all = append(all, h.namespace())
	}
	if _, err := os.Stat("/run/netns/" + n.hub()); err == nil {
		all = append(all, n.hub())
	}
	return all
}

// sweep removes the namespaces of processes that were killed before they could.
func sweep() error {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("listing network namespaces: %w", err)
	}
	var errs []error
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, mine := strings.CutPrefix(name, ours)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if !mine || err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		errs = append(errs, endAll(name), ip("netns", "del", name))
	}
	return errors.Join(errs...)
}

// endAll kills the processes in a namespace.
func endAll(name string) error {
	out, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return fmt.Errorf("processes in %s: %w", name, err)
	}
	for _, s := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("processes in %s: %w", name, err)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return nil
}
