package loadgen

import (
	"encoding/binary"
	"math/rand/v2"
)

// PageSize is the unit of Data in bytes.
const PageSize = 4096

// Data is the content of a device as a function: the bytes of any page in any
// generation, so that what was written need not be remembered to be compared.
type Data struct {
	Seed uint64
}

// Fill writes the bytes that page has in its generation gen into p, which has
// PageSize bytes.
func (d Data) Fill(p []byte, page uint64, gen uint32) {
	var seed [32]byte
	le := binary.LittleEndian
	le.PutUint64(seed[0:], d.Seed)
	le.PutUint64(seed[8:], page)
	le.PutUint32(seed[16:], gen)
	rng := rand.NewChaCha8(seed)
	for i := 0; i < PageSize; i += 8 {
		le.PutUint64(p[i:], rng.Uint64())
	}
}

// Wrong counts the bytes of got that differ from page in its generation gen.
// scratch has PageSize bytes.
func (d Data) Wrong(got []byte, page uint64, gen uint32, scratch []byte) int {
	d.Fill(scratch, page, gen)
	if string(got) == string(scratch) {
		return 0
	}
	wrong := 0
	for i, b := range scratch {
		if got[i] != b {
			wrong++
		}
	}
	return wrong
}
