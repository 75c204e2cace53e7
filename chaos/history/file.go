package history

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A history file is fileMagic and then 32 bytes an op, little endian: page u32,
// client u16, kind u8, outcome u8, value u64, call i64, return i64 (ns).
const (
	fileMagic = "dmpshist"
	opSize    = 32
)

// Write writes ops as a file.
func Write(w io.Writer, ops []Op) error {
	b := bufio.NewWriterSize(w, 1<<20)
	b.WriteString(fileMagic) // Flush tells what went wrong
	var rec [opSize]byte
	le := binary.LittleEndian
	for _, op := range ops {
		le.PutUint32(rec[0:], op.Page)
		le.PutUint16(rec[4:], op.Client)
		rec[6], rec[7] = byte(op.Kind), byte(op.Outcome)
		le.PutUint64(rec[8:], uint64(op.Value))
		le.PutUint64(rec[16:], uint64(op.Call))
		le.PutUint64(rec[24:], uint64(op.Return))
		b.Write(rec[:])
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing a history: %w", err)
	}
	return nil
}

// ReadFile reads what Write wrote.
func ReadFile(r io.Reader) ([]Op, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head := make([]byte, len(fileMagic))
	if _, err := io.ReadFull(b, head); err != nil || string(head) != fileMagic {
		return nil, errors.Join(fmt.Errorf("reading a history: it does not begin with %s", fileMagic), err)
	}
	var ops []Op
	var rec [opSize]byte
	le := binary.LittleEndian
	for {
		if _, err := io.ReadFull(b, rec[:]); errors.Is(err, io.EOF) {
			return ops, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading a history: op %d: %w", len(ops), err)
		}
		op := Op{
			Page: le.Uint32(rec[0:]), Client: le.Uint16(rec[4:]), Kind: Kind(rec[6]), Outcome: Outcome(rec[7]),
			Value: Value(le.Uint64(rec[8:])), Call: time.Duration(le.Uint64(rec[16:])), Return: time.Duration(le.Uint64(rec[24:])),
		}
		if op.Kind > OpTrim || op.Outcome > Unknown {
			return nil, fmt.Errorf("reading a history: op %d is of kind %d, outcome %d", len(ops), op.Kind, op.Outcome)
		}
		ops = append(ops, op)
	}
}
