package raid

import (
	"errors"
	"fmt"
)

// InPlace is a stateless translator: every page has one place for ever, which
// is computed, not remembered, and written over. It has no redundancy and
// needs no map; it is the baseline that the log is measured against.
//
// Locate and Page are each other's inverse. Implementations are immutable,
// allocate nothing, and may be used by several goroutines at once.
type InPlace interface {
	// Locate is the chunk, by its group, and the place in it of page p. A page
	// that the volume does not have panics: any answer would be a place that
	// belongs to another page.
	Locate(p PageNo) (GroupID, Index)
	// Page is the page at a place, or false when the volume has none there.
	Page(g GroupID, i Index) (PageNo, bool)
}

// NewInPlace makes the translator of a linear or striped layout. It does not
// keep l.
func NewInPlace(l *Layout) (InPlace, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("layout of volume %d: %w", l.Volume, err)
	}
	switch l.Kind {
	case LayoutLinear:
		sizes := make([]uint32, len(l.Groups))
		for i := range sizes {
			sizes[i] = l.ChunkSlots
		}
		return NewLinear(l.Pages, sizes)
	case LayoutStriped:
		return NewStriped(l.Pages, len(l.Groups), l.ChunkSlots)
	}
	return nil, fmt.Errorf("layout %v is not in place", l.Kind)
}

// errTooSmall is for the constructors; Layout.Validate finds it first.
var errTooSmall = errors.New("the chunks are smaller than the volume")

func noSuchPage(p PageNo, pages uint64) string {
	return fmt.Sprintf("raid: page %d of a volume of %d", p, pages)
}
