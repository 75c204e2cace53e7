package history

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// op builders: times are in ms.
func w(call, ret int, v Value) Op {
	return Op{Kind: OpWrite, Value: v, Call: ms(call), Return: ms(ret)}
}
func r(call, ret int, v Value) Op {
	return Op{Kind: OpRead, Value: v, Call: ms(call), Return: ms(ret)}
}
func trim(call, ret int) Op {
	return Op{Kind: OpTrim, Value: Zeros, Call: ms(call), Return: ms(ret)}
}
func lost(o Op) Op   { o.Outcome = Unknown; return o }
func failed(o Op) Op { o.Outcome = Failed; return o }
func ms(n int) time.Duration {
	return time.Duration(n) * time.Millisecond
}

const a, b, c = Value(1<<48 | 1), Value(1<<48 | 2), Value(2<<48 | 1)

func check(t testing.TB, ops []Op) Result {
	t.Helper()
	res, err := Check(context.Background(), ops, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestKnownHistories(t *testing.T) {
	for name, k := range map[string]struct {
		ops  []Op
		want string // "": linearizable
	}{
		"nothing":                                   {nil, ""},
		"zeros first":                               {[]Op{r(0, 1, Zeros)}, ""},
		"write, read":                               {[]Op{w(0, 1, a), r(2, 3, a)}, ""},
		"old or new while written":                  {[]Op{w(0, 1, a), w(2, 9, b), r(3, 4, a), r(5, 6, b)}, ""},
		"new, then old again":                       {[]Op{w(0, 1, a), w(2, 9, b), r(3, 4, b), r(5, 6, a)}, "no order"},
		"stale read":                                {[]Op{w(0, 1, a), w(2, 3, b), r(4, 5, a)}, "overwritten by w1.2"},
		"lost write":                                {[]Op{w(0, 1, a), r(2, 3, Zeros)}, "no order"},
		"never written":                             {[]Op{w(0, 1, a), r(2, 3, c)}, "nobody wrote"},
		"before it was written":                     {[]Op{r(0, 1, a), w(2, 3, a)}, "only after"},
		"trimmed":                                   {[]Op{w(0, 1, a), trim(2, 3), r(4, 5, Zeros)}, ""},
		"back after a trim":                         {[]Op{w(0, 1, a), trim(2, 3), r(4, 5, a)}, "overwritten by zeros"},
		"zeros of a trim to come":                   {[]Op{w(0, 1, a), r(2, 3, Zeros), trim(4, 5)}, "no order"},
		"failed write seen":                         {[]Op{w(0, 1, a), failed(w(2, 3, b)), r(4, 5, b)}, ""},
		"failed write not seen":                     {[]Op{w(0, 1, a), failed(w(2, 3, b)), r(4, 5, a)}, ""},
		"unknown write late":                        {[]Op{w(0, 1, a), lost(w(2, 3, b)), r(4, 5, a), r(6, 7, b)}, ""},
		"unknown write, late, undone":               {[]Op{w(0, 1, a), lost(w(2, 3, b)), r(4, 5, b), r(6, 7, a)}, "no order"},
		"unknown over a newer one":                  {[]Op{lost(w(0, 1, a)), w(2, 3, b), r(4, 5, b), r(6, 7, a), r(8, 9, a)}, ""},
		"unknown seen, then overwritten, then back": {[]Op{lost(w(0, 1, a)), r(2, 3, a), w(4, 5, b), r(6, 7, a)}, "overwritten by w1.2"},
		"unknown seen before it was called":         {[]Op{r(0, 1, a), lost(w(2, 3, a))}, "only after"},
		"unknown trim late":                         {[]Op{w(0, 1, a), lost(trim(2, 3)), r(4, 5, a), r(6, 7, Zeros)}, ""},
		"unknown trim once only":                    {[]Op{w(0, 1, a), lost(trim(2, 3)), r(4, 5, Zeros), w(6, 7, b), r(8, 9, b), r(10, 11, Zeros)}, "no order"},
		"resurrected":                               {[]Op{w(0, 1, a), w(2, 3, b), r(4, 5, b), r(6, 7, a)}, "overwritten by w1.2"},
		"failed read says nothing":                  {[]Op{w(0, 1, a), failed(r(2, 3, c)), lost(r(2, 3, Zeros))}, ""},
		"two writers":                               {[]Op{w(0, 5, a), w(0, 5, c), r(6, 7, a), r(8, 9, a)}, ""},
		"two writers, both last":                    {[]Op{w(0, 5, a), w(0, 5, c), r(6, 7, a), r(8, 9, c)}, "no order"},
	} {
		t.Run(name, func(t *testing.T) {
			res := check(t, k.ops)
			err := res.Err()
			if (err == nil) != (k.want == "") || err != nil && !strings.Contains(err.Error(), k.want) {
				t.Errorf("got %v, want %q", err, k.want)
			}
			for _, v := range res.Violations {
				if !slices.Contains(v.Around, v.Read) {
					t.Errorf("the read is not among what is shown: %v", v)
				}
			}
		})
	}
}

// TestPagesAreApart: the same ops on different pages are no history of one.
func TestPagesAreApart(t *testing.T) {
	stale := []Op{w(0, 1, a), w(2, 3, b), r(4, 5, a)}
	for i := range stale {
		stale[i].Page = 9
	}
	res := check(t, slices.Concat(stale, []Op{w(0, 1, c), r(2, 3, c)}))
	if res.Pages != 2 || len(res.Violations) != 1 || res.Violations[0].Page != 9 {
		t.Errorf("%+v", res)
	}
}

// TestMinimal: of a long history little is shown.
func TestMinimal(t *testing.T) {
	var ops []Op
	for i := range 500 {
		v := NewValue(3, uint64(i+1))
		ops = append(ops, w(10*i, 10*i+3, v), r(10*i+4, 10*i+5, v))
	}
	last := NewValue(3, 500)
	ops = append(ops, w(6000, 7000, a), r(6100, 6101, a), r(6200, 6201, last))
	res := check(t, ops)
	if len(res.Violations) != 1 {
		t.Fatalf("%+v", res)
	}
	v := res.Violations[0]
	if v.Read != ops[len(ops)-1] || len(v.Around) > 6 {
		t.Errorf("%d ops are shown: %v", len(v.Around), v)
	}
}

// simulate makes a history that is linearizable: each op takes effect at a time
// of its own between call and return, which are some 400 from each other. apart
// is between the ops; two of lose have no known outcome.
func simulate(rng *rand.Rand, n, apart, lose int) []Op {
	type ev struct {
		at time.Duration
		i  int
	}
	ops := make([]Op, n)
	var evs []ev
	for i := range ops {
		at := time.Duration(rng.IntN(n * apart))
		ops[i] = Op{Kind: Kind(rng.IntN(3)), Client: uint16(i % 7), Call: at - time.Duration(rng.IntN(400)), Return: at + time.Duration(rng.IntN(400))}
		if ops[i].Kind == OpWrite {
			ops[i].Value = NewValue(1, uint64(i+1))
		}
		switch rng.IntN(lose) {
		case 0:
			ops[i].Outcome = Unknown // and has no effect
			ops[i].Return = at
			continue
		case 1: // has one, late, or none in time
			ops[i].Outcome, ops[i].Return = Unknown, ops[i].Call+1
			at += time.Duration(rng.IntN(5000))
		}
		evs = append(evs, ev{at, i})
	}
	slices.SortFunc(evs, func(a, b ev) int { return int(a.at - b.at) })
	state := Zeros
	for _, e := range evs {
		if op := &ops[e.i]; op.Changes() {
			state = op.Value
		} else {
			op.Value = state
		}
	}
	return ops
}

// TestGoodHistoriesPass, and the same with one read bent pass or not as a
// search without the shortcuts says.
func TestGoodHistoriesPass(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		ops := simulate(rng, rapid.IntRange(1, 20).Draw(rt, "n"), rapid.SampledFrom([]int{30, 100, 500}).Draw(rt, "apart"), 12)
		if err := check(t, ops).Err(); err != nil {
			rt.Fatal(err)
		}
		bent := slices.Clone(ops)
		i := rng.IntN(len(bent))
		if bent[i].Kind != OpRead || bent[i].Outcome != OK {
			return
		}
		bent[i].Value = bent[rng.IntN(len(bent))].Value
		err := check(t, bent).Err()
		if plain := plainly(bent); (err == nil) != plain {
			rt.Fatalf("the check says %v, a plain search %v:\n%v", err, plain, bent)
		}
	})
}

// plainly is the check without settle and quick: changes of unknown outcome may
// take effect at any time to the end.
func plainly(ops []Op) bool {
	var h []Op
	for _, op := range ops {
		if op.Outcome != OK {
			if op.Kind == OpRead {
				continue
			}
			op.Return = never
		}
		h = append(h, op)
	}
	return search(Zeros, h, 0) == "Ok"
}

func TestPageContent(t *testing.T) {
	p := make([]byte, PageSize)
	v := NewValue(7, 99)
	if got, err := Read(p, 1, 5); err != nil || got != Zeros {
		t.Fatalf("zeros: %v, %v", got, err)
	}
	Fill(p, 1, 5, v)
	if got, err := Read(p, 1, 5); err != nil || got != v {
		t.Fatalf("%v, %v", got, err)
	}
	for _, c := range []struct {
		run  uint64
		page uint32
		want string
	}{{2, 5, "another run"}, {1, 6, "page 5, w7.99"}} {
		if _, err := Read(p, c.run, c.page); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v", err)
		}
	}
	// Any byte that is changed is seen, as are halves of two writes.
	for i := range p {
		p[i] ^= 1
		if got, err := Read(p, 1, 5); err == nil && got == v {
			t.Fatalf("byte %d may be anything", i)
		}
		p[i] ^= 1
	}
	q := make([]byte, PageSize)
	Fill(q, 1, 5, NewValue(7, 100))
	copy(p[2048:], q[2048:])
	if _, err := Read(p, 1, 5); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "from byte 2048") {
		t.Error(err)
	}
	clear(p)
	p[4000] = 1
	if _, err := Read(p, 1, 5); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	ops := simulate(rand.New(rand.NewPCG(1, 1)), 100, 100, 12)
	var buf bytes.Buffer
	if err := Write(&buf, ops); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	got, err := ReadFile(bytes.NewReader(whole))
	if err != nil || !cmp.Equal(got, ops) {
		t.Errorf("%v: %s", err, cmp.Diff(got, ops))
	}
	for _, bad := range [][]byte{nil, []byte("dmpshisx"), whole[:len(whole)-1]} {
		if _, err := ReadFile(bytes.NewReader(bad)); err == nil {
			t.Errorf("%d bytes were read", len(bad))
		}
	}
	whole[len(fileMagic)+6] = 9
	if _, err := ReadFile(bytes.NewReader(whole)); err == nil {
		t.Error("kind 9 was read")
	}
}

// BenchmarkCheck: a page that is busy half of the time, for half an hour.
func BenchmarkCheck(b *testing.B) {
	ops := simulate(rand.New(rand.NewPCG(1, 1)), 20000, 1000, 500)
	b.ReportAllocs()
	for b.Loop() {
		if err := check(b, ops).Err(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(ops))*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
