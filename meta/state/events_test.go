package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dmps/raid"
)

// TestEventsOfManyVolumes: a lost server of many volumes writes some events, from its
// loss until all is rebuilt, and they add up; one of few volumes is told of volume by volume.
func TestEventsOfManyVolumes(t *testing.T) {
	for _, volumes := range []int{tellVolumes, 200} {
		s := cluster(t, 7, 8<<30, nil)
		for i := range volumes {
			v := create(t, s, CreateVolume{Name: fmt.Sprint("v", i), Pages: 1000, Geometry: raid.Geometry{K: 4, M: 2}, Seed: uint64(i)})
			must(t, s, &Command{Attach: &Attach{Name: v.Name, Holder: "h"}})
			must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: v.Epoch, Report: Report{State: Healthy}}})
		}
		id := slices.MaxFunc(s.SortedServers(), func(a, b *Server) int { return int(a.Chunks) - int(b.Chunks) }).ID
		before, held := s.LastEvent(), s.Servers[id].Chunks
		concerned := map[raid.VolumeID]bool{}
		for _, ref := range s.heldBy(id) {
			concerned[ref.Volume] = true
		}
		must(t, s, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}})
		must(t, s, &Command{RemoveServer: &RemoveServer{ID: id, Force: true}})
		for must(t, s, &Command{Heal: &Heal{Limit: 1024, Moves: 16}}).(Healed).Steps > 0 {
		}
		for _, v := range s.SortedVolumes() {
			r := &Rebuilt{Volume: v.ID, Epoch: v.Epoch, Known: v.Version}
			for _, g := range v.Groups {
				for _, m := range g.Members {
					if m.State == raid.MemberRebuilding {
						r.Chunks = append(r.Chunks, m.Chunk)
					}
				}
			}
			must(t, s, &Command{Rebuilt: r})
		}
		sums, most := map[string]uint64{}, map[string]uint64{}
		events, _ := s.EventsSince(before)
		for i, e := range events {
			sums[e.Kind] += e.Count
			most[e.Kind] = max(most[e.Kind], e.Volumes)
			if i > 0 && e.Seq <= events[i-1].Seq || s.Event(e.Seq) == nil {
				t.Errorf("event %d is out of place", e.Seq)
			}
			if strings.HasPrefix(e.Kind, "members-") && (e.Volume == "") != (strings.Contains(e.Text, "volumes")) {
				t.Errorf("%s of volume %q: %s", e.Kind, e.Volume, e.Text)
			}
		}
		for _, kind := range []string{EventMembersLost, EventMembersReplaced, EventMembersRebuilt} {
			if sums[kind] != held {
				t.Errorf("%d volumes: %d members are told of by %s, of %d", volumes, sums[kind], kind, held)
			}
		}
		many := len(concerned) > tellVolumes
		if many != (volumes > tellVolumes) || many && (most[EventMembersLost] != uint64(len(concerned)) || len(events) > 20) {
			t.Errorf("%d events of a server of %d volumes, the loss is of %d", len(events), len(concerned), most[EventMembersLost])
		}
	}
}
