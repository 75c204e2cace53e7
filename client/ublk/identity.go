package ublk

import (
	"crypto/sha256"
	"encoding/binary"
)

// Tag is how a device in the kernel says whose it is. It is given to the
// driver with the device, as the field ublksrv_flags, which is the server's to
// use; the driver keeps it as long as the device lives and tells it to whoever
// asks. So it cannot be out of step with the device, as a file could be whose
// device was deleted and whose number was given to another one.
//
// It is the beginning of a hash: two volumes on one machine have the same with
// a probability of 2^-63. The size is compared too.
func Tag(identity string) uint64 {
	sum := sha256.Sum256([]byte("dmps ublk device 1\x00" + identity))
	return binary.BigEndian.Uint64(sum[:]) | 1 // never zero, which others leave there
}
