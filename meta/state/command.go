package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"dmps/meta/level"
	"dmps/raid"
)

// Command is one change: exactly one of its pointers is set. Its JSON form is
// what the Raft log holds, so fields are only ever added, each with the level from
// which on it exists (package level).
type Command struct {
	marks
	Now          int64         `json:"now,omitempty"`   // when it was proposed, Unix milliseconds by the leader's clock; decides nothing
	Level        level.Level   `json:"level,omitempty"` // that a reader must know, set by Encode; 0: the first
	Init         *Init         `json:"init,omitempty"`
	PutNode      *Node         `json:"put_node,omitempty"`
	RemoveNode   *RemoveNode   `json:"remove_node,omitempty"`
	Register     *Register     `json:"register,omitempty"`
	SetServer    *SetServer    `json:"set_server,omitempty"`
	RemoveServer *RemoveServer `json:"remove_server,omitempty"`
	Freed        *Freed        `json:"freed,omitempty"`
	CreateVolume *CreateVolume `json:"create_volume,omitempty"`
	DeleteVolume *DeleteVolume `json:"delete_volume,omitempty"`
	Attach       *Attach       `json:"attach,omitempty"`
	Detach       *Detach       `json:"detach,omitempty"`
	PutReport    *PutReport    `json:"put_report,omitempty"`
	Heal         *Heal         `json:"heal,omitempty"`
	Rebuilt      *Rebuilt      `json:"rebuilt,omitempty"`
	Drain        *Drain        `json:"drain,omitempty"`
	Rebalance    *Rebalance    `json:"rebalance,omitempty"`
	Inventory    *Inventory    `json:"inventory,omitempty"`
	Behind       *Behind       `json:"behind,omitempty"`
	Shortage     *Shortage     `json:"shortage,omitempty"`
	AcceptLoss   *AcceptLoss   `json:"accept_loss,omitempty"`
	Unknown      *Unknown      `json:"unknown,omitempty"`
	Purge        *Purge        `json:"purge,omitempty"`
	Raise        *Raise        `json:"raise,omitempty"`
}

// Init names the cluster. It is the first command of all; the same again
// changes nothing.
type Init struct {
	Cluster string      `json:"cluster"`
	Level   level.Level `json:"level,omitempty"` // that the cluster begins with; 0: the first
	By      string      `json:"by,omitempty"`    // version of the leader
}

// RemoveNode forgets a meta node.
type RemoveNode struct {
	ID string `json:"id"`
}

// Register is a memory server's life that begins, or tells something new.
type Register struct {
	ID          raid.ServerID     `json:"id"`
	Incarnation raid.Incarnation  `json:"incarnation"`
	Addr        string            `json:"addr"`
	Labels      map[string]string `json:"labels,omitempty"`
	MemoryTotal uint64            `json:"memory_total"`
	Cluster     string            `json:"cluster,omitempty"`
	Host        Host              `json:"host,omitzero"`
	Build       level.Build       `json:"build,omitzero"`
	Folder      string            `json:"folder,omitempty"`
	Heard       bool              `json:"heard,omitempty"` // the leader heard the older life a moment ago
	Ghost       bool              `json:"ghost,omitempty"` // the present life registered, and was never heard of again
}

// SetServer is what the leader made of heartbeats.
type SetServer struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	State       ServerState      `json:"state"`
	MemoryTotal uint64           `json:"memory_total,omitempty"` // 0: as before
	Silent      int64            `json:"silent,omitempty"`       // see Server, unless State is ServerUp
	Together    bool             `json:"together,omitempty"`     // likewise
	Still       bool             `json:"still,omitempty"`        // it is suspect as before, and silent for longer; of no effect when it was heard meanwhile
}

// RemoveServer forgets a memory server. Its result is a Removed.
type RemoveServer struct {
	ID    raid.ServerID `json:"id"`
	Force bool          `json:"force,omitempty"`
}

// Freed is memory of deleted volumes that a server gave back.
type Freed struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	Chunks      []raid.ChunkID   `json:"chunks"`
}

// CreateVolume asks for a volume; zero values are the defaults. Its result is
// its id, a raid.VolumeID.
type CreateVolume struct {
	Name       string          `json:"name"`
	Request    string          `json:"request"`
	Pages      uint64          `json:"pages"`
	Geometry   raid.Geometry   `json:"geometry"`
	Kind       raid.LayoutKind `json:"kind"`
	Domain     Level           `json:"domain"`
	TargetFill int             `json:"target_fill,omitempty"`
	MinAck     int             `json:"min_ack,omitempty"`
	ChunkSlots uint32          `json:"chunk_slots,omitempty"`
	Seed       uint64          `json:"seed"` // of the choices between servers
	Now        int64           `json:"now"`  // Unix milliseconds
}

// DeleteVolume gives a volume's memory back.
type DeleteVolume struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"` // even with a lease
	// Expired is the epoch of a lease that the leader saw run out; 0: none.
	Expired raid.Epoch `json:"expired,omitempty"`
}

// Attach takes the lease of a volume. Its result is an Attached.
type Attach struct {
	Name     string      `json:"name"`
	Holder   string      `json:"holder"`
	Admin    string      `json:"admin,omitempty"`
	Host     Host        `json:"host,omitzero"`
	Build    level.Build `json:"build,omitzero"`
	Takeover bool        `json:"takeover,omitempty"`
	// Expired is the epoch of a lease that the leader saw run out; 0: none.
	Expired raid.Epoch `json:"expired,omitempty"`
	// Care asks for a care lease: only for a volume that nobody has attached
	// and that needs it (State.NeedsCare).
	Care bool `json:"care,omitempty"`
}

// Attached is the result of Attach.
type Attached struct {
	Volume raid.VolumeID
	Epoch  raid.Epoch // of the lease
	First  bool       // no client has said that it opened it
}

// Detach gives a lease back. A lease that was given back already is no error.
type Detach struct {
	Volume raid.VolumeID `json:"volume"`
	Epoch  raid.Epoch    `json:"epoch"`
}

// PutReport keeps what a client says of its volume, the first time that it has
// opened it.
type PutReport struct {
	Volume raid.VolumeID `json:"volume"`
	Epoch  raid.Epoch    `json:"epoch"`
	Report Report        `json:"report"`
	Known  uint64        `json:"known,omitempty"` // version of the layout that the holder knew
}

// Heal replaces members that are lost or whose server is down, and moves those
// of draining servers: see planHeal. Its result is a Healed.
type Heal struct {
	Seed       uint64 `json:"seed"`                 // of no use: who stands in for whom follows from the state
	Limit      int    `json:"limit"`                // most members in this command
	Rebuilding int    `json:"rebuilding,omitempty"` // most members of a volume that are filled at once; 0: no limit
	Moves      int    `json:"moves"`                // most living members of the cluster that are replaced at once

	// Refused are chunks that their servers do not hold and have no memory for, as
	// lease holders say: their members get others beside them (refused.go).
	Refused []raid.ChunkID `json:"refused,omitempty"`
	// Full are servers that refused memory lately, those of Refused among them: they get no
	// new members in this plan.
	Full []raid.ServerID `json:"full,omitempty"`

	// Volume is the only one to be healed, because somebody asked for it: its
	// members on suspect servers are replaced too, nothing is moved. 0: all
	// volumes, as planned.
	Volume raid.VolumeID `json:"volume,omitempty"`
}

// Rebuilt are chunks that hold all that belongs there, as the lease holder
// says. Those that are known no more, or in sync already, are no error.
type Rebuilt struct {
	Volume raid.VolumeID  `json:"volume"`
	Epoch  raid.Epoch     `json:"epoch"`
	Chunks []raid.ChunkID `json:"chunks"`
	Known  uint64         `json:"known,omitempty"` // version of the layout that the holder knew
}

// Behind are chunks in sync that are about to miss rows, as the lease holder
// says: they count as being rebuilt from now on. What was said before, of an
// older version, that they are rebuilt does not count any more.
type Behind struct {
	Volume raid.VolumeID  `json:"volume"`
	Epoch  raid.Epoch     `json:"epoch"`
	Chunks []raid.ChunkID `json:"chunks"`
}

// Drain begins or ends the draining of a server.
type Drain struct {
	ID  raid.ServerID `json:"id"`
	Off bool          `json:"off,omitempty"`
}

// Rebalance begins to even out the servers' memory use, or ends that.
type Rebalance struct {
	Threshold int  `json:"threshold,omitempty"` // percent between the fullest and the emptiest that is good enough, 1 to 100
	Off       bool `json:"off,omitempty"`
}

// Inventory is what a server holds, after State.Recover.
type Inventory struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	Chunks      []raid.ChunkID   `json:"chunks"`
}

// Unknown says how much a server holds that this state did not give out.
type Unknown struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	Chunks      uint64           `json:"chunks"`
	Bytes       uint64           `json:"bytes"`
	Next        raid.ChunkID     `json:"next,omitempty"` // above the highest of them; 0: there is none
}

// Purge has a server give back chunks that this state does not know.
type Purge struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	Chunks      []raid.ChunkID   `json:"chunks"`
}

// Shortage says that a server's host is short of memory, or is not any more.
type Shortage struct {
	ID          raid.ServerID    `json:"id"`
	Incarnation raid.Incarnation `json:"incarnation"`
	Short       bool             `json:"short,omitempty"`
	Wanted      uint64           `json:"wanted,omitempty"` // bytes that it wants to have back
}

// AcceptLoss ends the remark that pages of a volume are gone of which nobody knows
// which they are. Its result is how many, a uint64.
type AcceptLoss struct {
	Name string `json:"name"`
}

// Encode gives the form that Decode reads, for a cluster of a level. A command, or a
// field that is set, of a higher one is a *Refusal: there may be nodes that do not know it.
func (c *Command) Encode(at level.Level) ([]byte, error) {
	c.mark(at)
	c.Level = 0
	needs := level.Of(c)
	if needs > at {
		return nil, refuse(LevelTooLow, "this needs cluster level %d, and the cluster is at level %d: have it raised (dmps meta raise)", needs, at)
	}
	if c.Init != nil {
		needs = max(needs, c.Init.Level)
	}
	if c.Raise != nil {
		needs = max(needs, c.Raise.To)
	}
	if needs > 1 {
		c.Level = needs
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode a command: %w", err)
	}
	return b, nil
}

// Decode reads a command, as a build does. One that it does not know wholly is an error:
// a replica that left out what it does not know would differ from the others. One of
// a level that the build does not know is a *level.UnknownError.
func Decode(b []byte, build level.Build) (*Command, error) {
	var c Command
	err := ReadAll(b, &c)
	if err != nil || c.Level > 1 {
		if err := tooNew(b, build); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("command of %d bytes: %w", len(b), err)
	}
	n := 0
	for _, f := range changes {
		if !reflect.ValueOf(&c).Elem().FieldByIndex(f).IsNil() {
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("command of %d bytes asks for %d changes, not one", len(b), n)
	}
	return &c, nil
}

// changes are the fields of Command of which one is set.
var changes = func() (out [][]int) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Command]()) {
		if f.Type.Kind() == reflect.Pointer {
			out = append(out, f.Index)
		}
	}
	return out
}()

// tooNew tells a command of a level that a build does not know, of which it knows
// only some fields.
func tooNew(b []byte, build level.Build) error {
	var head struct {
		Level       level.Level
		Init, Raise struct{ By string }
	}
	if err := json.Unmarshal(b, &head); err != nil || head.Level <= max(build.Highest, 1) {
		return nil
	}
	return build.Check("a command", head.Level, head.Init.By+head.Raise.By)
}

// ReadAll reads the JSON form of v. A field that v does not have is an error, and so is
// what follows.
func ReadAll(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows it")
	}
	return nil
}

// Apply carries a command out, or refuses it (a *Refusal) and changes nothing.
// The result is what the command's comment says, and the caller's.
func (s *State) Apply(c *Command) (any, error) {
	// 0 stands for "no" in the state. A clock before 1970 is no reason to fail.
	s.now = max(c.Now, 1)
	result, refusal := s.apply(c)
	s.settle()
	s.now = 0
	if refusal != nil {
		return nil, refusal
	}
	return result, nil
}

func (s *State) apply(c *Command) (any, *Refusal) {
	switch {
	case c.Init != nil:
		return nil, s.init(c.Init)
	case c.PutNode != nil:
		return nil, s.putNode(c.PutNode)
	case c.RemoveNode != nil:
		delete(s.Nodes, c.RemoveNode.ID)
		s.touchNode(c.RemoveNode.ID)
		return nil, nil
	case c.Register != nil:
		return nil, s.register(c.Register)
	case c.SetServer != nil:
		return nil, s.setServer(c.SetServer)
	case c.RemoveServer != nil:
		return s.removeServer(c.RemoveServer)
	case c.Freed != nil:
		return nil, s.freed(c.Freed)
	case c.CreateVolume != nil:
		return s.createVolume(c.CreateVolume)
	case c.DeleteVolume != nil:
		return nil, s.deleteVolume(c.DeleteVolume)
	case c.Attach != nil:
		return s.attach(c.Attach)
	case c.Detach != nil:
		return nil, s.detach(c.Detach)
	case c.PutReport != nil:
		return nil, s.putReport(c.PutReport)
	case c.Heal != nil:
		return s.heal(c.Heal), nil
	case c.Rebuilt != nil:
		return nil, s.rebuilt(c.Rebuilt)
	case c.Drain != nil:
		return nil, s.drain(c.Drain)
	case c.Rebalance != nil:
		return nil, s.rebalance(c.Rebalance)
	case c.Inventory != nil:
		return nil, s.inventory(c.Inventory)
	case c.Behind != nil:
		return nil, s.behind(c.Behind)
	case c.Shortage != nil:
		return nil, s.shortage(c.Shortage)
	case c.AcceptLoss != nil:
		return s.acceptLoss(c.AcceptLoss)
	case c.Unknown != nil:
		return nil, s.unknown(c.Unknown)
	case c.Purge != nil:
		return s.purge(c.Purge)
	case c.Raise != nil:
		return nil, s.raise(c.Raise)
	}
	return nil, refuse(Invalid, "empty command")
}

func (s *State) init(c *Init) *Refusal {
	switch {
	case c.Cluster == "":
		return refuse(Invalid, "a cluster needs an id")
	case s.Cluster != "" && s.Cluster != c.Cluster:
		return refuse(ForeignCluster, "this is cluster %s, not %s", s.Cluster, c.Cluster)
	}
	if s.Cluster == "" {
		s.Level, s.LevelBy = max(c.Level, 1), c.By
	}
	s.Cluster = c.Cluster
	s.touched.Root = true
	return nil
}

func (s *State) putNode(c *Node) *Refusal {
	if c.ID == "" || c.Name == "" {
		return refuse(Invalid, "a meta node needs an id and a name")
	}
	if s.Nodes[c.ID] == nil && len(s.Nodes) >= maxNodes {
		return refuse(Invalid, "node %s: a cluster has at most %d metadata nodes: five survive the loss of two", c.ID, maxNodes)
	}
	if err := c.Build.Check("the cluster", s.Level, s.LevelBy); err != nil {
		return refuse(LevelUnknown, "node %s: %v", c.Name, err)
	}
	n := *c
	s.Nodes[n.ID] = &n
	s.touchNode(n.ID)
	return nil
}
