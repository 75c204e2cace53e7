package state

import "math"

// Copysets is how groups lie on servers, in figures.
type Copysets struct {
	Sets     int     // combinations of servers that share groups with redundancy
	Repairs  int     // of these: made by repairs and moves, until their members are home again
	Away     int     // members that are not on the servers where they belong
	Failures int     // servers of Loss: one percent of those there are, and one more at least than any group survives
	Loss     float64 // probability that some group loses more members than it survives when so many servers fail at once, any of them
}

// Copysets counts the combinations. The probability takes what two of them have in
// common for chance, which simulations bear out (docs/benchmarks.md).
func (s *State) Copysets() Copysets {
	out := Copysets{Sets: len(s.index.live)}
	for _, n := range s.index.strays {
		out.Away += n
	}
	type shape struct{ members, spare int }
	count := map[shape]int{}
	for key, set := range s.index.live {
		count[shape{len(set.servers), set.spare}]++
		out.Failures = max(out.Failures, set.spare+1)
		if s.index.home[key[1:]] == nil {
			out.Repairs++
		}
	}
	servers := len(s.Servers)
	out.Failures = min(max(out.Failures, (servers+99)/100), servers)
	survives := 0.0 // logarithm
	for sh, n := range count {
		survives += float64(n) * math.Log1p(-hits(servers, sh.members, out.Failures, sh.spare))
	}
	out.Loss = -math.Expm1(survives)
	return out
}

// hits is the probability that of so many failed servers more than spare are among the
// members of a group.
func hits(servers, members, failed, spare int) float64 {
	choose := func(n, k int) float64 { // logarithm
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(n - k + 1))
		return a - b - c
	}
	p := 0.0
	for hit := spare + 1; hit <= min(members, failed); hit++ {
		if failed-hit <= servers-members {
			p += math.Exp(choose(members, hit) + choose(servers-members, failed-hit) - choose(servers, failed))
		}
	}
	return min(p, 1)
}
