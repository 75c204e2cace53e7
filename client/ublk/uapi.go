package ublk

import (
	"encoding/binary"
	"fmt"
)

// What include/uapi/linux/ublk_cmd.h defines. Its structs are encoded and
// decoded here, in the byte order of the machine.

// Features of a driver and of a device, UBLK_F_*.
const (
	featRecovery        = 1 << 3  // the device outlives its server
	featRecoveryReissue = 1 << 4  // what the server had not answered is asked again
	featIoctlEncode     = 1 << 6  // commands are numbered as ioctls
	featUserCopy        = 1 << 7  // data is fetched with pread and pwrite
	featRecoveryFailIO  = 1 << 9  // without a server everything fails at once
	featNoPartScan      = 1 << 18 // nobody looks for partitions: Linux 7.0
)

// wanted is what a device must have to be served by this package, and unwanted
// what it must not have: pages of a swap device that fail while the client is
// started again are lost processes.
const (
	wanted   = featRecovery | featRecoveryReissue | featIoctlEncode | featUserCopy
	unwanted = featRecoveryFailIO
)

// State of a device, UBLK_S_DEV_*.
type devState uint16

const (
	stateDead     devState = 0 // not started, or stopped
	stateLive     devState = 1
	stateQuiesced devState = 2 // its server is gone, requests wait
	stateFailIO   devState = 3 // its server is gone, requests fail
)

func (s devState) String() string {
	switch s {
	case stateDead:
		return "dead"
	case stateLive:
		return "live"
	case stateQuiesced:
		return "quiesced"
	case stateFailIO:
		return "failing"
	}
	return fmt.Sprintf("state %d", uint16(s))
}

// Numbers of commands: _IOWR('u', nr, struct ublksrv_ctrl_cmd) and so on, as
// in include/uapi/asm-generic/ioctl.h.
const (
	ioRead, ioWrite = 2 << 30, 1 << 30

	ctrlR  = ioRead | ctrlCmdSize<<16 | 'u'<<8
	ctrlWR = ioWrite | ctrlR
	ioWR   = ioRead | ioWrite | ioCmdSize<<16 | 'u'<<8

	cmdGetDevInfo    = ctrlR | 0x02
	cmdAddDev        = ctrlWR | 0x04
	cmdDelDev        = ctrlWR | 0x05
	cmdStartDev      = ctrlWR | 0x06
	cmdStopDev       = ctrlWR | 0x07
	cmdSetParams     = ctrlWR | 0x08
	cmdGetParams     = ctrlR | 0x09
	cmdStartRecovery = ctrlWR | 0x10
	cmdEndRecovery   = ctrlWR | 0x11
	cmdGetFeatures   = ctrlR | 0x13

	cmdFetch  = ioWR | 0x20
	cmdCommit = ioWR | 0x21 // and fetch the next request
)

// Sizes of the structs, bytes.
const (
	ctrlCmdSize = 32
	devInfoSize = 64
	ioCmdSize   = 16
	ioDescSize  = 24
	paramsSize  = 60 // up to and with the limits of discards
)

// maxDepth is UBLK_MAX_QUEUE_DEPTH; the descriptors of each queue are mapped at
// a multiple of the size that so many have.
const maxDepth = 4096

const (
	anyID    = ^uint32(0) // let the driver choose
	noQueue  = ^uint16(0) // the command is not about a queue
	sectorSh = 9          // sectors are of 512 bytes
)

// ctrlCmd is struct ublksrv_ctrl_cmd. Its path of the character device is for
// devices of unprivileged users, which cannot have what wanted says.
type ctrlCmd struct {
	dev   uint32
	queue uint16
	len   uint16 // of what addr points to
	addr  uint64
	data  uint64
}

func (c *ctrlCmd) put(b []byte) {
	clear(b)
	ne := binary.NativeEndian
	ne.PutUint32(b, c.dev)
	ne.PutUint16(b[4:], c.queue)
	ne.PutUint16(b[6:], c.len)
	ne.PutUint64(b[8:], c.addr)
	ne.PutUint64(b[16:], c.data)
}

// devInfo is struct ublksrv_ctrl_dev_info.
type devInfo struct {
	queues uint16
	depth  uint16
	state  devState
	maxIO  uint32 // bytes of a request
	id     uint32
	pid    int32  // of the server
	flags  uint64 // UBLK_F_*
	tag    uint64 // ublksrv_flags: the driver keeps it for us. See Tag
}

func (i *devInfo) put(b []byte) {
	clear(b[:devInfoSize])
	ne := binary.NativeEndian
	ne.PutUint16(b, i.queues)
	ne.PutUint16(b[2:], i.depth)
	ne.PutUint16(b[4:], uint16(i.state))
	ne.PutUint32(b[8:], i.maxIO)
	ne.PutUint32(b[12:], i.id)
	ne.PutUint32(b[16:], uint32(i.pid))
	ne.PutUint64(b[24:], i.flags)
	ne.PutUint64(b[32:], i.tag)
}

func parseDevInfo(b []byte) (devInfo, error) {
	if len(b) < devInfoSize {
		return devInfo{}, fmt.Errorf("description of a device: %d bytes of %d", len(b), devInfoSize)
	}
	ne := binary.NativeEndian
	return devInfo{
		queues: ne.Uint16(b), depth: ne.Uint16(b[2:]), state: devState(ne.Uint16(b[4:])),
		maxIO: ne.Uint32(b[8:]), id: ne.Uint32(b[12:]), pid: int32(ne.Uint32(b[16:])),
		flags: ne.Uint64(b[24:]), tag: ne.Uint64(b[32:]),
	}, nil
}

// Attributes of a device, UBLK_ATTR_*, and parts of its parameters,
// UBLK_PARAM_TYPE_*.
const (
	attrVolatileCache = 1 << 2 // it wants flushes
	attrFUA           = 1 << 3
	typeBasic         = 1 << 0
	typeDiscard       = 1 << 1
)

// limits are what struct ublk_params tells of a device, sizes in bytes.
type limits struct {
	size       int64
	maxIO      uint32 // of a read or write
	maxDiscard uint32 // of a discard, and of a zeroing
}

// The block size: the kernel writes whole pages, and a page is what is stored.
const (
	pageShift  = 12
	pageSize   = 1 << pageShift
	batchShift = 17 // 128 KiB is what one member takes at a time: the best size
)

func (l *limits) put(b []byte) {
	clear(b[:paramsSize])
	ne := binary.NativeEndian
	ne.PutUint32(b, paramsSize)
	ne.PutUint32(b[4:], typeBasic|typeDiscard)
	basic := b[8:]
	ne.PutUint32(basic, attrVolatileCache|attrFUA)
	basic[4], basic[5] = pageShift, pageShift  // logical and physical block
	basic[6], basic[7] = batchShift, pageShift // best and least size of I/O
	ne.PutUint32(basic[8:], l.maxIO>>sectorSh)
	ne.PutUint64(basic[16:], uint64(l.size)>>sectorSh)
	discard := b[40:]
	ne.PutUint32(discard[4:], pageSize) // granularity
	ne.PutUint32(discard[8:], l.maxDiscard>>sectorSh)
	ne.PutUint32(discard[12:], l.maxDiscard>>sectorSh)
	ne.PutUint16(discard[16:], 1) // segments: the driver knows no more
}

func parseLimits(b []byte) (limits, error) {
	if len(b) < paramsSize {
		return limits{}, fmt.Errorf("parameters of a device: %d bytes of %d", len(b), paramsSize)
	}
	ne := binary.NativeEndian
	if ne.Uint32(b[4:])&typeBasic == 0 {
		return limits{}, fmt.Errorf("parameters of a device: it has none")
	}
	return limits{
		size:       int64(ne.Uint64(b[24:]) << sectorSh),
		maxIO:      ne.Uint32(b[16:]) << sectorSh,
		maxDiscard: ne.Uint32(b[48:]) << sectorSh,
	}, nil
}

// putIOCmd encodes struct ublksrv_io_cmd. The result is bytes or an errno below
// zero; the address stays zero, as featUserCopy demands.
func putIOCmd(b []byte, queue, tag uint16, result int32) {
	ne := binary.NativeEndian
	ne.PutUint16(b, queue)
	ne.PutUint16(b[2:], tag)
	ne.PutUint32(b[4:], uint32(result))
	ne.PutUint64(b[8:], 0)
}

// copyAt is where pread(2) and pwrite(2) on the character device find the data
// of a request: UBLKSRV_IO_BUF_OFFSET and the shifts around it.
func copyAt(queue, tag uint16) int64 {
	return 0x80000000 + int64(queue)<<41 + int64(tag)<<25
}
