package ublk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/internal/blockdev"
)

// fakeKernel is the driver and the block layer above it, as far as a Server
// sees them. It holds the server to the rules: one thread a queue, a commit for
// each request, nothing after the end.
type fakeKernel struct {
	t    testing.TB
	have uint64

	mu     sync.Mutex
	cond   sync.Cond // anything changed
	devs   map[int]*fakeDev
	pids   map[int]bool // that are alive
	used   map[int]bool // devices that are in use
	claims atomic.Int32 // that were not given back
	log    []string     // control commands
	fail   map[string]error
	users  chan struct{} // of a device that is being removed: closed when they have closed it

	plain   map[int]bool // threads that are untrusted
	trusted map[int]int  // queues of a device whose last fetch was a trusted thread's
}

func newFakeKernel(t testing.TB) *fakeKernel {
	k := &fakeKernel{t: t, have: wanted | 1<<5, devs: make(map[int]*fakeDev), pids: make(map[int]bool), used: make(map[int]bool), fail: make(map[string]error),
		plain: make(map[int]bool), trusted: make(map[int]int)}
	k.cond.L = &k.mu
	return k
}

type fakeDev struct {
	info    devInfo
	lim     limits
	opened  bool
	ready   int // queues that have fetched all
	ports   []*fakePort
	waiting []*fakeReq
	next    int // queue of the next request
}

type tagState uint8

const (
	tagNone    tagState = iota
	tagFetched          // the kernel has it
	tagOwned            // the server has it
)

type fakeTag struct {
	state tagState
	req   *fakeReq
}

// fakeReq is one request of the block layer.
type fakeReq struct {
	desc ioDesc
	data []byte
	res  chan int32 // capacity 1
}

var errKilled = errors.New("the process was killed")

func (k *fakeKernel) command(name string, id int) (*fakeDev, error) {
	k.log = append(k.log, name)
	if err := k.fail[name]; err != nil {
		return nil, err
	}
	d := k.devs[id]
	if d == nil {
		return nil, fmt.Errorf("device %d: %w", id, errNoDevice)
	}
	return d, nil
}

func (k *fakeKernel) features() (uint64, error) { return k.have, nil }

func (k *fakeKernel) devices() ([]int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []int
	for id := range k.devs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

func (k *fakeKernel) info(id int) (devInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[id]
	if d == nil {
		return devInfo{}, errNoDevice
	}
	return d.info, nil
}

func (k *fakeKernel) limits(id int) (limits, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devs[id].lim, nil
}

func (k *fakeKernel) add(i devInfo) (devInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail["add"]; err != nil {
		return devInfo{}, err
	}
	if i.id == anyID {
		for i.id = 0; k.devs[int(i.id)] != nil; i.id++ {
		}
	}
	if k.devs[int(i.id)] != nil {
		return devInfo{}, unix.EEXIST
	}
	i.queues = min(i.queues, 3) // processors of this machine
	i.state = stateDead
	k.trusted[int(i.id)] = 0
	k.devs[int(i.id)] = &fakeDev{info: i, ports: make([]*fakePort, i.queues)}
	k.log = append(k.log, "add")
	return i, nil
}

func (k *fakeKernel) setLimits(id int, l limits) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("set", id)
	if err == nil {
		d.lim = l
	}
	return err
}

func (k *fakeKernel) start(id, pid int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("start", id)
	if err != nil {
		return err
	}
	for d.ready < len(d.ports) {
		k.cond.Wait()
	}
	d.info.state, d.info.pid = stateLive, int32(pid)
	k.pids[pid] = true
	if d.info.flags&featNoPartScan != 0 || k.trusted[id] < len(d.ports) {
		return nil
	}
	// The partition table is read before the command ends.
	r := &fakeReq{desc: ioDesc{opRead, 8, 0}, data: make([]byte, pageSize), res: make(chan int32, 1)}
	k.dispatch(d, r)
	k.mu.Unlock()
	res := <-r.res
	k.mu.Lock()
	if res != pageSize {
		k.t.Logf("reading the partition table: %d", res)
	}
	return nil
}

func (k *fakeKernel) stop(id int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("stop", id)
	if err != nil {
		return err
	}
	for d.owned() > 0 {
		k.cond.Wait()
	}
	d.info.state = stateDead
	for _, r := range d.waiting {
		r.res <- -int32(unix.EIO)
	}
	d.waiting = nil
	for _, p := range d.ports {
		for tag := range p.tags {
			if p.tags[tag].state == tagFetched {
				p.tags[tag].state = tagNone
				p.events = append(p.events, event{tag: uint16(tag), kind: eventOver})
			}
		}
	}
	k.cond.Broadcast()
	return nil
}

// owned is how many requests the server has.
func (d *fakeDev) owned() int {
	n := 0
	for _, p := range d.ports {
		if p == nil {
			continue
		}
		for _, t := range p.tags {
			if t.state == tagOwned {
				n++
			}
		}
	}
	return n
}

func (k *fakeKernel) remove(id int) error {
	if k.users != nil {
		<-k.users
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("remove", id)
	if err != nil {
		return err
	}
	if d.opened {
		k.t.Error("removed while it is open: it would wait for ever")
	}
	if d.info.state == stateLive || d.info.state == stateQuiesced {
		k.t.Errorf("a device that is %v was removed", d.info.state)
	}
	delete(k.devs, id)
	return nil
}

func (k *fakeKernel) startRecovery(id int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("recover", id)
	if err != nil {
		return err
	}
	if d.opened || d.info.state != stateQuiesced {
		return errNotYet
	}
	if d.ready == 0 {
		return errBegun
	}
	d.ready = 0
	for i := range d.ports {
		d.ports[i] = nil
	}
	return nil
}

func (k *fakeKernel) unthrottle(_ context.Context, id int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.command("unthrottled", id)
	return err
}

func (k *fakeKernel) endRecovery(id, pid int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("recovered", id)
	if err != nil {
		return err
	}
	for d.ready < len(d.ports) {
		k.cond.Wait()
	}
	d.info.state, d.info.pid = stateLive, int32(pid)
	reqs := d.waiting
	d.waiting = nil
	for _, r := range reqs {
		k.dispatch(d, r)
	}
	return nil
}

func (k *fakeKernel) untrusted(f func() error) error {
	k.mu.Lock()
	k.plain[unix.Gettid()] = true
	k.mu.Unlock()
	err := f()
	k.mu.Lock()
	delete(k.plain, unix.Gettid())
	k.mu.Unlock()
	return err
}

type fakeFile struct {
	k *fakeKernel
	d *fakeDev
}

func (k *fakeKernel) open(id int) (file, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.command("open", id)
	if err != nil {
		return nil, err
	}
	if d.opened {
		return nil, unix.EBUSY
	}
	d.opened = true
	return &fakeFile{k, d}, nil
}

func (f *fakeFile) Close() error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	f.k.released(f.d)
	return nil
}

// released is the end of a server, in whatever way.
func (k *fakeKernel) released(d *fakeDev) {
	if !d.opened {
		k.t.Error("closed twice")
	}
	d.opened = false
	for _, p := range d.ports {
		if p == nil {
			continue
		}
		for i := range p.tags {
			if p.tags[i].state == tagOwned {
				d.waiting = append(d.waiting, p.tags[i].req)
			}
			p.tags[i] = fakeTag{}
		}
	}
	if d.info.state == stateLive {
		d.info.state = stateQuiesced
	}
	k.cond.Broadcast()
}

// kill is kill -9 of the server: its ports end with an error, nothing that it
// did not get out reaches the kernel.
func (k *fakeKernel) kill(id int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devs[id]
	for _, p := range d.ports {
		p.dead = true
	}
	k.released(d)
	delete(k.pids, int(d.info.pid))
}

func (k *fakeKernel) claim(ctx context.Context, id int) (func() error, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.used[id] {
		return nil, blockdev.ErrInUse
	}
	k.claims.Add(1)
	return func() error { k.claims.Add(-1); return nil }, nil
}

func (k *fakeKernel) path(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }

func (k *fakeKernel) alive(pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pids[pid]
}

// io does one request and returns its result.
func (k *fakeKernel) io(id int, d ioDesc, data []byte) int32 {
	return k.do(id, &fakeReq{desc: d, data: data, res: make(chan int32, 1)})
}

func (k *fakeKernel) do(id int, r *fakeReq) int32 {
	k.begin(id, r)
	return <-r.res
}

func (k *fakeKernel) begin(id int, r *fakeReq) {
	k.mu.Lock()
	k.dispatch(k.devs[id], r)
	k.mu.Unlock()
}

// dispatch gives r to a queue, or keeps it. Locked.
func (k *fakeKernel) dispatch(d *fakeDev, r *fakeReq) {
	if d.info.state == stateDead {
		r.res <- -int32(unix.EIO)
		return
	}
	if d.info.state == stateLive {
		for range d.ports {
			d.next = (d.next + 1) % len(d.ports)
			if d.ports[d.next].deliver(r) {
				k.cond.Broadcast()
				return
			}
		}
	}
	d.waiting = append(d.waiting, r)
}

func (p *fakePort) deliver(r *fakeReq) bool {
	for i := range p.tags {
		if t := &p.tags[i]; t.state == tagFetched {
			t.state, t.req = tagOwned, r
			p.events = append(p.events, event{tag: uint16(i), kind: eventRequest})
			return true
		}
	}
	return false
}
