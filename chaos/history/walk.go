package history

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// The search of porcupine is over all orders of a history, and slow when that is
// long. A page rests now and then: nobody waits for an answer. What comes before
// such a moment is before all that comes after, so the history is walked from one
// to the next, carrying along which values the page may have by then.
//
// Trims of unknown outcome never rest. They are all alike, so it is enough to know
// how many of them were needed so far for the page to have a value.

// states are what a page may hold, each with the fewest open trims used for it.
type states map[Value]int

func (s states) put(v Value, used int) {
	if n, ok := s[v]; !ok || used < n {
		s[v] = used
	}
}

// walk judges the settled ops of one page.
func walk(ops []Op, limit time.Duration) (v *Violation, decided bool) {
	deadline := time.Now().Add(limit)
	now := states{Zeros: 0}
	var open []Op // trims that never returned, in order of call
	for len(ops) > 0 {
		var part []Op
		part, ops = rest(ops)
		var ended []Op
		for _, op := range part {
			if op.Return == never {
				open = append(open, op)
			} else {
				ended = append(ended, op)
			}
		}
		if len(ended) == 0 {
			continue
		}
		next, known := step(now, ended, open, deadline)
		if !known {
			return nil, false
		}
		if len(next) == 0 {
			return minimal(now, ended, open, deadline), true
		}
		now = next
	}
	return nil, true
}

// rest cuts off the ops up to the first moment at which none is under way, open
// trims aside. ops are in order of call.
func rest(ops []Op) (part, after []Op) {
	busy := time.Duration(-1) << 62
	for i, op := range ops {
		if i > 0 && op.Call > busy {
			return ops[:i], ops[i:]
		}
		if op.Return != never {
			busy = max(busy, op.Return)
		}
	}
	return ops, nil
}

// step gives what a page may hold after ops, all of which have ended; not known
// if there is no time left. None: no order of them fits.
func step(now states, ops, open []Op, deadline time.Time) (next states, known bool) {
	next = states{}
	if len(ops) == 1 && (len(open) == 0 || ops[0].Changes()) { // most often
		op := ops[0]
		for v, used := range now {
			if op.Changes() {
				next.put(op.Value, used)
			} else if op.Value == v {
				next.put(v, used)
			}
		}
		if len(open) == 0 || !op.Changes() {
			return next, true
		}
	}
	from, to := ops[0].Call, ops[0].Return
	zeros := 1 // reads of zeros, and the end
	for _, op := range ops {
		from, to = min(from, op.Call), max(to, op.Return)
		if !op.Changes() && op.Value == Zeros {
			zeros++
		}
	}
	for v, used := range now {
		for _, end := range ends(v, ops, len(open) > used) {
			for more := 0; more <= min(zeros, len(open)-used); more++ {
				h := slices.Clone(ops)
				for _, t := range open[:more] { // those that came first may be anywhere later ones may
					t.Call, t.Return = max(t.Call, from-1), to
					h = append(h, t)
				}
				h = append(h, Op{Kind: OpRead, Value: end, Call: to + 1, Return: to + 2})
				left := time.Until(deadline)
				if left <= 0 {
					return nil, false
				}
				switch search(v, h, left) {
				case porcupine.Ok:
					next.put(end, used+more)
				case porcupine.Unknown:
					return nil, false
				default:
					continue
				}
				break
			}
		}
	}
	return next, true
}

// ends are the values that a page that held v may hold after ops: of changes
// that no other one certainly followed.
func ends(v Value, ops []Op, trims bool) []Value {
	last := time.Duration(-1) << 62 // the latest call of a change
	for _, op := range ops {
		if op.Changes() {
			last = max(last, op.Call)
		}
	}
	var all []Value
	add := func(v Value) {
		if !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	some := false
	for _, op := range ops {
		if op.Changes() {
			some = true
			if op.Return >= last {
				add(op.Value)
			}
		}
	}
	if !some {
		add(v)
	}
	if trims {
		add(Zeros)
	}
	return all
}

// search looks for an order of ops on a page that holds v at first.
func search(v Value, ops []Op, limit time.Duration) porcupine.CheckResult {
	register := porcupine.Model{
		Init: func() any { return v },
		Step: func(state, input, output any) (bool, any) {
			op := input.(Op)
			if op.Changes() {
				return true, op.Value
			}
			return op.Value == state.(Value), state
		},
	}
	history := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		history[i] = porcupine.Operation{ClientId: int(op.Client), Input: op, Call: int64(op.Call), Return: int64(op.Return)}
	}
	return porcupine.CheckOperationsTimeout(register, history, limit)
}
