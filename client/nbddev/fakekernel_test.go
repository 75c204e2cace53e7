package nbddev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/client/nbd"
	"dmps/internal/blockdev"
)

// fakeKernel is the nbd driver and its sysfs, with the rules of
// drivers/block/nbd.c: who may connect, reconfigure and disconnect; what becomes
// of the requests of a connection that is dead, late, or was never replaced.
type fakeKernel struct {
	t   testing.TB
	old bool   // before 5.14: it has no backend file
	sys string // where sysfs is

	mu    sync.Mutex
	cond  sync.Cond // anything changed
	devs  map[int]*fakeDev
	used  map[int]bool        // devices that somebody swaps to
	fail  map[uint8]error     // what a command is answered with
	count map[uint8]int       // commands
	check func(command uint8) // called for each, before it is done
	small bool                // sockets are not Pair's: it lacks the right
	tasks sync.WaitGroup

	patience time.Duration
}

type fakeDev struct {
	configured bool // config_refs is not 0
	bound      bool // NBD_RT_BOUND: it was connected, and not disconnected
	backend    string
	opens      int
	socks      []*fakeSock
	waiting    []*fakeReq
	handle     uint64
}

// fakeSock is the kernel's end of a connection.
type fakeSock struct {
	nc     net.Conn
	dead   bool
	flight map[uint64]*fakeReq
}

// fakeReq is one request of the block layer.
type fakeReq struct {
	command uint16 // NBD_CMD_*
	off     int64
	data    []byte
	res     chan error // capacity 1
	sock    *fakeSock
	handle  uint64
}

func newFakeKernel(t testing.TB) *fakeKernel {
	k := &fakeKernel{t: t, sys: t.TempDir(), devs: make(map[int]*fakeDev), used: make(map[int]bool),
		fail: make(map[uint8]error), count: make(map[uint8]int)}
	k.cond.L = &k.mu
	t.Cleanup(k.end)
	return k
}

// end takes all devices away.
func (k *fakeKernel) end() {
	k.mu.Lock()
	for _, d := range k.devs {
		d.shutdown()
	}
	k.mu.Unlock()
	k.tasks.Wait()
}

// machine is what a Front gets of it.
func (k *fakeKernel) machine() machine { return machine{k.sys, k.pair, k.claim, k.patience} }

// pair is Pair, and without the right to large buffers an ordinary one.
func (k *fakeKernel) pair() (*os.File, net.Conn, error) {
	kernel, ours, err := Pair()
	if !errors.Is(err, unix.EPERM) {
		return kernel, ours, err
	}
	k.mu.Lock()
	k.small = true
	k.mu.Unlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	served := os.NewFile(uintptr(fds[1]), "served")
	defer served.Close()
	ours, err = net.FileConn(served)
	return os.NewFile(uintptr(fds[0]), "kernel"), ours, err
}

func (k *fakeKernel) claim(_ context.Context, path string) (func() error, error) {
	n, err := ParsePath(path)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[n]
	switch {
	case d == nil || !d.configured:
		return nil, fmt.Errorf("%s: %w", path, unix.ENXIO)
	case k.used[n]:
		return nil, fmt.Errorf("%s: %w", path, blockdev.ErrInUse)
	}
	d.opens++
	return func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		d.opens--
		k.put(n, d)
		return nil
	}, nil
}

func (k *fakeKernel) Close() error { return nil }

// message is what a command says, decoded.
type message struct {
	index               int // AnyIndex: none
	size, timeout, dead uint64
	identifier          string
	socks               []int
	hasIdentifer        bool
}

func parse(b []byte) (message, error) {
	m := message{index: AnyIndex}
	a, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return m, err
	}
	for a.Next() {
		switch a.Type() {
		case attrIndex:
			m.index = int(a.Uint32())
		case attrSize:
			m.size = a.Uint64()
		case attrTimeout:
			m.timeout = a.Uint64()
		case attrDeadTimeout:
			m.dead = a.Uint64()
		case attrIdentifier:
			m.identifier, m.hasIdentifer = a.String(), true
		case attrSockets:
			a.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(s *netlink.AttributeDecoder) error {
						for s.Next() {
							if s.Type() == attrSocketFD {
								m.socks = append(m.socks, int(s.Uint32()))
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return m, a.Err()
}

// Execute is a command to the driver.
func (k *fakeKernel) Execute(g genetlink.Message, _ uint16, _ netlink.HeaderFlags) ([]genetlink.Message, error) {
	m, err := parse(g.Data)
	if err != nil {
		return nil, err
	}
	command := g.Header.Command
	if k.check != nil {
		k.check(command)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.cond.Broadcast()
	k.count[command]++
	if err := k.fail[command]; err != nil {
		return nil, &netlink.OpError{Op: "receive", Err: err}
	}
	var reply []byte
	switch command {
	case cmdConnect:
		reply, err = k.connect(m)
	case cmdReconfigure:
		err = k.reconfigure(m)
	case cmdDisconnect:
		err = k.disconnect(m)
	case cmdStatus:
		d := k.devs[m.index]
		reply, err = status(m.index, d != nil && d.configured)
	default:
		err = unix.EOPNOTSUPP
	}
	if err != nil {
		return nil, &netlink.OpError{Op: "receive", Err: err}
	}
	return []genetlink.Message{{Data: reply}}, nil
}

func status(index int, connected bool) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.Nested(attrDevices, func(l *netlink.AttributeEncoder) error {
		l.Nested(attrDevice, func(d *netlink.AttributeEncoder) error {
			d.Uint32(attrDeviceIndex, uint32(index))
			if connected {
				d.Uint8(attrDeviceConnected, 1)
			}
			return nil
		})
		return nil
	})
	return e.Encode()
}

// connect is nbd_genl_connect.
func (k *fakeKernel) connect(m message) ([]byte, error) {
	if m.size == 0 || len(m.socks) == 0 {
		return nil, unix.EINVAL
	}
	for m.index == AnyIndex || k.devs[m.index] == nil {
		if m.index == AnyIndex {
			m.index = 0
			for k.devs[m.index] != nil && k.devs[m.index].configured {
				m.index++
			}
		}
		if k.devs[m.index] == nil {
			k.devs[m.index] = &fakeDev{}
			k.defaults(m.index)
		}
	}
	d := k.devs[m.index]
	if d.configured {
		return nil, unix.EBUSY
	}
	d.configured, d.bound, d.backend, d.socks = true, true, m.identifier, nil
	if !k.old && m.hasIdentifer {
		k.write(m.index, "backend", m.identifier)
	}
	for _, fd := range m.socks {
		s, err := k.take(fd)
		if err != nil {
			return nil, err
		}
		d.socks = append(d.socks, s)
	}
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, uint32(m.index))
	return e.Encode()
}

// defaults are the settings of a new disk.
func (k *fakeKernel) defaults(index int) {
	for name, value := range map[string]string{
		"scheduler": "[mq-deadline] none", "max_sectors_kb": "1280", "nr_requests": "128", "rotational": "1",
		"add_random": "1", "read_ahead_kb": "4096", "wbt_lat_usec": "2000",
	} {
		k.write(index, "queue/"+name, value)
	}
}

func (k *fakeKernel) write(index int, name, value string) {
	file := filepath.Join(k.sys, "block", "nbd"+strconv.Itoa(index), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(value+"\n"), 0o644)); err != nil {
		k.t.Error(err)
	}
}

// reconfigure is nbd_genl_reconfigure.
func (k *fakeKernel) reconfigure(m message) error {
	d := k.devs[m.index]
	if d == nil || d.backend != "" && m.identifier != d.backend || !d.configured || !d.bound {
		return unix.EINVAL
	}
	for _, fd := range m.socks {
		i := slices.IndexFunc(d.socks, func(s *fakeSock) bool { return s.dead })
		if i < 0 {
			break // ENOSPC, which is not told
		}
		s, err := k.take(fd)
		if err != nil {
			return err
		}
		d.socks[i] = s
	}
	waiting := d.waiting
	d.waiting = nil
	for _, r := range waiting {
		k.send(d, r)
	}
	return nil
}

// disconnect is nbd_genl_disconnect: whose device it is it does not ask.
func (k *fakeKernel) disconnect(m message) error {
	d := k.devs[m.index]
	if d == nil {
		return unix.EINVAL
	}
	if !d.configured {
		return nil
	}
	d.shutdown()
	d.bound = false
	for _, r := range d.waiting {
		r.res <- unix.EIO
	}
	d.waiting = nil
	k.put(m.index, d)
	return nil
}

// put is nbd_config_put: a device that somebody has open keeps its
// configuration, disconnected or not.
func (k *fakeKernel) put(index int, d *fakeDev) {
	if d.bound || d.opens > 0 || k.used[index] || !d.configured {
		return
	}
	d.configured, d.backend = false, ""
	if err := os.Remove(filepath.Join(k.sys, "block", "nbd"+strconv.Itoa(index), "backend")); err != nil && !k.old {
		k.t.Error(err)
	}
}

func (d *fakeDev) shutdown() {
	for _, s := range d.socks {
		s.dead = true
		_ = s.nc.Close() // what is in flight ends with it
		for h, r := range s.flight {
			delete(s.flight, h)
			r.res <- unix.EIO
		}
	}
}

// take has the kernel's own reference of a socket, and reads what comes.
func (k *fakeKernel) take(fd int) (*fakeSock, error) {
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || !k.small && n/2 < queueDepth*(maxSectorsKB<<10) {
		k.t.Errorf("a socket with a send buffer of %d bytes: requests will be half sent; %v", n, err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(own), "socket")
	defer file.Close()
	nc, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	s := &fakeSock{nc: nc, flight: make(map[uint64]*fakeReq)}
	k.tasks.Go(func() { k.receive(s) })
	return s, nil
}

// receive is recv_work: a connection that ends is dead from then on, and what is
// in flight on it waits for its time-out.
func (k *fakeKernel) receive(s *fakeSock) {
	for {
		var head [16]byte
		_, err := io.ReadFull(s.nc, head[:])
		k.mu.Lock()
		if err != nil {
			s.dead = true
			_ = s.nc.Close()
			k.cond.Broadcast()
			k.mu.Unlock()
			return
		}
		handle, code := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[4:])
		r := s.flight[handle]
		delete(s.flight, handle)
		k.mu.Unlock()
		if r == nil || binary.BigEndian.Uint32(head[:]) != 0x67446698 {
			k.t.Errorf("unexpected reply %x", head)
			return
		}
		switch {
		case code != 0:
			r.res <- unix.Errno(code)
		case r.command == 0:
			_, err = io.ReadFull(s.nc, r.data)
			r.res <- err
		default:
			r.res <- nil
		}
	}
}

// begin sends a request, or keeps it while no connection is alive.
func (k *fakeKernel) begin(index int, command uint16, off int64, data []byte) *fakeReq {
	r := &fakeReq{command: command, off: off, data: data, res: make(chan error, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[index]
	d.handle++
	r.handle = d.handle
	k.send(d, r)
	return r
}

func (k *fakeKernel) send(d *fakeDev, r *fakeReq) {
	i := slices.IndexFunc(d.socks, func(s *fakeSock) bool { return !s.dead })
	if i < 0 {
		d.waiting = append(d.waiting, r)
		return
	}
	b := make([]byte, 28)
	binary.BigEndian.PutUint32(b, 0x25609513)
	binary.BigEndian.PutUint16(b[6:], r.command)
	binary.BigEndian.PutUint64(b[8:], r.handle)
	binary.BigEndian.PutUint64(b[16:], uint64(r.off))
	binary.BigEndian.PutUint32(b[24:], uint32(len(r.data)))
	if r.command == 1 {
		b = append(b, r.data...)
	}
	r.sock = d.socks[i]
	r.sock.flight[r.handle] = r
	if _, err := r.sock.nc.Write(b); err != nil { // into the buffer: it never blocks
		r.sock.dead = true
		delete(r.sock.flight, r.handle)
		k.send(d, r)
	}
}

// expire is nbd_xmit_timeout: the connection of a request that was not answered
// is given up, and the request sent again.
func (k *fakeKernel) expire(index int, r *fakeReq) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.sock.flight[r.handle] != r {
		return // it was answered, or never sent
	}
	r.sock.dead = true
	_ = r.sock.nc.Close()
	delete(r.sock.flight, r.handle)
	k.send(k.devs[index], r)
}

// io is a request and its answer.
func (k *fakeKernel) io(index int, command uint16, off int64, data []byte) error {
	return <-k.begin(index, command, off, data).res
}

// use has somebody swap to a device, or end it.
func (k *fakeKernel) use(index int, on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used[index] = on
	if d := k.devs[index]; !on && d != nil {
		k.put(index, d)
	}
}

// until waits for what holds under mu.
func (k *fakeKernel) until(what func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !what() {
		k.cond.Wait()
	}
}

func (k *fakeKernel) commands(command uint8) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count[command]
}

// up starts a front that is ended with the test, if it has not ended.
func (k *fakeKernel) up(cfg Config, dev client.Device) (*Front, error) {
	if cfg.Identifier == "" {
		cfg.Identifier = "dmps/c/v/1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Export = nbd.Export{Device: dev}
	f, err := start(k.t.Context(), cfg, &Driver{conn: k}, k.machine())
	if err == nil {
		k.t.Cleanup(func() { kill(f) })
	}
	return f, err
}

// kill ends a client as a signal does: its sockets close, and nothing else.
func kill(f *Front) {
	f.cancel()
	f.mu.Lock()
	for nc := range f.live {
		_ = nc.Close()
	}
	f.mu.Unlock()
	f.served.Wait()
}
