package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// doomed is how many rows wait to be erased.
func (v *Volume) doomed() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.log.Doomed()
}

func patient(c *Config) { c.SuspectAfter, c.HardDeadline = time.Minute, time.Minute }

// A client dies while one of two members has a write and the other does not. The
// next client drops it. It must not come back when the member that contradicted
// is gone.
func TestDroppedWriteStaysDropped(t *testing.T) {
	f := newFakeNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, 1, 200)
	r := rand.New(rand.NewPCG(1, 1))
	v := openTest(t, f, l, patient)
	want := randomBytes(r, 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.freeze("s1")
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(randomBytes(r, 8*raid.PageSize), 0)
		done <- err
	}()
	landed := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		h, err := raid.ParseHeader(f.servers["s0"].chunks[1].hdrs[(64+raid.ViewRows)*raid.HeaderSize:][:raid.HeaderSize])
		return err == nil && h.Kind == raid.KindPage
	}
	waitFor(t, landed)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := v.Close(ctx); err == nil {
		t.Fatal("the write has ended")
	}
	if err := <-done; err == nil {
		t.Fatal("the write was answered")
	}
	f.thaw("s1")
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l, patient)
	compareAll(t, v, want)
	waitFor(t, func() bool { return v.doomed() == 0 })
	if landed() {
		t.Error("the dropped row was not erased")
	}
	if n := v.Report().Counters["erased_rows"]; n != 8 {
		t.Errorf("%d rows were erased, not the 8 that were dropped", n)
	}
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	closeTest(t, v)
	f.kill("s1")
	l.Epoch++
	v = openTest(t, f, l, patient)
	compareAll(t, v, want)
	closeTest(t, v)
}

// Rows are written while a member is out, healed when it is back, and overwritten
// with all. Then as many others as the redundancy bears are gone: the dead rows
// must not keep the next client from opening the volume. A volume that was never
// degraded erases nothing.
func TestDeadDegradedRowsDoNotBarTheWay(t *testing.T) {
	f := newFakeNet(4)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 2}, 256, 1, 400)
	r := rand.New(rand.NewPCG(1, 1))
	v := openTest(t, f, l)
	want := make([]byte, 256*raid.PageSize)
	write := func() {
		t.Helper()
		copy(want, randomBytes(r, len(want)))
		for p := 0; p < len(want); p += 3 * raid.PageSize {
			if _, err := v.WriteAt(want[p:min(p+3*raid.PageSize, len(want))], int64(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	write()
	if n := v.Report().Counters["erased_rows"]; n != 0 {
		t.Errorf("%d rows were erased although nothing has failed", n)
	}
	f.down("s0", true)
	waitFor(t, func() bool { return len(v.Report().Suspect) == 1 })
	write()
	f.down("s0", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	write()
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	if n := v.Report().Counters["erased_rows"]; n == 0 {
		t.Error("nothing was erased")
	}
	closeTest(t, v)
	f.down("s2", true)
	f.down("s3", true)
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l)
	got := make([]byte, len(want))
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("wrong content (%v)", err)
	}
	closeTest(t, v)
}
