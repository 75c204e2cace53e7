package raid

import (
	"fmt"
	"strconv"
	"strings"
)

// Geometry is the redundancy of a volume: K data and M parity members in
// every group. A mirror of n copies is K=1, M=n-1; no redundancy is K=1, M=0.
type Geometry struct {
	K int // data members, 1..MaxData
	M int // parity members, 0..MaxParity; how many may be lost
}

// MaxCopies is the most copies that a mirror may have, the first included.
const MaxCopies = 4

// Members is the number of members of a group, K+M.
func (g Geometry) Members() int { return g.K + g.M }

// Mirror reports whether parity is a plain copy, so that any member of a row
// serves its page.
func (g Geometry) Mirror() bool { return g.K == 1 }

// Validate reports why a geometry cannot be used, or nil.
func (g Geometry) Validate() error {
	switch {
	case g.K < 1 || g.K > MaxData:
		return fmt.Errorf("redundancy %v: data members must be 1 to %d", g, MaxData)
	case g.M < 0 || g.M > MaxParity:
		return fmt.Errorf("redundancy %v: parity members must be 0 to %d", g, MaxParity)
	case g.K == 1 && g.M >= MaxCopies:
		return fmt.Errorf("redundancy of %d copies: at most %d", g.Members(), MaxCopies)
	case g.K > 1 && g.M == 0:
		return fmt.Errorf("redundancy %v: several data members without parity: use none, which spreads batches over all servers", g)
	}
	return nil
}

// String gives the form that ParseGeometry reads: none, mirror:N or rs:K+M.
func (g Geometry) String() string {
	switch {
	case g.K == 1 && g.M == 0:
		return "none"
	case g.K == 1:
		return "mirror:" + strconv.Itoa(g.M+1)
	default:
		return fmt.Sprintf("rs:%d+%d", g.K, g.M)
	}
}

// ParseGeometry reads none, mirror:N (N copies, 2 to 4) or rs:K+M. What it
// accepts is valid, and is exactly what String gives.
func ParseGeometry(s string) (Geometry, error) {
	g := Geometry{K: 1}
	if n, ok := strings.CutPrefix(s, "mirror:"); ok {
		copies, _ := strconv.Atoi(n)
		g.M = copies - 1
	} else if n, ok := strings.CutPrefix(s, "rs:"); ok {
		k, m, _ := strings.Cut(n, "+")
		g.K, _ = strconv.Atoi(k)
		g.M, _ = strconv.Atoi(m)
	}
	// One spelling only: no signs, no leading zeros, nothing left over.
	if g.String() != s {
		return Geometry{}, fmt.Errorf("redundancy %q: use none, mirror:N (2 to %d copies) or rs:K+M, for example rs:4+2", s, MaxCopies)
	}
	if err := g.Validate(); err != nil {
		return Geometry{}, err
	}
	return g, nil
}
