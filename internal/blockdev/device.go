package blockdev

// Device is a block device that the kernel has for a volume. It is served, or
// its requests wait for the next client.
type Device struct {
	Path  string
	Kind  string // "nbd" or "ublk"
	Owner uint64 // the same for all devices of one volume, of whatever kind; 0: it is no volume's
}
