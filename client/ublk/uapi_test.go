package ublk

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"

	"dmps/client"
)

// TestCommandNumbers are the values that a C compiler gives the macros of
// include/uapi/linux/ublk_cmd.h.
func TestCommandNumbers(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint32
	}{
		{"UBLK_U_CMD_GET_DEV_INFO", cmdGetDevInfo, 0x80207502},
		{"UBLK_U_CMD_ADD_DEV", cmdAddDev, 0xc0207504},
		{"UBLK_U_CMD_DEL_DEV", cmdDelDev, 0xc0207505},
		{"UBLK_U_CMD_START_DEV", cmdStartDev, 0xc0207506},
		{"UBLK_U_CMD_STOP_DEV", cmdStopDev, 0xc0207507},
		{"UBLK_U_CMD_SET_PARAMS", cmdSetParams, 0xc0207508},
		{"UBLK_U_CMD_GET_PARAMS", cmdGetParams, 0x80207509},
		{"UBLK_U_CMD_START_USER_RECOVERY", cmdStartRecovery, 0xc0207510},
		{"UBLK_U_CMD_END_USER_RECOVERY", cmdEndRecovery, 0xc0207511},
		{"UBLK_U_CMD_GET_FEATURES", cmdGetFeatures, 0x80207513},
		{"UBLK_U_IO_FETCH_REQ", cmdFetch, 0xc0107520},
		{"UBLK_U_IO_COMMIT_AND_FETCH_REQ", cmdCommit, 0xc0107521},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, not %#x", c.name, c.got, c.want)
		}
	}
	if got := copyAt(3, 17); got != 0x80000000|3<<41|17<<25 {
		t.Errorf("data of a request at %#x", got)
	}
}

// TestGolden are the bytes of each struct on a little-endian machine.
func TestGolden(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the golden bytes are those of a little-endian machine")
	}
	cmd := ctrlCmd{dev: 0x01020304, queue: noQueue, len: 64, addr: 0x1122334455667788, data: 0x99}
	info := devInfo{queues: 2, depth: 64, state: stateQuiesced, maxIO: 128 << 10, id: 5, pid: -1, flags: wanted, tag: 0xabcdef0123456789}
	lim := limits{size: 1 << 30, maxIO: 128 << 10, maxDiscard: 32 << 20}
	b := make([]byte, 64)
	for _, c := range []struct {
		name string
		put  func()
		size int
		want string
	}{
		{"struct ublksrv_ctrl_cmd", func() { cmd.put(b[:ctrlCmdSize]) }, 32,
			"04030201ffff4000" + "8877665544332211" + "9900000000000000" + "0000000000000000"},
		{"struct ublksrv_ctrl_dev_info", func() { info.put(b) }, 64,
			"0200400002000000" + "0000020005000000" + "ffffffff00000000" + "d800000000000000" +
				"8967452301efcdab" + "0000000000000000" + "0000000000000000" + "0000000000000000"},
		{"struct ublk_params", func() { lim.put(b) }, 60,
			"3c00000003000000" + "0c0000000c0c110c" + "0001000000000000" + "0000200000000000" + "0000000000000000" +
				"0000000000100000" + "0000010000000100" + "01000000"},
		{"struct ublksrv_io_cmd", func() { putIOCmd(b, 1, 0x203, -5) }, 16, "01000302fbffffff0000000000000000"},
	} {
		for i := range b {
			b[i] = 0xee // what is not set must be cleared
		}
		c.put()
		if got := hex.EncodeToString(b[:c.size]); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if c.size < len(b) && b[c.size] != 0xee {
			t.Errorf("%s is written over its end", c.name)
		}
	}
	info.put(b)
	if got, err := parseDevInfo(b); got != info || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	lim.put(b)
	if got, err := parseLimits(b); got != lim || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range devInfoSize {
		if _, err := parseDevInfo(b[:n]); err == nil {
			t.Errorf("a description of %d bytes", n)
		}
	}
	b[4] = 0
	if _, err := parseLimits(b); err == nil {
		t.Error("parameters without a size")
	}
}

// A request says what is to be done, where, and whether it must last. Nothing of the
// request before with the same tag is left.
func TestDesc(t *testing.T) {
	for _, c := range []struct {
		desc ioDesc
		want client.Op
	}{
		{at(opRead, 3, 2), client.Op{Kind: client.OpRead, Off: 3 * pageSize, Len: 2 * pageSize}},
		{at(opWrite, 0, 1), client.Op{Kind: client.OpWrite, Len: pageSize}},
		{at(opWrite|flagFUA, 1, 1), client.Op{Kind: client.OpWrite, FUA: true, Off: pageSize, Len: pageSize}},
		{at(opWrite|1<<14, 1, 1), client.Op{Kind: client.OpWrite, Off: pageSize, Len: pageSize}}, // another flag
		{at(opDiscard, 5, 9), client.Op{Kind: client.OpTrim, Off: 5 * pageSize, Len: 9 * pageSize}},
		{at(opWriteZeroes|flagFUA, 5, 9), client.Op{Kind: client.OpZero, FUA: true, Off: 5 * pageSize, Len: 9 * pageSize}},
		{at(opFlush, 5, 9), client.Op{Kind: client.OpFlush}},
	} {
		op := client.Op{Kind: 99, FUA: !c.want.FUA, Off: 1, Len: 1, Err: client.ErrLost}
		if err := c.desc.fill(&op, 64*pageSize, 128<<10); err != nil {
			t.Errorf("%+v: %v", c.desc, err)
		}
		if op.Kind != c.want.Kind || op.FUA != c.want.FUA || op.Off != c.want.Off || op.Len != c.want.Len || op.Err != nil {
			t.Errorf("%+v becomes kind %d, FUA %v, %d bytes at %d, %v", c.desc, op.Kind, op.FUA, op.Len, op.Off, op.Err)
		}
	}
}

// FuzzDesc feeds any descriptor to the decoder: what it accepts is inside of
// the device and within the limits.
func FuzzDesc(f *testing.F) {
	f.Add(make([]byte, ioDescSize), int64(1<<30))
	f.Add([]byte("\x01\x20\x00\x00\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff12345678"), int64(1<<40))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if len(b) != ioDescSize || size <= 0 {
			t.Skip()
		}
		const maxIO = 128 << 10
		d := parseDesc(b)
		op := client.Op{Kind: 99, Off: math.MinInt64, Len: math.MinInt64}
		if err := d.fill(&op, size, maxIO); err != nil {
			if r := resultOf(err); r >= 0 {
				t.Errorf("refused with %d", r)
			}
			return
		}
		most := int64(maxDiscard)
		switch op.Kind {
		case client.OpRead, client.OpWrite:
			most = maxIO
		case client.OpTrim, client.OpZero:
		case client.OpFlush:
			most = 0
		default:
			t.Fatalf("operation %d", op.Kind)
		}
		if op.Off < 0 || op.Len < 0 || op.Len > most || op.Len > size-op.Off || op.Off != 0 && uint64(op.Off)>>sectorSh != d.sector {
			t.Errorf("%+v becomes %d bytes at %d of %d", d, op.Len, op.Off, size)
		}
		if n := pagesOf(&op); n > client.MaxOpPages {
			t.Errorf("%d pages", n)
		}
	})
}
