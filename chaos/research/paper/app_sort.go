package paper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"sync/atomic"
)

// lineLen is the length of a line to sort, its end included.
const lineLen = 64

// Sort is GNU sort with lines random lines of 64 bytes, all in its memory.
func Sort(lines int) App {
	seed := maphash.MakeSeed()
	// Sum of the lines' hashes: which lines, in any order. It is there before the
	// input ends, so before a program that sorts has anything to say.
	var given atomic.Uint64
	return App{
		Name: "sort",
		// Its buffer holds all lines and what it keeps beside each, 32 bytes: it
		// never merges files.
		Argv: []string{"sort", "--parallel=1", fmt.Sprintf("--buffer-size=%dK", lines*(lineLen+48)>>10+1024)},
		Input: func(w io.Writer) error {
			var sum uint64
			defer func() { given.Store(sum) }()
			b := bufio.NewWriterSize(w, 64<<10)
			r := rand.New(rand.NewPCG(uint64(lines), 1))
			const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"
			var line [lineLen]byte
			for range lines {
				for i := 0; i < lineLen-1; i += 9 {
					for j, v := i, r.Uint64(); j < min(i+9, lineLen-1); j++ {
						line[j] = letters[v&63]
						v >>= 6
					}
				}
				line[lineLen-1] = '\n'
				sum += maphash.Bytes(seed, line[:])
				if _, err := b.Write(line[:]); err != nil {
					return err
				}
			}
			return b.Flush()
		},
		Judge: func(out io.Reader) error {
			var sum uint64
			var last [lineLen]byte
			var line [lineLen]byte
			r := bufio.NewReaderSize(out, 64<<10)
			n := 0
			for ; ; n++ {
				_, err := io.ReadFull(r, line[:])
				if err == io.EOF {
					break
				}
				if err != nil {
					return err
				}
				if bytes.Compare(last[:], line[:]) > 0 {
					return fmt.Errorf("line %d is smaller than the one before", n)
				}
				sum += maphash.Bytes(seed, line[:])
				last = line
			}
			if n != lines {
				return fmt.Errorf("%d lines of %d", n, lines)
			}
			if sum != given.Load() {
				return errors.New("not the lines that it was given")
			}
			return nil
		},
	}
}
