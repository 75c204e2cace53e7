package crashloop

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"dmps/client"
	"dmps/raid"
)

// leaseTTL and leaseRenew are short, since reports travel with renewals.
const (
	leaseTTL   = 3 * time.Second
	leaseRenew = 500 * time.Millisecond
)

// metadata is the part of the metadata service that decides what a client may
// believe: leases, who is lost and replaced, who is behind. It does what meta/state
// does with one volume.
type metadata struct {
	mu     sync.Mutex
	layout raid.Layout // Epoch: of the newest lease
	behind uint64      // Version when members in sync last fell behind
	chunk  raid.ChunkID
	report client.Report // the newest
	opened bool          // a client has said that it can be used

	was     [][]raid.Member // by group, as of the last version
	touched []uint64        // version that last touched a group
}

// newVersionLocked ends a change of groups, or the asking for that: behind is who was named.
func (m *metadata) newVersionLocked(behind []raid.ChunkID) {
	m.layout.Version++
	if m.was == nil {
		m.was, m.touched = make([][]raid.Member, len(m.layout.Groups)), make([]uint64, len(m.layout.Groups))
	}
	for i, g := range m.layout.Groups {
		named := slices.ContainsFunc(g.Members, func(x raid.Member) bool { return slices.Contains(behind, x.Chunk) })
		if named || !slices.Equal(g.Members, m.was[i]) {
			m.was[i], m.touched[i] = slices.Clone(g.Members), m.layout.Version
		}
	}
}

func (m *metadata) copyLocked() *raid.Layout {
	l := m.layout
	l.Groups = slices.Clone(l.Groups)
	for i := range l.Groups {
		l.Groups[i].Members = slices.Clone(l.Groups[i].Members)
	}
	return &l
}

// attach gives out a lease.
func (m *metadata) attach() *raid.Layout {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layout.FirstEpoch = !m.opened
	m.layout.Epoch++
	l := m.copyLocked()
	m.layout.FirstEpoch = false
	return l
}

func (m *metadata) renew(epoch raid.Epoch, r client.Report) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch != m.layout.Epoch {
		return 0, fmt.Errorf("the lease of epoch %d is over: %w", epoch, client.ErrFenced)
	}
	m.opened = true
	m.report = r
	if r.Known >= m.behind {
		n := 0
		m.eachLocked(func(x *raid.Member) {
			if x.State == raid.MemberRebuilding && slices.Contains(r.Rebuilt, x.Chunk) {
				x.State = raid.MemberInSync
				n++
			}
		})
		if n > 0 {
			m.newVersionLocked(nil)
		}
	}
	if len(r.Behind) > 0 {
		m.behindLocked(r.Behind)
		m.newVersionLocked(r.Behind)
		m.behind = m.layout.Version
	}
	return m.layout.Version, nil
}

// behindLocked notes members, where K others are in sync.
func (m *metadata) behindLocked(chunks []raid.ChunkID) {
	for _, g := range m.layout.Groups {
		rest := 0
		for _, x := range g.Members {
			if x.State == raid.MemberInSync && !slices.Contains(chunks, x.Chunk) {
				rest++
			}
		}
		for c := range g.Members {
			if x := &g.Members[c]; rest >= m.layout.Geometry.K && x.State == raid.MemberInSync && slices.Contains(chunks, x.Chunk) {
				x.State = raid.MemberRebuilding
			}
		}
	}
}

func (m *metadata) eachLocked(f func(*raid.Member)) {
	for i := range m.layout.Groups {
		for c := range m.layout.Groups[i].Members {
			f(&m.layout.Groups[i].Members[c])
		}
	}
}

// lose gives up what a server held.
func (m *metadata) lose(id raid.ServerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eachLocked(func(x *raid.Member) {
		if x.Server == id {
			x.State = raid.MemberLost
		}
	})
	m.newVersionLocked(nil)
}

// rebuilding reports whether a server holds a member that counts as being rebuilt.
func (m *metadata) rebuilding(id raid.ServerID) (some bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eachLocked(func(x *raid.Member) {
		some = some || x.Server == id && x.State == raid.MemberRebuilding
	})
	return some
}

// heard notes that a server came back empty.
func (m *metadata) heard(b *box) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eachLocked(func(x *raid.Member) {
		if x.Addr == b.addr && x.Incarnation != b.s.Incarnation() && x.State != raid.MemberLost {
			x.State = raid.MemberLost
			m.newVersionLocked(nil)
		}
	})
}

// replace gives lost members new chunks, where enough others hold everything: on
// one of the servers that are up and have none of the group, or on their own.
func (m *metadata) replace(up []*box) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for i := range m.layout.Groups {
		g := &m.layout.Groups[i]
		sources := 0
		for _, x := range g.Members {
			if x.State == raid.MemberInSync {
				sources++
			}
		}
		if sources < m.layout.Geometry.K {
			continue
		}
		for c := range g.Members {
			x := &g.Members[c]
			if x.State != raid.MemberLost {
				continue
			}
			at := slices.IndexFunc(up, func(b *box) bool {
				return b.addr == x.Addr || !slices.ContainsFunc(g.Members, func(o raid.Member) bool { return o.Addr == b.addr })
			})
			if at < 0 {
				continue
			}
			m.chunk++
			*x = raid.Member{Server: raid.ServerID(up[at].addr), Addr: up[at].addr, Incarnation: up[at].s.Incarnation(), Chunk: m.chunk, State: raid.MemberRebuilding}
			changed = true
		}
	}
	if changed {
		m.newVersionLocked(nil)
	}
}

// whole reports whether all members are in sync.
func (m *metadata) whole() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	whole := true
	m.eachLocked(func(x *raid.Member) { whole = whole && x.State == raid.MemberInSync })
	return whole
}

// group lists the addresses of a group's members.
func (m *metadata) group(i int) (l []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.layout.Groups[i].Members {
		l = append(l, x.Addr)
	}
	return l
}

// chunks lists the chunks that a server has of the volume.
func (m *metadata) chunks(id raid.ServerID) (l []raid.ChunkID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eachLocked(func(x *raid.Member) {
		if x.Server == id && x.State != raid.MemberLost {
			l = append(l, x.Chunk)
		}
	})
	return l
}

// holder is the metadata service as one client reaches it.
type holder struct {
	m    *metadata
	w    *wire
	gate *gate
}

var _ client.Meta = (*holder)(nil)

func (h *holder) reach() error {
	if m, _ := h.gate.state(); h.w.crashed() || m != gateOpen {
		return client.ErrNoQuorum
	}
	return nil
}

// Attach implements client.Meta; who opens volumes here has the lease.
func (h *holder) Attach(context.Context, client.AttachRequest) (*raid.Layout, client.Lease, error) {
	return nil, client.Lease{}, client.ErrInUse
}

// Renew implements client.Meta.
func (h *holder) Renew(_ context.Context, _ raid.VolumeID, epoch raid.Epoch, r client.Report) (uint64, error) {
	if err := h.reach(); err != nil {
		return 0, err
	}
	return h.m.renew(epoch, r)
}

// Layout implements client.Meta.
func (h *holder) Layout(_ context.Context, _ raid.VolumeID, since uint64) (*raid.Layout, error) {
	if err := h.reach(); err != nil {
		return nil, err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	l := h.m.copyLocked()
	if since > 0 && h.m.was != nil {
		l.Since = since
		l.Groups = slices.DeleteFunc(l.Groups, func(g raid.Group) bool { return h.m.touched[g.ID] <= since })
	}
	return l, nil
}

// Detach implements client.Meta.
func (h *holder) Detach(context.Context, raid.VolumeID, raid.Epoch) error { return h.reach() }
