//go:build fabric && cgo

package fabric

// #cgo LDFLAGS: -lfabric
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"
)

// domain is a provider at one network address, opened: fi_domain(3).
type domain struct {
	c    *C.struct_fab_domain
	caps caps

	mu struct { // one registration of local memory at a time
		sync.Mutex
		free [][]byte // scratch that no session has
		all  [][]byte
	}
}

// caps is what the provider can do.
type caps struct {
	iovs     int  // local pieces of an operation
	rmas     int  // and remote ones
	ordered  bool // a write lands after those that were posted before it
	inOrder  bool // and its pieces in their order
	virtual  bool // remote addresses are virtual ones, not offsets
	localMR  bool // local memory must be registered too
	inFlight int  // operations of an endpoint
	card     bool // the peer's transfers need no CPU of this process
	provider string
}

// failed makes an error of a negative result of the shim.
func failed(r C.int) error {
	if r >= 0 {
		return nil
	}
	return &fabricError{int(-r), C.GoString(C.fab_strerror(r))}
}

// started is libfabric's start, once in a process.
var started sync.Once

// openDomain opens a provider by its short name at a local IP address; empty:
// any. The caller closes it, after its endpoints and registrations.
func openDomain(provider, host string) (*domain, error) {
	started.Do(func() { C.fab_init() })
	name := C.CString(providers[provider])
	defer C.free(unsafe.Pointer(name))
	var node *C.char
	if host != "" && provider != "shm" && provider != "efa" { // those have addresses of their own
		node = C.CString(host)
		defer C.free(unsafe.Pointer(node))
	}
	d := new(domain)
	if err := failed(C.fab_domain_open(name, node, &d.c)); err != nil {
		return nil, fmt.Errorf("opening libfabric's provider %s at %q: %w", providers[provider], host, err)
	}
	var k C.struct_fab_caps
	C.fab_domain_caps(d.c, &k)
	d.caps = caps{
		iovs: int(k.iovs), rmas: int(k.rmas), ordered: k.ordered != 0, inOrder: k.in_order != 0, virtual: k.virt_addr != 0, localMR: k.local_mr != 0,
		inFlight: int(k.tx_size), card: provider == "verbs", provider: C.GoString(&k.prov[0]),
	}
	return d, nil
}

// Available reports why a provider, by its short name, cannot be used at a local
// IP address, or nil.
func Available(provider, host string) error {
	if providers[provider] == "" {
		return fmt.Errorf("provider %q is none of tcp, shm, verbs, efa", provider)
	}
	d, err := openDomain(provider, host)
	if err != nil {
		return err
	}
	return d.close()
}

func (d *domain) close() error {
	err := failed(C.fab_domain_close(d.c))
	for _, mem := range d.mu.all {
		unmapMemory(mem)
	}
	if err != nil {
		return fmt.Errorf("closing libfabric's provider %s: %w", d.caps.provider, err)
	}
	return nil
}

// local registers memory for operations of d's endpoints, if the provider needs
// it. mem must be mapped memory outside the Go heap, and stay until close.
func (d *domain) local(mem []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.localLocked(mem)
}

func (d *domain) localLocked(mem []byte) error {
	if err := failed(C.fab_domain_local(d.c, C.uint64_t(address(mem)), C.uint64_t(len(mem)))); err != nil {
		return fmt.Errorf("registering %d bytes of local memory: %w", len(mem), err)
	}
	return nil
}

// scratch is n bytes of registered memory for one session, to be given back
// with putScratch. It is not zeroed. A registration lasts as long as the domain,
// so what ended sessions had is used again.
func (d *domain) scratch(n int) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, mem := range d.mu.free {
		if len(mem) == n {
			d.mu.free = slices.Delete(d.mu.free, i, i+1)
			return mem, nil
		}
	}
	mem, err := mapMemory(n)
	if err != nil {
		return nil, err
	}
	if err := d.localLocked(mem); err != nil {
		unmapMemory(mem)
		return nil, err
	}
	d.mu.all = append(d.mu.all, mem)
	return mem, nil
}

func (d *domain) putScratch(mem []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.free = append(d.mu.free, mem)
}

// address is where mem lies, as a number: libfabric gets no Go pointer.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }

// grant is memory that the peers of a domain may reach: fi_mr(3).
type grant struct {
	c   *C.struct_fab_mr
	key key
}

// grant registers memory for the peer. want is the key, where the provider lets
// one choose. The memory must stay until the grant is closed; it may be touched
// until the endpoints of the domain are.
func (d *domain) grant(mem []byte, writable bool, want uint64) (*grant, error) {
	w := C.int(0)
	if writable {
		w = 1
	}
	g := new(grant)
	if err := failed(C.fab_mr_open(d.c, C.uint64_t(address(mem)), C.uint64_t(len(mem)), w, C.uint64_t(want), &g.c)); err != nil {
		return nil, fmt.Errorf("registering %d bytes for one-sided access: %w", len(mem), err)
	}
	g.key.key = uint64(C.fab_mr_key(g.c))
	if d.caps.virtual {
		g.key.addr = uint64(address(mem))
	}
	return g, nil
}

func (g *grant) close() error {
	if err := failed(C.fab_mr_close(g.c)); err != nil {
		return fmt.Errorf("ending a registration: %w", err)
	}
	return nil
}
