package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// leavePatience is how long meta may take, altogether, to hear how a volume is
// left and to take the lease back.
const leavePatience = 5 * time.Second

// Close waits until everything accepted is answered, tells meta how the volume is
// left, gives the lease back and ends all sessions. Requests submitted from now on end with ErrClosed. When
// ctx ends first, what is still open ends with ErrClosed too, and Close says so.
func (v *Volume) Close(ctx context.Context) error { return v.close(ctx, true) }

// Leave is Close that keeps the lease, for a client that will be back while
// somebody waits for its volume: nobody else gets it before the lease has run
// out, or takes it over.
func (v *Volume) Leave(ctx context.Context) error { return v.close(ctx, false) }

func (v *Volume) close(ctx context.Context, release bool) error {
	idle := make(chan struct{})
	a := v.lock()
	already := v.mu.closing
	if !already {
		v.mu.closing = true
		v.acceptNoMoreLocked(ErrClosed) // a fenced volume stays one
		if v.mu.ops == 0 {
			close(idle)
		} else {
			v.mu.idle = idle
		}
	}
	v.unlock(a)
	if already {
		return ErrClosed
	}
	v.pump()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = fmt.Errorf("closing volume %s with requests open: %w", v.layout.Name, ctx.Err())
	}
	if v.mu.log != nil {
		v.eraseLast(ctx)
	}
	var last Report
	if v.cfg.Meta != nil {
		last = v.lastReport()
	}
	v.user.close()
	a = v.lock()
	v.mu.parting = true
	v.unlock(a)
	v.cancel()
	v.wg.Wait()
	v.drainDead()
	v.failAll(ErrClosed)
	if release && v.cfg.Meta != nil && !v.fenced() {
		err = errors.Join(err, v.leave(ctx, last))
	}
	return errors.Join(err, v.unmap())
}

// leave tells meta how the volume is left and gives the lease back. A report that
// does not get there leaves meta with the one before, which is only older: the
// lease is given back all the same.
func (v *Volume) leave(ctx context.Context, last Report) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	rctx, rcancel := context.WithTimeout(ctx, leavePatience/2)
	defer rcancel()
	if _, err := v.cfg.Meta.Renew(rctx, v.layout.Volume, v.layout.Epoch, last); err != nil {
		v.log.Warn("the metadata service does not know how the volume is left", "err", err)
	}
	if err := v.cfg.Meta.Detach(ctx, v.layout.Volume, v.layout.Epoch); err != nil {
		return fmt.Errorf("giving back the lease of volume %s: %w", v.layout.Name, err)
	}
	return nil
}

// Done is closed when the volume accepts nothing more: another client took it, or it is
// being closed. Err says which.
func (v *Volume) Done() <-chan struct{} { return v.ended }

// Err is nil until Done is closed, and then ErrFenced or ErrClosed.
func (v *Volume) Err() error {
	a := v.lock()
	defer v.unlock(a)
	return v.mu.closed
}

// acceptNoMoreLocked ends the acceptance of requests, which end with err from now on. A
// volume that is being closed may still be fenced.
func (v *Volume) acceptNoMoreLocked(err error) {
	switch {
	case v.mu.closed == nil:
		close(v.ended)
	case errors.Is(v.mu.closed, ErrFenced):
		return
	}
	v.mu.closed = err
}

func (v *Volume) fenced() bool {
	a := v.lock()
	defer v.unlock(a)
	return errors.Is(v.mu.closed, ErrFenced)
}

// unmap closes the transport, which knows the buffers, and lets them go. What
// a front end still holds would fault, so then they stay.
func (v *Volume) unmap() error {
	err := v.cfg.Dialer.Close()
	// A page-in that was hedged is answered with a scratch buffer.
	held := v.buffersHeld()
	if held != 0 {
		return errors.Join(err, fmt.Errorf("closing volume %s: a front end still holds %d page buffers", v.layout.Name, held))
	}
	if v.recoverMem != nil {
		err = errors.Join(err, unix.Munmap(v.recoverMem))
	}
	return errors.Join(err, v.arena.close())
}

// buffersHeld counts the page buffers that are in somebody's hands.
func (v *Volume) buffersHeld() (n int) {
	for _, p := range []*pool{v.user, v.scratch, v.merges, v.moves, v.probes} {
		n += p.size - p.available()
	}
	return n
}

// drainDead completes transfers that never got out, after the last pump.
func (v *Volume) drainDead() {
	for x := v.dead.take(); x != nil; x = v.dead.take() {
		for x != nil {
			next := x.next
			x.next = nil
			v.finish(x)
			x = next
		}
	}
}

// abandon undoes a half-open volume.
func (v *Volume) abandon(cause error) {
	v.cancel()
	for _, p := range v.allPeers() {
		p.mu.Lock()
		c := p.mu.conn
		p.mu.Unlock()
		if c != nil {
			p.drop(c, cause)
		}
	}
	v.wg.Wait()
	v.drainDead()
	if err := v.unmap(); err != nil {
		v.log.Error("closing a volume that could not be opened", "err", err)
	}
}
