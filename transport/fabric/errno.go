//go:build fabric && cgo

package fabric

import "fmt"

// fabricError is an error of libfabric: a number of fi_errno(3), and its text.
type fabricError struct {
	code int // positive
	text string
}

func (e *fabricError) Error() string { return fmt.Sprintf("%s (libfabric %d)", e.text, e.code) }
