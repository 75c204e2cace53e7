package raid

import "fmt"

// PageSize is the unit of the device in bytes: the paper's sector, and the
// page of the machines that swap to it.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
)

// MaxBatchPages is the most pages that go to one member in one transfer:
// 32 pages of 4 KiB are the paper's 128 KiB.
const MaxBatchPages = 32

// Limits of a geometry. They bound the header of a parity slot (HeaderSize)
// and the width of the member masks, which are uint32.
const (
	MaxData   = 16 // K
	MaxParity = 4  // M
)

// A type per unit, so that no two of them can be mixed up without a
// conversion that somebody has to write down.
type (
	// PageNo is a page of a volume, from 0.
	PageNo uint64
	// GroupID is the index of a group in its volume's layout, from 0.
	GroupID uint32
	// RowID is a row of a volume: group * rows per group + row in group.
	RowID uint32
	// Slot is a data slot of a volume: row * K + column.
	Slot uint32
	// Index is a page-sized place inside one chunk, which is also the row
	// inside the chunk's group.
	Index uint32
	// Col is the place of a member in its group: 0..K-1 hold data, K..K+M-1
	// hold parity.
	Col uint8
	// Epoch numbers the leases on a volume; it only grows. Servers refuse
	// requests of an older one. What changes without a new lease is the
	// Version of the Layout.
	// A sequence number carries MaxEpoch at most.
	Epoch uint64
	// Seq numbers the batches of a volume's page-outs; it only grows. Of two
	// slots that hold the same page the one with the higher Seq is newer.
	Seq uint64
)

// MaxEpoch is the last epoch of a volume: sequence numbers carry 24 bits of it.
// No lease is given beyond it.
const MaxEpoch = Epoch(1<<24 - 1)

// Layout kinds.
type LayoutKind uint8

const (
	// LayoutLog writes rows once, with K data and M parity members.
	LayoutLog LayoutKind = iota
	// LayoutLinear is the paper's equation (1): servers one after another,
	// pages overwritten in place, no redundancy.
	LayoutLinear
	// LayoutStriped deals pages in place to all servers in turn, no redundancy.
	LayoutStriped
)

var layoutNames = [...]string{"log", "linear", "striped"}

func (k LayoutKind) String() string {
	if int(k) < len(layoutNames) {
		return layoutNames[k]
	}
	return fmt.Sprintf("layout(%d)", uint8(k))
}

// ParseLayoutKind is the inverse of String.
func ParseLayoutKind(s string) (LayoutKind, error) {
	for i, n := range layoutNames {
		if s == n {
			return LayoutKind(i), nil
		}
	}
	return 0, fmt.Errorf("unknown layout %q: use log, linear or striped", s)
}
