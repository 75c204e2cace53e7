package client

// Buf is one page buffer of the arena: locked memory outside the Go heap,
// registered with the transport.
type Buf struct {
	Page []byte // PageSize bytes
}
