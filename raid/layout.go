package raid

import (
	"errors"
	"fmt"
)

// ServerID names a memory server for as long as it is configured, across
// restarts. It is chosen by the operator or derived from the host.
type ServerID string

// Incarnation names one life of a memory server's arena: random, new at every
// start. What was stored under another incarnation is gone.
type Incarnation uint64

// ChunkID names a chunk in the whole cluster. It is never used again.
type ChunkID uint64

// VolumeID names a volume in the whole cluster. It is never used again.
type VolumeID uint64

// MemberState is what meta knows of one member of a group.
type MemberState uint8

const (
	// MemberInSync holds all its slots.
	MemberInSync MemberState = iota
	// MemberLost holds nothing: its server is gone or came back empty.
	MemberLost
	// MemberRebuilding is a replacement that is being filled.
	MemberRebuilding
)

func (s MemberState) String() string {
	switch s {
	case MemberInSync:
		return "in-sync"
	case MemberLost:
		return "lost"
	case MemberRebuilding:
		return "rebuilding"
	}
	return fmt.Sprintf("member-state(%d)", uint8(s))
}

// Member is one chunk of a group: where one column of its rows lives.
type Member struct {
	Server      ServerID
	Addr        string      // transport address, for example tcp://127.0.0.1:7301
	Incarnation Incarnation // of the server when the chunk was given out
	Chunk       ChunkID
	State       MemberState
}

// Group is K+M chunks on K+M servers in different failure domains. For a
// linear or striped layout it is one chunk.
type Group struct {
	ID      GroupID
	Members []Member  // index is the Col
	Pending []Pending // at most one a column, ascending
}

// Pending is a member that will take the place of a living one: its server is
// drained, or fuller than the others. It is filled while the one in Members
// still counts. When it holds everything, meta puts it into Members, in sync,
// and the other's chunk is given back. When the one in Members is lost first,
// the pending one takes its place at once, MemberRebuilding. The one in Members
// is MemberRebuilding when it fell behind meanwhile (Log.GuardThin).
type Pending struct {
	Col    Col
	Member Member // its State is MemberRebuilding
}

// Layout is everything that a client must know of a volume to page to it.
// It is decided by meta; a client holds it under a lease of the same Epoch.
type Layout struct {
	Volume     VolumeID
	Name       string
	Kind       LayoutKind
	Geometry   Geometry
	Pages      uint64 // size of the device in pages
	ChunkSlots uint32 // slots of every chunk = rows of every group
	MinAck     int    // least members of a row that must hold it before its pages are answered: K or K+1
	Epoch      Epoch
	Version    uint64 // grows with every change of Groups, whoever has the lease
	FirstEpoch bool   // no client has opened the volume before: there is nothing to recover. It counts as opened when Open has told meta
	Groups     []Group
	Since      uint64 // not 0: Groups are only those that changed after this version, ascending
	Cluster    string // cluster id, checked by every server
	Unknown    uint64 // pages that are gone, of which nobody knows which they are, as far as the last client said
	TargetFill int    // percent of data slots that hold live pages when every page of the volume is in use
}

// HeaderBytes is the size of one slot header in this column's chunks.
func (l *Layout) HeaderBytes(c Col) int { return HeaderBytes(l.Geometry, c) }

// slots is the number of slots in all data columns.
func (l *Layout) slots() uint64 {
	return uint64(len(l.Groups)) * uint64(l.ChunkSlots) * uint64(l.Geometry.K)
}

// DataSlots is the number of slots that can hold pages of the volume: in a log not
// those of the view rows.
func (l *Layout) DataSlots() uint64 {
	n := l.slots()
	if l.Kind == LayoutLog {
		n -= uint64(len(l.Groups)) * uint64(min(l.ChunkSlots, ViewRows)) * uint64(l.Geometry.K)
	}
	return n
}

// Validate reports everything that is wrong with a layout.
func (l *Layout) Validate() error {
	var errs []error
	add := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if err := l.Geometry.Validate(); err != nil {
		errs = append(errs, err)
	}
	if l.Kind > LayoutStriped {
		add("unknown %v", l.Kind)
	}
	if l.Kind != LayoutLog && l.Geometry != (Geometry{K: 1}) {
		add("layout %v has no redundancy, not %v", l.Kind, l.Geometry)
	}
	if l.Pages == 0 || l.Pages > MaxPages {
		add("volume of %d pages: must be 1 to %d", l.Pages, uint64(MaxPages))
	}
	if l.Since > l.Version {
		add("what changed after version %d is of version %d", l.Since, l.Version)
	}
	if l.Since == 0 {
		l.validateSize(add)
	}
	if l.MinAck < l.Geometry.K || l.MinAck > l.Geometry.Members() {
		add("min ack %d: must be %d to %d", l.MinAck, l.Geometry.K, l.Geometry.Members())
	}
	if l.Epoch > MaxEpoch {
		add("epoch %d: sequence numbers hold at most %d", l.Epoch, MaxEpoch)
	}
	l.validateGroups(add)
	return errors.Join(errs...)
}

// validateSize looks at what needs all groups.
func (l *Layout) validateSize(add func(string, ...any)) {
	if l.ChunkSlots == 0 || len(l.Groups) == 0 || l.Kind == LayoutLog && l.ChunkSlots <= ViewRows {
		add("volume has no slots")
	}
	// The map counts the slots of view rows too.
	if n := l.slots(); n > MaxDataSlots {
		add("volume has %d data slots, at most %d", n, uint64(MaxDataSlots))
	} else if n := l.DataSlots(); n < l.Pages {
		add("volume of %d pages has only %d data slots", l.Pages, n)
	}
}

func (l *Layout) validateGroups(add func(string, ...any)) {
	owner := make(map[ChunkID]GroupID)
	own := func(g GroupID, c Col, id ChunkID) {
		if other, dup := owner[id]; dup && id != 0 {
			add("member %d of group %d has chunk %d, which group %d has already", c, g, id, other)
		}
		owner[id] = g
	}
	for i, g := range l.Groups {
		if l.Since == 0 && int(g.ID) != i || i > 0 && g.ID <= l.Groups[i-1].ID {
			add("group %d stands at place %d", g.ID, i)
		}
		if len(g.Members) != l.Geometry.Members() {
			add("group %d has %d members, not %d", g.ID, len(g.Members), l.Geometry.Members())
		}
		for c, m := range g.Members {
			own(g.ID, Col(c), m.Chunk)
		}
		for i, p := range g.Pending {
			own(g.ID, p.Col, p.Member.Chunk)
			switch {
			case int(p.Col) >= len(g.Members) || i > 0 && p.Col <= g.Pending[i-1].Col:
				add("group %d: pending members out of order", g.ID)
			case g.Members[p.Col].State == MemberLost || p.Member.State != MemberRebuilding:
				add("group %d: member %d is %v, the pending one %v", g.ID, p.Col, g.Members[p.Col].State, p.Member.State)
			}
		}
	}
}

// The page map holds 32-bit entries with one bit for the kind: 2^31 slots of
// 4 KiB are 8 TiB a volume. The top values are markers.
const (
	MaxDataSlots = 1<<31 - 2
	MaxPages     = 1<<31 - 2
)
