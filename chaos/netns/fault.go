package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Fault is something that happens to what some hosts send to some others.
type Fault struct {
	from, to []*Host
	at       string // nft: what of it
	then     string // nft: what becomes of it
	answer   bool   // done by the host that gets it
}

// Drop loses everything on its way: cut one way.
func Drop(from, to []*Host) Fault { return Fault{from: from, to: to, then: "drop"} }

// DropLarge loses packets of more than 1400 bytes, without a word, as a tunnel does whose
// endpoints believe in the usual 1500: connections are made, and pages do not pass.
func DropLarge(from, to []*Host) Fault {
	return Fault{from: from, to: to, at: "meta length > 1400", then: "drop"}
}

// Refuse answers every TCP packet with a reset.
func Refuse(from, to []*Host) Fault {
	return Fault{from: from, to: to, at: "meta l4proto tcp", then: "reject with tcp reset", answer: true}
}

// Throttle loses what is more than so many KiB a second, of all of them together.
func Throttle(from, to []*Host, kib int) Fault {
	return Fault{from: from, to: to, at: fmt.Sprintf("limit rate over %d kbytes/second", kib), then: "drop"}
}

// Freeze loses what belongs to the TCP connections that are open now between hosts,
// both ways; new ones pass. So does a firewall that has forgotten what it knew.
func Freeze(a, b []*Host) (Fault, error) {
	var flows []string
	for _, h := range a {
		out, err := exec.Command("ip", "netns", "exec", h.namespace(), "ss", "-tnH").Output()
		if err != nil {
			return Fault{}, fmt.Errorf("connections of %s: %w", h.Name, err)
		}
		for line := range strings.Lines(string(out)) {
			w := strings.Fields(line) // state, two queues, own address, peer's
			if len(w) < 5 {
				continue
			}
			own, peer := flowEnd(w[3]), flowEnd(w[4])
			for _, other := range b {
				if strings.HasPrefix(peer, other.IP+" ") {
					flows = append(flows, own+" . "+peer, peer+" . "+own)
				}
			}
		}
	}
	if len(flows) == 0 {
		return Fault{}, errors.New("no connection is open between these hosts")
	}
	both := append(slices.Clone(a), b...)
	return Fault{from: both, to: both, at: "ip saddr . tcp sport . ip daddr . tcp dport { " + strings.Join(flows, ", ") + " }", then: "drop"}, nil
}

// flowEnd is an address as a part of nft's concatenations.
func flowEnd(address string) string {
	i := strings.LastIndexByte(address, ':')
	host := strings.Trim(address[:i], "[]")
	return strings.TrimPrefix(host, "::ffff:") + " . " + address[i+1:]
}

// Cut is Drop in both directions.
func Cut(a, b []*Host) []Fault { return []Fault{Drop(a, b), Drop(b, a)} }

// Set makes these the faults that there are, instead of all earlier ones. Without any the
// network is whole.
func (n *Net) Set(faults ...Fault) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var drops strings.Builder
	answers := map[*Host]*strings.Builder{}
	for _, h := range n.refused {
		answers[h] = new(strings.Builder)
	}
	for _, f := range faults {
		if !f.answer {
			drops.WriteString("ip saddr " + addresses(f.from) + " ip daddr " + addresses(f.to) + " " + f.at + " " + f.then + "\n")
			continue
		}
		for _, h := range f.to {
			if answers[h] == nil {
				answers[h] = new(strings.Builder)
			}
			answers[h].WriteString("ip saddr " + addresses(f.from) + " " + f.at + " " + f.then + "\n")
		}
	}
	errs := []error{rules(n.hub(), "bridge", "forward", drops.String())}
	n.refused = nil
	for h, b := range answers {
		errs = append(errs, rules(h.namespace(), "inet", "input", b.String()))
		if b.Len() > 0 {
			n.refused = append(n.refused, h)
		}
	}
	return errors.Join(errs...)
}

// rules replaces those of a namespace, at once.
func rules(namespace, family, hook, text string) error {
	table := "table " + family + " faults"
	return tool(table+"\ndelete "+table+"\n"+table+" {\nchain faults {\ntype filter hook "+hook+" priority 0; policy accept;\n"+text+"}\n}\n",
		"ip", "netns", "exec", namespace, "nft", "-f", "-")
}

func addresses(hosts []*Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.IP)
	}
	return "{ " + strings.Join(all, ", ") + " }"
}
