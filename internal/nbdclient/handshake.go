package nbdclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Negotiate is the handshake on a connection that somebody else will use, such as
// the kernel: fixed newstyle and NBD_OPT_GO for one export (NBD protocol,
// doc/proto.md). Afterwards the connection is in transmission, with simple replies.
func Negotiate(rw io.ReadWriter, export string) (Info, error) {
	be := binary.BigEndian
	var hello [18]byte
	if _, err := io.ReadFull(rw, hello[:]); err != nil {
		return Info{}, fmt.Errorf("reading the server's greeting: %w", err)
	}
	if be.Uint64(hello[:]) != magicServer || be.Uint64(hello[8:]) != magicOption {
		return Info{}, errors.New("the other side is not a newstyle NBD server")
	}
	flags := be.Uint16(hello[16:])
	if flags&flagFixedNewstyle == 0 {
		return Info{}, errors.New("the server does not speak fixed newstyle")
	}
	var out []byte
	out = be.AppendUint32(out, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	out = be.AppendUint64(out, magicOption)
	out = be.AppendUint32(out, optGo)
	out = be.AppendUint32(out, uint32(4+len(export)+2+2))
	out = be.AppendUint32(out, uint32(len(export)))
	out = append(out, export...)
	out = be.AppendUint16(out, 1) // one kind of information besides the export's
	out = be.AppendUint16(out, infoBlockSize)
	if _, err := rw.Write(out); err != nil {
		return Info{}, fmt.Errorf("asking for export %q: %w", export, err)
	}

	var info Info
	seen := false
	for range maxOptionReplies {
		kind, data, err := readOptionReply(rw)
		if err != nil {
			return Info{}, fmt.Errorf("asking for export %q: %w", export, err)
		}
		switch {
		case kind == repAck && seen:
			return info, nil
		case kind == repAck:
			return Info{}, errors.New("the server acknowledged without describing the export")
		case kind&repErr != 0:
			return Info{}, fmt.Errorf("the server refused export %q: %s", export, optionError(kind, data))
		case kind == repInfo:
			if err := info.parse(data); err != nil {
				return Info{}, err
			}
			seen = seen || be.Uint16(data) == infoExport
		}
	}
	return Info{}, errors.New("the server's answers to NBD_OPT_GO do not end")
}

func readOptionReply(r io.Reader) (kind uint32, data []byte, err error) {
	be := binary.BigEndian
	var head [20]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("reading an option reply: %w", err)
	}
	if be.Uint64(head[:]) != magicReply || be.Uint32(head[8:]) != optGo {
		return 0, nil, errors.New("malformed option reply")
	}
	n := be.Uint32(head[16:])
	if n > maxOptionReply {
		return 0, nil, fmt.Errorf("option reply of %d bytes", n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("reading an option reply: %w", err)
	}
	return be.Uint32(head[12:]), data, nil
}

func (i *Info) parse(data []byte) error {
	be := binary.BigEndian
	if len(data) < 2 {
		return errors.New("information reply without a type")
	}
	switch kind := be.Uint16(data); {
	case kind == infoExport && len(data) == 12:
		size := be.Uint64(data[2:])
		if size > math.MaxInt64 {
			return fmt.Errorf("export of %d bytes", size)
		}
		i.Size, i.Flags = int64(size), be.Uint16(data[10:])
	case kind == infoBlockSize && len(data) == 14:
		i.MinBlock, i.PrefBlock, i.MaxBlock = be.Uint32(data[2:]), be.Uint32(data[6:]), be.Uint32(data[10:])
	case kind == infoExport || kind == infoBlockSize:
		return fmt.Errorf("information reply %d of %d bytes", kind, len(data))
	}
	return nil
}

// optionError names the errors that a server refuses an export with.
func optionError(kind uint32, text []byte) string {
	name, ok := map[uint32]string{
		1: "it does not know NBD_OPT_GO", 2: "its policy forbids it", 3: "it calls the request invalid",
		5: "it wants TLS", 6: "it has no such export", 7: "it is shutting down", 8: "it wants block sizes", 9: "the request is too big",
	}[kind&^repErr]
	if !ok {
		name = fmt.Sprintf("error %d", kind&^repErr)
	}
	if len(text) > 0 {
		name += fmt.Sprintf(" (%q)", text)
	}
	return name
}
