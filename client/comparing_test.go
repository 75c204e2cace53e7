package client

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"dmps/raid"
)

// A server has a member that is being rebuilt, and one of another group that has everything.
// When the volume is opened it is compared with the map first. The other group does not begin
// without it: that would leave as few members in its view as can be.
func TestViewsWaitForComparisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSlowNet(4)
		g := raid.Geometry{K: 2, M: 2}
		l := f.layout(raid.LayoutLog, g, 64, 2, 64)
		v := openTest(t, f, l)
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize), 0); err != nil {
			t.Fatal(err)
		}
		closeTest(t, v)
		again := *l
		again.Epoch, again.FirstEpoch = 2, false
		again.Groups[0].Members[3].State = raid.MemberRebuilding
		v = openTest(t, f, &again)
		defer closeTest(t, v)
		v.mu.Lock()
		view := v.mu.log.Witnesses(1).View
		v.mu.Unlock()
		if view != 1<<g.Members()-1 {
			t.Errorf("group 1 begins with the view %b", view)
		}
	})
}

// A server has a session that the recovery did not see: the views wait for no comparison that
// nobody begins.
func TestViewsWaitForNoOtherSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSlowNet(3)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 64))
		defer closeTest(t, v)
		p := v.allPeers()[0]
		before := p.conn()
		f.cut("s0")
		waitFor(t, func() bool { c := p.conn(); return c != nil && c != before })
		v.compareAnew(p, before)
		v.mu.Lock()
		waits := v.comparingLocked()
		v.mu.Unlock()
		if waits || p.conn() == nil {
			t.Errorf("the views wait: %v, a session: %v", waits, p.conn() != nil)
		}
	})
}
