package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dmps/client"
)

// What is asked for, UBLK_IO_OP_*, and how, UBLK_IO_F_*.
const (
	opRead        = 0
	opWrite       = 1
	opFlush       = 2
	opDiscard     = 3
	opWriteZeroes = 5

	flagFUA = 1 << 13
)

// ioDesc is struct ublksrv_io_desc: one request of the block layer.
type ioDesc struct {
	opFlags uint32 // op in the lowest byte
	sectors uint32
	sector  uint64 // where it starts
}

// parseDesc decodes a descriptor. b has ioDescSize bytes.
func parseDesc(b []byte) ioDesc {
	_ = b[ioDescSize-1]
	ne := binary.NativeEndian
	return ioDesc{ne.Uint32(b), ne.Uint32(b[4:]), ne.Uint64(b[8:])}
}

// Requests that are refused. The block layer keeps to the limits of the device,
// so that either means a bug on one side.
var (
	errUnknownOp = errors.New("unknown request") // EOPNOTSUPP
	errOutside   = errors.New("outside")         // EINVAL
)

// fill makes an Op of the descriptor, for a device of that size whose requests
// carry at most maxIO bytes. Buffers, Done and User stay as they are.
func (d *ioDesc) fill(op *client.Op, size, maxIO int64) error {
	op.FUA, op.Err = d.opFlags&flagFUA != 0, nil
	op.Off, op.Len = 0, 0
	most := int64(maxDiscard)
	switch d.opFlags & 0xff {
	case opRead:
		op.Kind, most = client.OpRead, maxIO
	case opWrite:
		op.Kind, most = client.OpWrite, maxIO
	case opDiscard:
		op.Kind = client.OpTrim
	case opWriteZeroes:
		op.Kind = client.OpZero
	case opFlush:
		op.Kind = client.OpFlush // of everything: the range means nothing
		return nil
	default:
		return fmt.Errorf("%w %d", errUnknownOp, d.opFlags&0xff)
	}
	n := int64(d.sectors) << sectorSh
	if n == 0 || n > most || d.sector > uint64(size)>>sectorSh || n > size-int64(d.sector)<<sectorSh {
		return fmt.Errorf("%d sectors at %d of a device of %d bytes: %w", d.sectors, d.sector, size, errOutside)
	}
	op.Off, op.Len = int64(d.sector)<<sectorSh, n
	return nil
}

// maxDiscard bounds a discard and a zeroing, bytes, as client.MaxOpPages bounds
// what carries data.
const maxDiscard = 32 << 20

// pagesOf is the number of pages that an op touches.
func pagesOf(op *client.Op) int {
	return int((op.Off%pageSize + op.Len + pageSize - 1) / pageSize)
}
