package rails

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"dmps/transport"
)

// rail is the session with one address. Its goroutine dials it, and again.
type rail struct {
	c         *conn
	index     int
	addr      string
	dirty     atomic.Bool   // something was submitted since the last Kick
	suspected chan struct{} // one token: the watch found it silent

	attempts uint32 // of its goroutine: dials, the one of Dial included

	// Guarded by c.mu.
	conn     transport.Conn // nil: there is none yet
	up       bool           // requests may go there
	back     bool           // it was ended by the watch, at a server that answered, and is dialled again
	bytes    int64          // in flight
	inFlight int            // requests and calls
	calls    int            // those of them that may take a while
	heard    time.Time      // last answer
	since    time.Time      // since when it owes one: the last answer, or the first request after none
	evidence int            // looks of the watch that found it silent, and others not
	asking   bool           // the watch has asked it something
	held     list           // writes of the Conn that is over, until the server has ended it too
	settled  chan struct{}  // closed when it has; nil while up
}

func (ra *rail) beginLocked(bytes int64) {
	ra.bytes += bytes
	if ra.inFlight++; ra.inFlight == 1 {
		ra.since, ra.evidence = time.Now(), 0
	}
	ra.dirty.Store(true)
	if ra.c.mu.resting {
		ra.c.mu.resting = false
		ra.c.wake <- struct{}{} // has room: nobody else sends while it rests
	}
}

func (ra *rail) heardLocked(now time.Time) { ra.heard, ra.since, ra.evidence = now, now, 0 }

// upLocked takes a Conn into use.
func (ra *rail) upLocked(in transport.Conn) {
	ra.conn, ra.up, ra.bytes, ra.inFlight, ra.evidence = in, true, 0, 0, 0
	ra.settled = make(chan struct{})
	ra.heard, ra.calls, ra.back = time.Now(), 0, false
	select {
	case <-ra.suspected: // that was the Conn before
	default:
	}
	m := &ra.c.mu
	windows := 0
	for _, o := range ra.c.rails {
		if o.conn != nil {
			windows += o.conn.Window()
		}
	}
	for n := len(m.flights); n < windows; n++ {
		f := &flight{next: m.free}
		f.req.User = f
		m.flights = append(m.flights, f)
		m.free = f
	}
}

// A rail is dialled again quickly at first, since a cut connection is often back
// at once.
const (
	redialFirst = 10 * time.Millisecond
	redialMost  = time.Second
)

// run keeps the rail up until the session ends. in, when not nil, is its Conn
// and up already.
func (ra *rail) run(in transport.Conn) {
	c := ra.c
	wait := redialFirst
	said := false
	for c.ctx.Err() == nil {
		if in == nil {
			var err error
			if in, err = c.join(ra, ra.addr, tryFor); err == nil {
				err = c.takeUp(ra, in)
			}
			if err != nil {
				in = nil
				c.mu.Lock()
				ra.back = false
				none := !c.railsLocked()
				c.mu.Unlock()
				if none {
					c.Abort(err)
				}
				if !said && c.ctx.Err() == nil {
					c.d.log().Warn("a rail of a session is down", "server", c.server, "addr", ra.addr, "err", err)
					said = true
				}
				c.pause(wait)
				wait = min(2*wait, redialMost)
				continue
			}
			c.d.log().Info("a rail of a session is up", "server", c.server, "addr", ra.addr)
			wait, said = redialFirst, false
		}
		ended := ra.live(in)
		if in = ra.fell(in, ended); in != nil {
			if c.takeUp(ra, in) != nil {
				in = nil
			}
		}
	}
	if in != nil { // the session ended when it was just made
		_ = in.Close()
	}
}

// railsLocked reports whether a rail is up, or is about to be.
func (c *conn) railsLocked() bool {
	for _, ra := range c.rails {
		if ra.up || ra.back {
			return true
		}
	}
	return false
}

// live returns when a Conn is over. It reports whether the server has ended its
// side of it before.
func (ra *rail) live(in transport.Conn) (ended bool) {
	c := ra.c
	for {
		select {
		case <-in.Done():
			return ended
		case <-c.ctx.Done():
			in.Abort(c.Err())
			<-in.Done()
			return false
		case <-ra.suspected:
		}
		if ended = ra.retire(in); ended {
			// Not the last one to die, if the others do meanwhile.
			c.mu.Lock()
			ra.back = true
			c.mu.Unlock()
			in.Abort(fmt.Errorf("%w: the rail was silent, and others were not", transport.ErrClosed))
			<-in.Done()
			return true
		}
		// The server as a whole is slow, most likely. If it ends the rail after
		// all, the Conn ends by that.
		c.mu.Lock()
		ra.evidence = 0
		c.mu.Unlock()
	}
}

func (c *conn) pause(d time.Duration) {
	select {
	case <-c.ctx.Done():
	case <-time.After(d/2 + rand.N(d)):
	}
}

// join opens a session for a rail by an address, its own or another's.
func (c *conn) join(ra *rail, addr string, limit time.Duration) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	h := c.hello
	if c.owner() {
		ra.attempts++
		h.Rail.Index, h.Rail.Attempt, h.Rail.Join = uint8(ra.index), ra.attempts, true
	}
	in, _, err := c.d.Dialer.Dial(ctx, addr, h, c.idle)
	switch {
	case c.ctx.Err() != nil:
	case errors.Is(err, transport.ErrStaleEpoch):
		c.Abort(transport.ErrFenced)
	case errors.Is(err, transport.ErrClosed):
		c.Abort(err) // the server knows of another owner, or ends
	}
	if err != nil {
		return nil, fmt.Errorf("dialling a rail: %w", err)
	}
	return in, nil
}

// takeUp opens in a new Conn what is open in the others, and takes it into use. A
// Conn that it does not take is closed.
func (c *conn) takeUp(ra *rail, in transport.Conn) error {
	done := make(map[uint64]bool)
	for {
		c.mu.Lock()
		var ids []uint64
		var specs []transport.ChunkSpec
		for id, spec := range c.mu.chunks {
			if !done[id] {
				ids, specs, done[id] = append(ids, id), append(specs, spec), true
			}
		}
		if len(ids) == 0 && c.mu.cause == nil {
			ra.upLocked(in)
			again := c.resubmitLocked()
			c.mu.Unlock()
			if again {
				c.Kick()
			}
			c.idle() // there is more credit
			return nil
		}
		err := c.mu.cause
		c.mu.Unlock()
		if err == nil {
			err = errors.Join(transport.OpenAll(c.ctx, tryFor, len(ids), func(ctx context.Context, i int) error {
				err := in.OpenChunk(ctx, ids[i], specs[i])
				if errors.Is(err, transport.ErrNoChunk) {
					return nil // released meanwhile, or a request will tell
				}
				return err
			})...)
		}
		if err != nil {
			_ = in.Close()
			return fmt.Errorf("opening the chunks of a rail: %w", err)
		}
	}
}

// retire has the server end the rail's session, by the address of another rail. It
// reports whether that happened; not when the rail has ended by itself meanwhile. A
// reader's, which leaves nothing behind, need not end there.
func (ra *rail) retire(in transport.Conn) bool {
	if !ra.c.owner() {
		return true
	}
	for n := range ra.c.rails {
		select {
		case <-in.Done():
			return false
		default:
		}
		if o := ra.c.rails[n]; o != ra && ra.endAt(o) {
			return true
		}
	}
	return false
}

// endAt has the server end the rail's session by another rail's address.
func (ra *rail) endAt(o *rail) bool {
	c := ra.c
	c.mu.Lock()
	up := o.up
	c.mu.Unlock()
	if !up {
		return false
	}
	addr := o.addr
	if c.d.Retire != nil {
		addr = c.d.Retire(addr)
	}
	in, err := c.join(ra, addr, tryFor)
	if err != nil {
		return false
	}
	_ = in.Close()
	return true
}

// fell waits until the server has ended the session of a Conn that is over,
// unless it did so before, and lets what was held go on. It may come back with a
// new Conn of the rail. When no rail is up, or the server's goodbye was for all of
// them, the session ends.
func (ra *rail) fell(in transport.Conn, ended bool) transport.Conn {
	c := ra.c
	cause := in.Err()
	c.mu.Lock()
	ra.up = false
	some := c.railsLocked()
	over := c.mu.cause
	c.mu.Unlock()
	switch {
	case over != nil:
		return nil
	case errors.Is(cause, transport.ErrStaleEpoch), !some:
		c.Abort(cause)
		return nil
	}
	ended = ended || !c.owner() // nothing of a reader's can land
	c.d.log().Warn("a rail of a session died: its requests go on over the others", "server", c.server, "addr", ra.addr, "cause", cause)
	var next transport.Conn
	for wait := redialFirst; !ended && c.ctx.Err() == nil; wait = min(2*wait, redialMost) {
		for _, o := range c.rails {
			if o != ra && !ended && c.ctx.Err() == nil {
				ended = ra.endAt(o)
			}
		}
		if !ended && c.ctx.Err() == nil {
			var err error
			if next, err = c.join(ra, ra.addr, tryFor); err == nil {
				ended = true
			} else {
				c.pause(wait)
			}
		}
	}
	if !ended {
		return nil
	}
	c.mu.Lock()
	for ra.held.head != nil {
		c.mu.waiting.push(ra.held.pop())
	}
	c.resubmitLocked()
	close(ra.settled)
	c.mu.Unlock()
	c.Kick()
	return next
}
