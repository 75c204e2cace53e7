package ledger

import (
	"errors"
	"fmt"
)

// Single is a request of one block that changes it.
type Single uint8

// Kinds of a Single.
const (
	WriteBlock Single = iota // content of its own
	WriteZeros               // zeros, by a write
	TrimBlock
)

// Change carries out a request of one block and notes its outcome. Nobody else may
// change the block meanwhile. The error is the device's: the outcome is unknown.
func (l *Ledger) Change(dev Device, block int, kind Single) error {
	c := l.claim(block, 1, kind != WriteBlock)
	if len(c.versions) == 0 {
		return fmt.Errorf("block %d is being changed by somebody else", block)
	}
	var p [BlockSize]byte
	var err error
	switch kind {
	case TrimBlock:
		err = dev.Trim(int64(block)*BlockSize, BlockSize)
	case WriteBlock:
		l.fill(c, p[:])
		fallthrough
	case WriteZeros:
		_, err = dev.WriteAt(p[:], int64(block)*BlockSize)
	}
	l.done(c, err == nil)
	return err
}

// Read reads one block. wrong is what is amiss with the content; older reports that
// it is what the block held before, not something that was never written there.
// err is the device's.
func (l *Ledger) Read(dev Device, block int) (wrong error, older bool, err error) {
	var floors [1]version
	l.floors(block, floors[:])
	var p [BlockSize]byte
	if _, err := dev.ReadAt(p[:], int64(block)*BlockSize); err != nil {
		return nil, false, err
	}
	wrong = l.judge(block, floors[:], p[:])
	return wrong, errors.Is(wrong, errOlder), nil
}
