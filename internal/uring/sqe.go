package uring

import "unsafe"

// Opcodes of IORING_OP_*.
const (
	OpPollAdd  = 6
	OpURingCmd = 46
)

// PollMulti in SQE.Len of OpPollAdd keeps the poll armed after a completion
// (IORING_POLL_ADD_MULTI). It is over with the completion that lacks More.
const PollMulti = 1 << 0

// SQE is one submission, struct io_uring_sqe in the form in which OpURingCmd
// and OpPollAdd use it. The kernel has read all of it when Enter returns.
type SQE struct {
	Opcode   uint8
	Flags    uint8
	IOPrio   uint16
	FD       int32
	CmdOp    uint32 // what the driver shall do (OpURingCmd)
	_        uint32
	Addr     uint64
	Len      uint32
	OpFlags  uint32 // events to poll for (OpPollAdd)
	UserData uint64 // comes back in the CQE
	_        [2]uint16
	_        uint32
	cmd      [16]byte // first bytes of what the driver gets
}

// Sizes of an entry, bytes.
const (
	sqeSize    = 64
	sqe128Size = 128
	cqeSize    = 16
	cmdAt      = 48 // offset of cmd
)

// The kernel's layout is this package's: a constant that overflows does not compile.
const (
	_ = uint(unsafe.Sizeof(SQE{}) - sqeSize)
	_ = uint(sqeSize - unsafe.Sizeof(SQE{}))
	_ = uint(unsafe.Offsetof(SQE{}.cmd) - cmdAt)
	_ = uint(cmdAt - unsafe.Offsetof(SQE{}.cmd))
	_ = uint(unsafe.Sizeof(CQE{}) - cqeSize)
	_ = uint(cqeSize - unsafe.Sizeof(CQE{}))
)

// CQE is one completion, struct io_uring_cqe.
type CQE struct {
	UserData uint64
	Res      int32 // result; below zero an errno
	Flags    uint32
}

// More reports whether the submission will have further completions
// (IORING_CQE_F_MORE).
func (c CQE) More() bool { return c.Flags&(1<<1) != 0 }
