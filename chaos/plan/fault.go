package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind uint8

// Kinds of faults. Those of Lasts have an end.
const (
	Kill     Kind = iota + 1 // SIGKILL, and started again at the end; a server comes back empty
	Freeze                   // SIGSTOP, SIGCONT
	Restart                  // killed and started again at once: a server is empty
	Cut                      // a link swallows what is sent, one way or both
	Delay                    // a link is slower by By
	Throttle                 // a link passes Rate bytes a second
	Reset                    // the connections of a link are reset
	Corrupt                  // Count bytes in a server's memory are changed
	Zero                     // all of a server's memory turns to zeros under its process
	Swap                     // Count pairs of slots in a server's memory change places
	Rewind                   // at the end a server's memory is again what it was at the beginning
	Takeover                 // another client takes the volume; the first and the servers Without are cut off from all others
	Fill                     // the disk of a metadata node is full
	Clock                    // the wall clock of a process jumps by By, and back
	Heal                     // no fault: wait until all faults are over and all redundancy is there again
	kinds                    // how many there are, and one
)

var kindNames = [kinds]string{
	Kill: "kill", Freeze: "freeze", Restart: "restart", Cut: "cut", Delay: "delay", Throttle: "throttle",
	Reset: "reset", Corrupt: "corrupt", Zero: "zero", Swap: "swap", Rewind: "rewind", Takeover: "takeover", Fill: "fill", Clock: "clock", Heal: "heal",
}

func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kindNames[k]
}

func parseKind(s string) (Kind, bool) {
	for k := Kill; k < kinds; k++ {
		if kindNames[k] == s {
			return k, true
		}
	}
	return 0, false
}

// Kinds lists all kinds that break something.
func Kinds() []Kind {
	var all []Kind
	for k := Kill; k < Heal; k++ {
		all = append(all, k)
	}
	return all
}

// OnLink reports whether the fault is one of a link, not of a process.
func (k Kind) OnLink() bool { return k == Cut || k == Delay || k == Throttle || k == Reset }

// Lasts reports whether the fault has an end.
func (k Kind) Lasts() bool {
	return k != Restart && k != Reset && k != Corrupt && k != Zero && k != Swap && k != Heal
}

// Damages reports whether the fault leaves memory wrong that its server does not know
// to be: until it is killed, somebody may meet that.
func (k Kind) Damages() bool { return k == Corrupt || k == Zero || k == Swap || k == Rewind }

// Role is a process of the cluster: client, server1, meta1 and so on. As the
// end of a link, meta stands for all metadata nodes.
type Role string

// Client and AllMeta are the roles without a number.
const (
	Client  Role = "client"
	AllMeta Role = "meta"
	// Second is the client that takes the volume over; no plan names it.
	Second Role = "client2"
)

// Server and Meta name the i-th, counted from 1.
func Server(i int) Role { return Role("server" + strconv.Itoa(i)) }

// Meta is the metadata node with that number.
func Meta(i int) Role { return Role("meta" + strconv.Itoa(i)) }

// number is the role's number in a family, or 0.
func (r Role) number(family string) int {
	s, ok := strings.CutPrefix(string(r), family)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || strconv.Itoa(n) != s {
		return 0
	}
	return n
}

// IsServer and IsMeta say what kind of process it is; AllMeta is neither.
func (r Role) IsServer() bool { return r.number("server") > 0 }

// IsMeta reports whether it is one metadata node.
func (r Role) IsMeta() bool { return r.number("meta") > 0 }

// Link is what lies between two roles, whoever of them has dialled. Written
// A-B, or A>B when only what goes from A to B is meant.
type Link struct {
	A, B   Role
	OneWay bool
}

func (l Link) String() string {
	if l.OneWay {
		return string(l.A) + ">" + string(l.B)
	}
	return string(l.A) + "-" + string(l.B)
}

// Has reports whether what goes from one role to another passes this way of
// the link.
func (l Link) Has(from, to Role) bool {
	is := func(end, r Role) bool { return end == r || end == AllMeta && r.IsMeta() }
	return is(l.A, from) && is(l.B, to) || !l.OneWay && is(l.A, to) && is(l.B, from)
}

func parseLink(s string) (Link, bool) {
	if a, b, ok := strings.Cut(s, ">"); ok {
		return Link{A: Role(a), B: Role(b), OneWay: true}, true
	}
	a, b, ok := strings.Cut(s, "-")
	return Link{A: Role(a), B: Role(b)}, ok
}

// Fault is one thing that breaks. Which fields count depends on the Kind; the
// others are zero.
type Fault struct {
	Kind  Kind
	On    Role          // the process: all that are neither of a link nor Heal
	Link  Link          // Cut, Delay, Throttle, Reset
	For   time.Duration // how long: all that last
	By    time.Duration // Delay: of each way; Clock: either sign
	Rate  int64         // Throttle: bytes a second, each way
	Count int           // Corrupt: bytes; Swap: pairs of slots
	// Without has the servers that stay with the first client: Takeover.
	Without []Role
}

// String is the fault as in a plan, without its offset.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.Kind.String())
	switch {
	case f.Kind.OnLink():
		b.WriteString(" " + f.Link.String())
	case f.Kind != Heal:
		b.WriteString(" " + string(f.On))
	}
	switch f.Kind {
	case Delay, Clock:
		b.WriteString(" by " + f.By.String())
	case Throttle:
		b.WriteString(" to " + strconv.FormatInt(f.Rate, 10))
	case Corrupt:
		b.WriteString(" bytes " + strconv.Itoa(f.Count))
	case Swap:
		b.WriteString(" slots " + strconv.Itoa(f.Count))
	case Takeover:
		b.WriteString(" without " + joinRoles(f.Without))
	}
	if f.Kind.Lasts() {
		b.WriteString(" for " + f.For.String())
	}
	return b.String()
}

// nobody is the word for no servers in a list of them.
const nobody = "none"

func joinRoles(all []Role) string {
	if len(all) == 0 {
		return nobody
	}
	var b strings.Builder
	for i, r := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(r))
	}
	return b.String()
}

func splitRoles(s string) (all []Role) {
	if s == nobody {
		return nil
	}
	for r := range strings.SplitSeq(s, ",") {
		all = append(all, Role(r))
	}
	return all
}

// Touches lists the servers whose members may miss rows, or be damaged, because of
// the fault. Between servers only rebuilds run, and what these leave out is known.
func (f Fault) Touches() []Role {
	switch {
	case f.Kind == Takeover:
		return f.Without
	case !f.Kind.OnLink():
		if f.On.IsServer() && f.Kind != Clock {
			return []Role{f.On}
		}
		return nil
	case f.Link.A.IsServer() && f.Link.B.IsServer():
		return nil
	case f.Link.A.IsServer():
		return []Role{f.Link.A}
	case f.Link.B.IsServer():
		return []Role{f.Link.B}
	}
	return nil
}

// Cuts are the links that a takeover cuts, of a cluster with so many servers.
func (f Fault) Cuts(servers int) (all []Link) {
	near := append([]Role{f.On}, f.Without...)
	for _, a := range near {
		for i := range servers {
			if b := Server(i + 1); !slices.Contains(near, b) {
				all = append(all, Link{A: a, B: b})
			}
		}
		all = append(all, Link{A: a, B: AllMeta})
		if a != f.On {
			all = append(all, Link{A: a, B: Second})
		}
	}
	return all
}
