package metaclient

// Host is the machine that a Client runs on. It goes with registrations and leases, so
// that two machines of one name, or a machine and its clone, are told apart.
type Host struct {
	Machine string // the same for each boot; empty: unknown
	Boot    string // new with each boot; empty: unknown
	Folder  string // of a memory server: the key of its state folder, which no two living processes have; empty: it has none
}

// WithHost says which machine this is.
func WithHost(h Host) Option { return func(c *Client) { c.host = h } }
