package plan

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind uint8

// Kinds of faults. All but Restart, Reset, Corrupt and Heal last for a time.
const (
	Kill     Kind = iota + 1 // SIGKILL, and started again at the end; a server comes back empty
	Freeze                   // SIGSTOP, SIGCONT
	Restart                  // killed and started again at once: a server is empty
	Cut                      // a link swallows what is sent, one way or both
	Delay                    // a link is slower by By
	Throttle                 // a link passes Rate bytes a second
	Reset                    // the connections of a link are reset
	Corrupt                  // Count bytes in a server's memory are changed
	Fill                     // the disk of a metadata node is full
	Clock                    // the wall clock of a process jumps by By, and back
	Heal                     // no fault: wait until all faults are over and all redundancy is there again
	kinds                    // how many there are, and one
)

var kindNames = [kinds]string{
	Kill: "kill", Freeze: "freeze", Restart: "restart", Cut: "cut", Delay: "delay", Throttle: "throttle",
	Reset: "reset", Corrupt: "corrupt", Fill: "fill", Clock: "clock", Heal: "heal",
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
	return k != Restart && k != Reset && k != Corrupt && k != Heal
}

// Role is a process of the cluster: client, server1, meta1 and so on. As the
// end of a link, meta stands for all metadata nodes.
type Role string

// Client and AllMeta are the roles without a number.
const (
	Client  Role = "client"
	AllMeta Role = "meta"
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
	On    Role          // the process: Kill, Freeze, Restart, Corrupt, Fill, Clock
	Link  Link          // Cut, Delay, Throttle, Reset
	For   time.Duration // how long: all that last
	By    time.Duration // Delay: of each way; Clock: either sign
	Rate  int64         // Throttle: bytes a second, each way
	Count int           // Corrupt: bytes
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
	}
	if f.Kind.Lasts() {
		b.WriteString(" for " + f.For.String())
	}
	return b.String()
}

// Touches is the server whose members may miss rows, or be damaged, because of
// the fault; "" if there is none. Between servers only rebuilds run, and what
// these leave out is known.
func (f Fault) Touches() Role {
	if !f.Kind.OnLink() {
		if f.On.IsServer() && f.Kind != Clock {
			return f.On
		}
		return ""
	}
	switch {
	case f.Link.A.IsServer() && f.Link.B.IsServer():
		return ""
	case f.Link.A.IsServer():
		return f.Link.A
	case f.Link.B.IsServer():
		return f.Link.B
	}
	return ""
}
