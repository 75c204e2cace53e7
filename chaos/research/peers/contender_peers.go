package peers

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// Names of the contenders that others are measured against.
const (
	NameNbdkit = "nbdkit"
	NameQuorum = "quorum"
)

// Contenders lists all that this package can start, in the order of the tables.
func Contenders() []Contender {
	once := func(size int64) int64 { return size }
	thrice := func(size int64) int64 { return 3 * size }
	return append([]Contender{
		{Name: NameNbdkit, About: "nbdkit, memory plugin: no network hop behind it, no redundancy", Needs: []string{"nbdkit"}, Memory: once, start: startNbdkit},
		{Name: "nbd-server", About: "nbd-server, file on tmpfs", Needs: []string{"nbd-server"}, Memory: once, start: startNbdServer},
		{Name: "qemu-nbd", About: "qemu-nbd, raw file on tmpfs", Needs: []string{"qemu-nbd"}, Memory: once, start: startQemuNbd},
		{Name: NameQuorum, About: "qemu-nbd, quorum driver (vote 2, fifo reads) over three nbdkit memory plugins by TCP: the same hops as dmps, three copies", Needs: []string{"qemu-nbd", "nbdkit"}, Memory: thrice, start: startQuorum},
	}, append(dmpsContenders(), floorContenders()...)...)
}

func startNbdkit(ctx context.Context, s Site) (*Target, error) {
	t := &Target{}
	addr, err := t.endpoint(s)
	if err != nil {
		return t, err
	}
	return t, t.launch(ctx, s, "front", addr, nbdkitArgv(addr, s.Size)...)
}

func nbdkitArgv(addr string, size int64) []string {
	argv := []string{"nbdkit", "--foreground"}
	if filepath.IsAbs(addr) {
		argv = append(argv, "--unix", addr)
	} else {
		host, port, _ := strings.Cut(addr, ":")
		argv = append(argv, "--ipaddr", host, "--port", port)
	}
	return append(argv, "memory", fmt.Sprintf("size=%d", size))
}

func startQemuNbd(ctx context.Context, s Site) (*Target, error) {
	t := &Target{}
	addr, err := t.endpoint(s)
	if err != nil {
		return t, err
	}
	img, err := s.image()
	if err != nil {
		return t, err
	}
	argv := append(qemuNbdArgv(addr), "--format=raw", img)
	return t, t.launch(ctx, s, "front", addr, argv...)
}

func qemuNbdArgv(addr string) []string {
	argv := []string{"qemu-nbd", "--persistent", "--shared=4"}
	if filepath.IsAbs(addr) {
		return append(argv, "--socket="+addr)
	}
	host, port, _ := strings.Cut(addr, ":")
	return append(argv, "--bind="+host, "--port="+port)
}

func startQuorum(ctx context.Context, s Site) (*Target, error) {
	const copies = 3
	t := &Target{}
	opts := "driver=quorum,vote-threshold=2,read-pattern=fifo"
	for i := range copies {
		back, err := t.loopback()
		if err != nil {
			return t, err
		}
		if err := t.launch(ctx, s, "back", back, nbdkitArgv(back, s.Size)...); err != nil {
			return t, err
		}
		host, port, err := net.SplitHostPort(back)
		if err != nil {
			return t, err
		}
		opts += fmt.Sprintf(",children.%d.driver=nbd,children.%d.server.type=inet,children.%d.server.host=%s,children.%d.server.port=%s", i, i, i, host, i, port)
	}
	addr, err := t.endpoint(s)
	if err != nil {
		return t, err
	}
	return t, t.launch(ctx, s, "front", addr, append(qemuNbdArgv(addr), "--image-opts", opts)...)
}
