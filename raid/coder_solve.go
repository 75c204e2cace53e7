package raid

import (
	"math/bits"

	"github.com/klauspost/reedsolomon"
)

// combination gives a column as a sum over other columns: entry i is what
// column i is multiplied with. Addition is exclusive or, so that a combination
// whose sum is zero and the column that it was solved for are the same thing.
type combination [MaxData + MaxParity]byte

// solution expresses the unknown data columns of a row through columns that
// are at hand. It lives on the stack.
type solution struct {
	n       int                    // unknown columns
	unknown [MaxParity]Col         // ascending
	rows    [MaxParity]combination // rows[i] sums to zero and has, of the unknown columns, only unknown[i], times one
	used    uint32                 // the parity members that it takes
	known   uint32                 // data columns at hand that are filled
}

// solve fills s: one equation for each unknown column, from the first parity
// members at hand (the first of all is the cheapest: all ones), brought to
// diagonal form. Only as many equations as there are unknown columns are
// solved, at most MaxParity, so that nothing needs to be cached.
func (c *Coder) solve(s *solution, have uint32, filled uint16) error {
	columns := c.dataColumns() & uint32(filled)
	s.known = columns & have
	for u := columns &^ have; u != 0; u &= u - 1 {
		if s.n == MaxParity {
			return ErrTooFew
		}
		s.unknown[s.n] = Col(bits.TrailingZeros32(u))
		s.n++
	}
	spare := c.parity(have)
	if bits.OnesCount32(spare) < s.n {
		return ErrTooFew
	}
	for i := range s.n {
		p := Col(bits.TrailingZeros32(spare))
		spare &= spare - 1
		s.used |= 1 << p
		s.rows[i] = c.equation(p, columns)
	}
	for i := range s.n {
		// Never zero: all square parts of the generator can be inverted, so
		// elimination needs no exchange of rows.
		pivot := s.rows[i]
		c.scale(&s.rows[i], reedsolomon.Inv(pivot[s.unknown[i]]), pivot)
		for j := range s.n {
			if j != i {
				c.addTo(&s.rows[j], s.rows[j][s.unknown[i]], s.rows[i])
			}
		}
	}
	return nil
}

// row expresses column want through the columns that s takes.
func (c *Coder) row(s *solution, want Col) combination {
	if int(want) < c.geometry.K {
		for i := range s.n {
			if s.unknown[i] == want {
				r := s.rows[i]
				r[want] = 0
				return r
			}
		}
		if s.known&(1<<want) == 0 {
			return combination{} // not filled: zeros
		}
		var r combination
		r[want] = 1
		return r
	}
	columns := s.known
	for i := range s.n {
		columns |= 1 << s.unknown[i]
	}
	r := c.equation(want, columns)
	r[want] = 0
	for i := range s.n {
		c.addTo(&r, r[s.unknown[i]], s.rows[i])
	}
	return r
}

// equation is the generator's row of parity member p, over the given data
// columns: what it sums to, parity included, is zero.
func (c *Coder) equation(p Col, columns uint32) combination {
	var r combination
	for d := range c.geometry.K {
		if columns&(1<<d) != 0 {
			r[d] = generator[int(p)-c.geometry.K][d]
		}
	}
	r[p] = 1
	return r
}

func (c *Coder) scale(dst *combination, k byte, src combination) {
	c.gf.GalMulSlice(k, src[:], dst[:])
}

func (c *Coder) addTo(dst *combination, k byte, src combination) {
	c.gf.GalMulSliceXor(k, src[:], dst[:])
}

func (c *Coder) dataColumns() uint32 { return 1<<c.geometry.K - 1 }

// parity is the part of a member mask that is parity members of this geometry.
func (c *Coder) parity(members uint32) uint32 {
	return members & (1<<c.geometry.Members() - 1) &^ c.dataColumns()
}
