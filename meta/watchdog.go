package meta

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose disk stalls goes on sending heartbeats from goroutines that
// need no disk: nobody else is elected and nothing is decided. The watchdog
// looks at how long the present disk operation takes. When the state file
// stalls, Raft's main loop still runs and leadership is handed over. When the
// log stalls, the main loop itself is stuck: the node falls silent until the
// disk is back, the others elect a leader, and the higher term ends this one's
// reign.
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

// watchedLog is Raft's log, with an eye on its writes.
type watchedLog struct {
	raft.LogStore
	busy   busy
	before func() // a write; nil: nothing. Set before Raft starts
}

func (l *watchedLog) StoreLog(log *raft.Log) error {
	defer l.busy.begin()()
	return l.LogStore.StoreLog(log)
}

func (l *watchedLog) StoreLogs(logs []*raft.Log) error {
	defer l.busy.begin()()
	if l.before != nil {
		l.before()
	}
	return l.LogStore.StoreLogs(logs)
}

// IsMonotonic keeps what the wrapped store says of itself.
func (l *watchedLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (n *Node) watch(ctx context.Context, p *peer) {
	t := time.NewTicker(watchdogEvery)
	defer t.Stop()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if stalled := p.log.busy.stalled(); stalled != silent && p.layer != nil {
			silent = stalled
			p.layer.mute(silent)
			if silent {
				n.log.Error("the disk of the Raft log stalls: this node falls silent until it is back", "after", stallAfter)
			} else {
				n.log.Warn("the disk of the Raft log is back: this node takes part again")
			}
		}
		if !silent && p.fsm.busy.stalled() && p.raft.State() == raft.Leader {
			n.log.Error("the disk of the state stalls: handing over leadership", "after", stallAfter)
			if err := p.raft.LeadershipTransfer().Error(); err != nil {
				n.log.Error("handing over leadership", "err", err)
			}
		}
	}
}
