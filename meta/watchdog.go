package meta

import (
	"context"
	"sync/atomic"
	"time"
)

// A leader whose disk stalls goes on sending heartbeats from goroutines that
// need no disk: nobody else is elected and nothing is decided. The watchdog
// looks at how long the present disk operation takes. When the state file
// stalls, Raft's main loop still runs and leadership is handed over. When the
// log stalls, the main loop itself is stuck: the node falls silent until the
// disk is back, the others elect a leader, and the higher term ends this one's
// reign. A full disk counts as one that stalls: writes wait until there is room
// (watchedLog, store.Store.Full).
const (
	stallAfter    = 3 * time.Second
	watchdogEvery = 500 * time.Millisecond
)

// begun is what busy counts from. A jump of the wall clock must not look like a
// disk that stalls.
var begun = time.Now()

// busy is when the operation in progress began.
type busy struct{ since atomic.Int64 } // nanoseconds after begun, and one; 0: none

// begin notes the start and gives the function that notes the end. Operations
// of one busy do not overlap.
func (b *busy) begin() (end func()) {
	b.since.Store(int64(time.Since(begun)) + 1)
	return func() { b.since.Store(0) }
}

// stalled reports whether the operation in progress takes too long.
func (b *busy) stalled() bool {
	t := b.since.Load()
	return t != 0 && time.Since(begun)-time.Duration(t) > stallAfter
}

func (n *Node) watch(ctx context.Context, p *peer) {
	t := time.NewTicker(watchdogEvery)
	defer t.Stop()
	var full error
	handing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if is := n.diskFull(p); (is == nil) != (full == nil) {
			full = is
			if full != nil {
				n.log.Error("the disk is full: this node decides nothing until there is room; nothing is damaged", "dir", n.cfg.Dir, "err", full)
			} else {
				n.log.Warn("there is room on the disk again: this node takes part again", "dir", n.cfg.Dir)
			}
		}
		if stalled := p.log.busy.stalled(); stalled != p.silent.Load() {
			p.silent.Store(stalled)
			if p.layer != nil {
				p.layer.mute(stalled)
			}
			if stalled {
				n.log.Error("the disk of the Raft log stalls: this node falls silent until it is back", "after", stallAfter)
			} else {
				n.log.Warn("the disk of the Raft log is back: this node takes part again")
			}
		}
		if !p.leads() || !p.fsm.busy.stalled() {
			handing = false
			continue
		}
		if !handing {
			n.log.Error("the disk of the state stalls: handing over leadership", "after", stallAfter)
		}
		if err := p.raft.LeadershipTransfer().Error(); err != nil && !handing {
			n.log.Error("handing over leadership", "err", err) // a node alone has nobody to hand over to
		}
		handing = true
	}
}

// deaf reports whether this node hears nobody, because its disk is full or
// stalls: calls are refused then, heartbeats and renewals among them.
func (n *Node) deaf(p *peer) bool { return p.silent.Load() || n.disks.state.Full() != nil }

// diskFull says why a disk of the node has no room, or nil.
func (n *Node) diskFull(p *peer) error {
	if err := p.log.full(); err != nil {
		return err
	}
	return n.disks.state.Full()
}
