package server

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// What is verified counts for both rates, as what is pulled does.
func TestVerifyRate(t *testing.T) {
	const own = transport.MaxRebuildRows * (raid.PageSize + raid.HeaderSize)
	const pulled = transport.MaxRebuildRows * raid.HeaderSize // a mirror's headers
	for _, c := range []struct {
		server, request int64
		sources         bool
		want            int64 // bytes a second
	}{
		{1 << 20, 0, true, 1 << 20},
		{0, 1 << 20, true, 1 << 20},
		{0, 1 << 20, false, 1 << 20},
		{2 << 20, 500 << 10, false, 500 << 10},
	} {
		t.Run(fmt.Sprintf("server=%d,request=%d,sources=%v", c.server, c.request, c.sources), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(t, Config{RebuildRate: c.server})
				m.rebuild(t, 1)
				before := m.servers[2].Stats()
				m.spec.Verify, m.spec.RateBytes = true, c.request
				bytes := int64(own + pulled)
				if !c.sources {
					bytes = own
					m.spec.Sources, m.spec.Rows = nil, slices.Clone(m.spec.Rows)
					for i := range m.spec.Rows {
						m.spec.Rows[i].Have = 0
					}
				}
				took := m.rebuild(t, 1).Seconds()
				if rate := float64(bytes) / took; rate < 0.9*float64(c.want) || rate > 1.1*float64(c.want) {
					t.Errorf("%.0f bytes a second, not %d", rate, c.want)
				}
				st := m.servers[2].Stats()
				if st.SlotsVerified != transport.MaxRebuildRows || st.BytesVerified != own || st.SlotsBad != 0 ||
					int64(st.BytesPulled-before.BytesPulled) != bytes-own || st.RowsRebuilt != before.RowsRebuilt || st.RebuildFailed != 0 {
					t.Errorf("%+v after %+v", st, before)
				}
			})
		})
	}
}

// What is wrong is counted by the server that holds it.
func TestVerifyCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, Config{})
		m.rebuild(t, 1)
		m.spec.Verify = true
		m.servers[2].damage(2, 5, false)
		m.servers[2].damage(2, 6, true)
		m.servers[0].damage(0, 9, true)
		m.hosts[1].Delay(time.Millisecond)
		res, err := m.target.Rebuild(t.Context(), &m.spec)
		want := []transport.RebuildFailure{
			{Row: 5, Reason: transport.RebuildChecksum, Col: 2},
			{Row: 6, Reason: transport.RebuildHeader, Col: 2},
			{Row: 9, Reason: transport.RebuildHeader, Col: 0},
		}
		if err != nil || !slices.Equal(res.Failed, want) {
			t.Fatal(res.Failed, err)
		}
		if st := m.servers[2].Stats(); st.SlotsBad != 2 || st.SlotsVerified != transport.MaxRebuildRows || st.RebuildFailed != 0 {
			t.Errorf("%+v", st)
		}
	})
}
