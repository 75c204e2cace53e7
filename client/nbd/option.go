package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// errMalformed is the client's fault: NBD_REP_ERR_INVALID.
var errMalformed = errors.New("malformed option")

// infoRequest is the data of NBD_OPT_INFO and NBD_OPT_GO.
//
//	0   4  length of the name, n
//	4   n  name
//	4+n 2  number of information requests, m
//	6+n 2m information requests
type infoRequest struct {
	name  string
	infos []uint16 // as asked for, unknown ones included
}

func (r *infoRequest) wants(info uint16) bool {
	for _, i := range r.infos {
		if i == info {
			return true
		}
	}
	return false
}

func parseInfoRequest(data []byte) (infoRequest, error) {
	name, rest, err := takeString(data)
	if err != nil {
		return infoRequest{}, fmt.Errorf("export name: %w", err)
	}
	if len(rest) < 2 {
		return infoRequest{}, fmt.Errorf("%w: no count of information requests", errMalformed)
	}
	n := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != 2*n {
		return infoRequest{}, fmt.Errorf("%w: %d bytes for %d information requests", errMalformed, len(rest), n)
	}
	r := infoRequest{name: name, infos: make([]uint16, n)}
	for i := range r.infos {
		r.infos[i] = binary.BigEndian.Uint16(rest[2*i:])
	}
	return r, nil
}

// contextRequest is the data of NBD_OPT_LIST_META_CONTEXT and
// NBD_OPT_SET_META_CONTEXT.
//
//	0   4  length of the name, n
//	4   n  name of the export
//	4+n 4  number of queries
//	8+n    queries, each a length of 4 bytes and as many bytes
type contextRequest struct {
	export  string
	queries []string
}

func parseContextRequest(data []byte) (contextRequest, error) {
	name, rest, err := takeString(data)
	if err != nil {
		return contextRequest{}, fmt.Errorf("export name: %w", err)
	}
	if len(rest) < 4 {
		return contextRequest{}, fmt.Errorf("%w: no count of queries", errMalformed)
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	// Each query takes at least its length field: this bounds the slice.
	if uint64(n) > uint64(len(rest))/4 {
		return contextRequest{}, fmt.Errorf("%w: %d queries in %d bytes", errMalformed, n, len(rest))
	}
	r := contextRequest{export: name, queries: make([]string, n)}
	for i := range r.queries {
		if r.queries[i], rest, err = takeString(rest); err != nil {
			return contextRequest{}, fmt.Errorf("query %d: %w", i, err)
		}
	}
	if len(rest) != 0 {
		return contextRequest{}, fmt.Errorf("%w: %d bytes too many", errMalformed, len(rest))
	}
	return r, nil
}

// takeString takes a string with its length of 4 bytes off the front.
func takeString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w: %d bytes for a length", errMalformed, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, fmt.Errorf("%w: string of %d bytes in %d", errMalformed, n, len(b))
	}
	if s, err = parseName(b[:n]); err != nil {
		return "", nil, err
	}
	return s, b[n:], nil
}

// parseName checks the protocol's rules for strings.
func parseName(b []byte) (string, error) {
	if len(b) > maxName {
		return "", fmt.Errorf("%w: string of %d bytes, at most %d are allowed", errMalformed, len(b), maxName)
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%w: string is not UTF-8", errMalformed)
	}
	for _, c := range b {
		if c == 0 {
			return "", fmt.Errorf("%w: NUL in a string", errMalformed)
		}
	}
	return string(b), nil
}

// selectsAllocation says whether one of the queries of
// NBD_OPT_SET_META_CONTEXT names base:allocation. Unknown ones are ignored.
func (r *contextRequest) selectsAllocation() bool {
	for _, q := range r.queries {
		if q == contextAllocation {
			return true
		}
	}
	return false
}

// listsAllocation is the same for NBD_OPT_LIST_META_CONTEXT, where no query
// asks for everything and "base:" is a wildcard.
func (r *contextRequest) listsAllocation() bool {
	if len(r.queries) == 0 {
		return true
	}
	for _, q := range r.queries {
		if q == contextAllocation || q == "base:" {
			return true
		}
	}
	return false
}
