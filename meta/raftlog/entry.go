package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// An entry, all numbers big endian; its index is the key, 8 bytes:
//
//	0   4  CRC-32C of the key and of all that follows
//	4   8  term
//	12  1  type (raft.LogType)
//	13  8  when the leader appended it: nanoseconds since 1970, 0: unknown
//	21  4  bytes of extensions, then these, then the data up to the end
const entryHeader = 25

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged: an entry is not what was stored.
var ErrDamaged = errors.New("damaged entry of the Raft log")

func key(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

func checksum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func encode(l *raft.Log) ([]byte, error) {
	if len(l.Extensions) > math.MaxUint32 {
		return nil, fmt.Errorf("entry %d of the Raft log has %d bytes of extensions", l.Index, len(l.Extensions))
	}
	b := make([]byte, 4, entryHeader+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(append(b, l.Extensions...), l.Data...)
	binary.BigEndian.PutUint32(b, checksum(key(l.Index), b[4:]))
	return b, nil
}

// decode sets l, which keeps nothing of b. Errors: ErrDamaged.
func decode(index uint64, b []byte, l *raft.Log) error {
	if len(b) < entryHeader || binary.BigEndian.Uint32(b) != checksum(key(index), b[4:]) {
		return fmt.Errorf("%w: entry %d, %d bytes", ErrDamaged, index, len(b))
	}
	extensions := uint64(binary.BigEndian.Uint32(b[21:]))
	rest := b[entryHeader:]
	if extensions > uint64(len(rest)) {
		return fmt.Errorf("%w: entry %d has %d bytes of extensions in %d", ErrDamaged, index, extensions, len(rest))
	}
	*l = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b[4:]), Type: raft.LogType(b[12])}
	if at := int64(binary.BigEndian.Uint64(b[13:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	rest = append([]byte(nil), rest...)
	l.Extensions, l.Data = rest[:extensions:extensions], rest[extensions:]
	if extensions == 0 {
		l.Extensions = nil
	}
	return nil
}
