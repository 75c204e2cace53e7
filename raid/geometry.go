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

// ParseGeometry reads none, mirror:N (N copies, 2 to 4) or rs:K+M.
func ParseGeometry(s string) (Geometry, error) {
	bad := func() (Geometry, error) {
		return Geometry{}, fmt.Errorf("redundancy %q: use none, mirror:N (2 to 4 copies) or rs:K+M, for example rs:4+2", s)
	}
	switch {
	case s == "none":
		return Geometry{K: 1}, nil
	case strings.HasPrefix(s, "mirror:"):
		n, err := strconv.Atoi(s[len("mirror:"):])
		if err != nil || n < 2 || n > 4 {
			return bad()
		}
		return Geometry{K: 1, M: n - 1}, nil
	case strings.HasPrefix(s, "rs:"):
		ks, ms, ok := strings.Cut(s[len("rs:"):], "+")
		k, err1 := strconv.Atoi(ks)
		m, err2 := strconv.Atoi(ms)
		if !ok || err1 != nil || err2 != nil || k < 2 || m < 1 {
			return bad()
		}
		g := Geometry{K: k, M: m}
		return g, g.Validate()
	}
	return bad()
}
