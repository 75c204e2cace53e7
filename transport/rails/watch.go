package rails

import (
	"context"
	"time"

	"dmps/transport"
)

// How the watch finds a rail that takes requests and answers none: it looks every
// watchEvery while something is in flight. A rail that was silent for askAfter has
// the others asked whether the server is there; one that was silent for
// silentAfter, in two looks at which another had just answered, is ended. All of
// it takes less than the time after which a client suspects the whole server
// (client.Config, SuspectAfter: 150 ms).
const (
	watchEvery  = 10 * time.Millisecond
	askAfter    = 30 * time.Millisecond
	silentAfter = 50 * time.Millisecond
	callAfter   = 500 * time.Millisecond // while a chunk is being opened, which takes time
	evidence    = 2
	// lateBy is how late the watch itself may run before what it finds says more
	// of this machine than of a rail.
	lateBy = 20 * time.Millisecond
	// restAfter is the number of looks at nothing in flight before it rests.
	restAfter = 50
)

func (c *conn) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last, quiet := time.Now(), 0
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		late := now.Sub(last) > watchEvery+lateBy
		last = now
		if c.look(now, late) {
			quiet = 0
			continue
		}
		if quiet++; quiet < restAfter {
			continue
		}
		c.mu.Lock()
		c.mu.resting = true
		for _, ra := range c.rails {
			c.mu.resting = c.mu.resting && ra.inFlight == 0
		}
		rest := c.mu.resting
		c.mu.Unlock()
		quiet = 0
		if !rest {
			continue
		}
		tick.Stop()
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		}
		tick.Reset(watchEvery)
		last = time.Now()
	}
}

// look is one round of the watch. It reports whether anything is in flight.
func (c *conn) look(now time.Time, late bool) (busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ra := range c.rails {
		if !ra.up || ra.inFlight == 0 {
			continue
		}
		busy = true
		silent := now.Sub(ra.since)
		switch {
		case late:
			ra.since, ra.evidence = now, 0 // answers may lie in the sockets, unread
			continue
		case silent < askAfter:
			continue
		}
		heard := false
		for _, o := range c.rails {
			if o == ra || !o.up {
				continue
			}
			if now.Sub(o.heard) < 2*watchEvery {
				heard = true
			} else if !o.asking {
				o.asking = true
				in := o.conn
				c.wg.Go(func() { c.ask(o, in) })
			}
		}
		if !heard || silent < silentAfter || ra.calls > 0 && silent < callAfter {
			continue
		}
		if ra.evidence++; ra.evidence == evidence {
			select {
			case ra.suspected <- struct{}{}:
			default:
			}
		}
	}
	return busy
}

// nobodys is a chunk that nobody has: to release it is a round trip and nothing else.
const nobodys = ^uint64(0)

// askFor bounds a question.
const askFor = time.Second

// ask has a rail say that the server is there.
func (c *conn) ask(o *rail, in transport.Conn) {
	ctx, cancel := context.WithTimeout(c.ctx, askFor)
	defer cancel()
	err := in.OpenChunk(ctx, nobodys, transport.ChunkSpec{HeaderBytes: 1, Release: true})
	c.mu.Lock()
	defer c.mu.Unlock()
	o.asking = false
	if err == nil && o.conn == in {
		o.heard = time.Now()
	}
}
