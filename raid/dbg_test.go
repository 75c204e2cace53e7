package raid

import "fmt"

func (s *sim) dump(p PageNo) string {
	out := ""
	for seq, op := range s.bySeq {
		for i, it := range op.items {
			if it.Page != p || it.Kind == ItemNotes {
				continue
			}
			c, idx := op.p.At(i)
			out += fmt.Sprintf("\nseq %x group %d row %d col %d move %v named %b settled %x N %d pages %d:", uint64(seq), op.p.Group, idx, c, it.Kind == ItemMove, op.p.Named, uint64(op.p.Settled), op.p.N, op.p.Pages)
			for k, m := range s.members[op.p.Group] {
				b := m.slots[idx].header
				d := "-"
				if b != nil {
					h, err := ParseHeader(b)
					d = fmt.Sprintf("%d/%x", h.Kind, uint64(h.Seq))
					if err != nil {
						d = "bad"
					}
				}
				out += fmt.Sprintf(" [%d up %v unsure %v fill %v lost %v %s]", k, m.up, m.unsure, m.filling, m.lost, d)
			}
		}
	}
	for g := range s.members {
		v := s.log.groups[g].view
		out += fmt.Sprintf("\ngroup %d view %b seq %x settled %x mark %x", g, v.members, uint64(v.seq), uint64(v.settled), uint64(s.log.groups[g].mark))
		for c, m := range s.members[g] {
			for i := range viewRows {
				if b := m.slots[i].header; b != nil {
					h, err := ParseHeader(b)
					out += fmt.Sprintf(" %d:%d:%d/%x/%b/%x/%v", c, i, h.Kind, uint64(h.Seq), h.Members, uint64(h.Settled), err)
				}
			}
		}
	}
	return out
}
