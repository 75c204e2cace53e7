package paper

import "dmps/chaos/figures"

// PathRow is direct I/O on a volume whose servers are reached over one or two
// links of limited rate.
type PathRow struct {
	Layout string     `json:"layout"` // of the volume, and over how many links
	Links  int        `json:"links"`
	Rate   int64      `json:"rate"` // bytes a second that a link carries, each way
	Op     string     `json:"op"`
	Sent   []LinkLoad `json:"sent"` // what each link carried while this was measured
	figures.Moved
}

// LinkLoad are the bytes that a link carried, headers included.
type LinkLoad struct {
	Out int64 `json:"out"` // to the servers
	In  int64 `json:"in"`  // from them
}
