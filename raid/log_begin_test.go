package raid

// begin settles a log whose members are up, and opens it: each record of a view
// arrives at everybody.
func begin(l *Log) *Log {
	views(l)
	l.Begin()
	return l
}

func views(l *Log) {
	for v := (View{}); l.TakeView(&v); {
		l.Installed(&v, v.To, v.Second)
	}
}

// site makes h a header of row i of the first group.
func site(h Header, i Index) Header {
	h.Site.Index = i
	return h
}
