package metaclient

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dmps/client"
	"dmps/raid"
)

// TestReportsTravelWhole: nothing of a report is forgotten on its way to the
// metadata service and back. Times have milliseconds.
func TestReportsTravelWhole(t *testing.T) {
	members := rapid.Custom(func(t *rapid.T) client.RebuildMember {
		return client.RebuildMember{
			Group: raid.GroupID(rapid.Uint32().Draw(t, "group")), Column: raid.Col(rapid.Uint8().Draw(t, "column")),
			Server: raid.ServerID(rapid.String().Draw(t, "server")), Chunk: raid.ChunkID(rapid.Uint64().Draw(t, "chunk")),
			RowsLeft: rapid.Uint64().Draw(t, "left"), RowsTotal: rapid.Uint64().Draw(t, "total"), Filling: rapid.Bool().Draw(t, "filling"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		in := client.Report{
			State:          rapid.SampledFrom([]client.State{client.StateHealthy, client.StateDegraded, client.StateFailed}).Draw(t, "state"),
			DegradedGroups: 1, DegradedRows: 2, LostPages: 3, Unknown: 13, RedundancyLeft: rapid.IntRange(-1, 4).Draw(t, "left"),
			Suspect: []raid.ServerID{"s1"}, MappedPages: 4, FilledPages: 5, FreeRows: 6, RebuildRows: 7, Rebuilt: []raid.ChunkID{8},
			Counters: map[string]int64{"a": 1}, Refused: []client.RefusedMember{{Group: 9, Column: 1, Server: "s2", Chunk: 10}},
		}
		if in.State != client.StateFailed {
			in.State, in.Beside = client.StateFailed, in.State // pages are unknown
		}
		if rapid.Bool().Draw(t, "rebuild") {
			in.Rebuild = &client.RebuildReport{
				RowsLeft: rapid.Uint64().Draw(t, "rows left"), RowsTotal: 9, RowsAdded: 5, BytesPerSecond: rapid.Float64().Draw(t, "speed"), RemainingSeconds: -1,
				LimitBytes: rapid.Int64().Draw(t, "limit"), RateBytes: 11, HeldBack: rapid.Bool().Draw(t, "held"), Blocked: rapid.Bool().Draw(t, "blocked"), MembersLeft: 12,
				Members: rapid.SliceOfN(members, 0, 3).Draw(t, "members"),
			}
			if rapid.Bool().Draw(t, "risk") {
				in.Rebuild.AtRiskSince = time.UnixMilli(rapid.Int64Range(1, 1<<42).Draw(t, "since")).UTC()
			}
		}
		if d := cmp.Diff(&in, reportFrom(reportTo(&in))); d != "" {
			t.Fatal(d)
		}
	})
}
