package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dmps/internal/jitter"
	"dmps/raid"
	"dmps/transport"
)

// memberRef is one chunk of this volume on a server. Guarded by Volume.mu.
type memberRef struct {
	group raid.GroupID
	col   raid.Col
	chunk raid.ChunkID

	claimed    bool           // meta was told, or will be, that it is rebuilt: it may count as in sync any time
	pending    bool           // it is a pending member: in Volume.movers
	rebuilding bool           // it is a replacement that meta does not count as in sync yet
	filling    bool           // the rebuild driver is at it
	rows       uint64         // most rows that it missed since it missed none
	blocked    bool           // of what it misses nothing could be made when the rebuild driver was at it last
	notBefore  int64          // when it may be at it again, nanoseconds
	opened     bool           // it was opened once, so it must exist from then on
	refused    bool           // its server had no memory for it when it was asked last
	conn       transport.Conn // the session that it was opened in last
	// compared says that what it holds is known: it was empty when the volume
	// was opened for the first time, or the recovery saw its headers, or they
	// were compared with the map since.
	compared bool
	unread   atomic.Bool // the recovery could not read some of its headers
	empty    atomic.Bool // this client had to make its chunk, which should have existed
}

// peer is one memory server as this volume sees it: the session, which is
// made again whenever it ends, and the transfers in it.
type peer struct {
	v       *Volume
	id      raid.ServerID
	addr    string
	inc     raid.Incarnation
	members []*memberRef // guarded by v.mu
	stop    context.CancelFunc

	dirty atomic.Bool // something was submitted since the last Kick

	// Guarded by v.mu.
	state     peerState
	since     int64 // when state changed, nanoseconds
	tried     int64 // when the last attempt to connect that failed began
	parted    bool  // no member is there any more: the session was ended
	probation probation
	answers   bool // it was heard lately, where the lease is over
	comparing bool // its session was ended for a comparison, and no other was tried yet

	mu struct {
		sync.Mutex
		conn         transport.Conn // nil: no session
		oldest, last *xfer          // transfers in flight, by start
		waitHead     *xfer          // transfers without credit
		waitTail     *xfer
		heard        int64 // last completion, nanoseconds
	}
}

type peerState uint8

const (
	peerConnecting peerState = iota // at first
	peerUp                          // has a session
	peerSuspect                     // had one; may come back with everything it had
	peerGone                        // another incarnation: what it held is lost
)

func (s peerState) String() string {
	return [...]string{"connecting", "up", "suspect", "lost"}[s]
}

// send gives x to the peer. Without a session it fails like a transfer that
// was cut off: the outcome comes through Volume.done all the same, later.
func (p *peer) send(x *xfer) {
	x.peer = p
	x.start = nanotime()
	p.mu.Lock()
	defer p.mu.Unlock()
	x.conn = p.mu.conn
	if x.conn == nil {
		p.v.dead.push(x)
		return
	}
	if p.mu.waitHead != nil {
		p.enqueueLocked(x)
		return
	}
	p.submitLocked(x)
}

// submitLocked hands x to the transport, or to the queue for credit, or to the
// dead.
func (p *peer) submitLocked(x *xfer) {
	x.prev, x.next = p.mu.last, nil
	if p.mu.last == nil {
		p.mu.oldest = x
	} else {
		p.mu.last.next = x
	}
	p.mu.last = x
	err := x.conn.Submit(&x.req)
	if err == nil {
		p.dirty.Store(true)
		return
	}
	p.unlinkLocked(x)
	if errors.Is(err, transport.ErrWindowFull) {
		p.enqueueLocked(x)
		return
	}
	x.req.Err = err
	p.v.dead.push(x)
}

func (p *peer) enqueueLocked(x *xfer) {
	x.next = nil
	if p.mu.waitTail == nil {
		p.mu.waitHead = x
	} else {
		p.mu.waitTail.next = x
	}
	p.mu.waitTail = x
}

func (p *peer) unlinkLocked(x *xfer) {
	if x.prev == nil {
		p.mu.oldest = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		p.mu.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next = nil, nil
}

// completed takes x out of flight and lets the next one in.
func (p *peer) completed(x *xfer) {
	p.mu.Lock()
	p.unlinkLocked(x)
	if x.req.Err == nil {
		p.mu.heard = nanotime()
	}
	for p.mu.waitHead != nil && p.mu.conn != nil {
		w := p.mu.waitHead
		p.mu.waitHead = w.next
		if p.mu.waitHead == nil {
			p.mu.waitTail = nil
		}
		head := p.mu.waitHead
		p.submitLocked(w)
		if p.mu.waitTail == w { // no credit after all: it is at the end, put it first again
			p.requeueFirstLocked(w, head)
			break
		}
	}
	p.mu.Unlock()
}

// requeueFirstLocked moves w, just appended to the queue that began with head,
// back to its front.
func (p *peer) requeueFirstLocked(w, head *xfer) {
	if head == nil {
		return // it is alone
	}
	at := head
	for at.next != w {
		at = at.next
	}
	at.next = nil
	p.mu.waitTail = at
	w.next = head
	p.mu.waitHead = w
}

// kick rings the doorbell if anything was submitted since the last time.
func (p *peer) kick() {
	if !p.dirty.Load() || !p.dirty.Swap(false) {
		return
	}
	p.mu.Lock()
	c := p.mu.conn
	p.mu.Unlock()
	if c != nil {
		c.Kick()
	}
}

// conn is the session, or nil.
func (p *peer) conn() transport.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.conn
}

// drop ends the session: transfers in flight complete with an error when
// nothing touches their memory any more, those without credit at once.
func (p *peer) drop(c transport.Conn, cause error) {
	p.mu.Lock()
	if p.mu.conn == c && c != nil {
		p.mu.conn = nil
		for w := p.mu.waitHead; w != nil; {
			next := w.next
			w.next = nil
			w.req.Err = fmt.Errorf("%w: %v", transport.ErrClosed, cause)
			p.v.dead.push(w)
			w = next
		}
		p.mu.waitHead, p.mu.waitTail = nil, nil
	}
	p.mu.Unlock()
	if c != nil {
		c.Abort(cause)
	}
}

// deadList holds transfers that failed before the transport had them; pump
// completes them, on a goroutine that holds no lock.
type deadList struct {
	mu   sync.Mutex
	head *xfer
	some atomic.Bool
}

func (d *deadList) push(x *xfer) {
	if x.req.Err == nil {
		x.req.Err = transport.ErrClosed
	}
	d.mu.Lock()
	x.next = d.head
	d.head = x
	d.some.Store(true)
	d.mu.Unlock()
}

func (d *deadList) take() *xfer {
	if !d.some.Load() {
		return nil
	}
	d.mu.Lock()
	x := d.head
	d.head = nil
	d.some.Store(false)
	d.mu.Unlock()
	return x
}

// Reconnecting starts quickly, since a cut connection is often back at once,
// and backs off to a pace that bothers nobody.
const (
	redialFirst = 10 * time.Millisecond
	redialMost  = time.Second
	// redialRefused is how often an address is tried that refuses: that costs
	// next to nothing, and a firewall that is loaded anew refuses for a moment.
	redialRefused = 100 * time.Millisecond
)

// opening is what a volume that is being opened waits for: how the first
// attempt to reach a server ends.
type opening struct {
	first chan<- error // has room for an error of each server
	still *stillness
}

// run keeps a session with the server until the volume is closed or the
// server is known to have lost what it held. o, when not nil, is told how the
// first attempt ended that says something about the server.
func (p *peer) run(ctx context.Context, o *opening) {
	limit := p.v.cfg.DialTimeout
	var t *trial
	if o != nil {
		t = newTrial(o.still, limit)
	}
	report := func(err error) {
		if t != nil {
			o.first <- err
			t, limit = nil, p.v.cfg.DialTimeout
		}
	}
	wait := redialFirst
	for ctx.Err() == nil {
		if t != nil {
			limit = t.left
			t.begin()
		}
		p.sitOut(ctx)
		began := nanotime()
		conn, err := p.connect(ctx, limit)
		if err == nil {
			if err = p.passes(ctx, conn); err != nil {
				conn.Close()
			}
		}
		if err == nil {
			wait = redialFirst
			p.v.peerUp(p, conn)
			if p.v.recovered.Load() && !p.compared(conn) {
				p.drop(conn, errNotCompared) // the recovery ended while this session was made: the next one compares
			} else {
				p.v.compareTried(p)
			}
			report(nil)
			select {
			case <-conn.Done():
				err = conn.Err()
			case <-ctx.Done():
				p.drop(conn, ErrClosed)
				conn.Close()
				p.v.peerDown(p, conn, ErrClosed)
				return
			}
			p.v.peerDown(p, conn, err)
			p.v.pump()
			continue
		}
		p.v.compareTried(p)
		switch {
		case errors.Is(err, transport.ErrIncarnation):
			p.v.peerLost(p, err)
			report(err)
			return
		case errors.Is(err, transport.ErrStaleEpoch):
			p.v.fence(err)
			report(err)
			return
		case t != nil && !refusedBy(err) && t.again():
			p.v.log.Warn("this client did not run while it connected: it tries again", "server", p.id, "err", err)
		default:
			p.v.peerUnreachable(p, began)
			report(err)
		}
		if refusedBy(err) {
			wait = min(wait, redialRefused)
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter.Around(wait)):
		}
		wait = min(2*wait, redialMost)
	}
	report(ctx.Err())
}

// refusedBy reports whether err says that the address refuses connections. The
// server process may be gone, or there is a firewall before it.
func refusedBy(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
