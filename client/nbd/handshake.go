package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// errEnded: the client ended the handshake, as it may.
var errEnded = errors.New("client ended the negotiation")

// session is what a handshake agreed on.
type session struct {
	name   string // of the export
	export *Export
	rules  rules
}

// handshake is the server's side of the fixed newstyle negotiation. It reads
// exactly what belongs to it, so that the transmission phase can start with
// another reader on the same connection.
type handshake struct {
	rw      io.ReadWriter
	exports *catalog
	closing func() bool // answer options with NBD_REP_ERR_SHUTDOWN

	flags      uint32 // the client's
	structured bool
	context    string // export that base:allocation was selected for, when selected
	selected   bool

	in  []byte // data of the option at hand
	out []byte // replies to it, sent in one piece
}

// negotiate runs a handshake to its end. Errors: errEnded, or why the
// connection has to be closed.
func negotiate(rw io.ReadWriter, exports *catalog, closing func() bool) (*session, error) {
	h := &handshake{rw: rw, exports: exports, closing: closing}
	if err := h.greet(); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	for range maxOptions {
		s, err := h.option()
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, fmt.Errorf("more than %d options", maxOptions)
}

// greet sends the magics and reads the client's flags.
func (h *handshake) greet() error {
	h.out = binary.BigEndian.AppendUint64(h.out[:0], protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	h.out = binary.BigEndian.AppendUint64(h.out, protocol.NEGOTIATION_MAGIC_OPTION)
	h.out = binary.BigEndian.AppendUint16(h.out, protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE|handshakeNoZeroes)
	if err := h.send(); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(h.rw, b[:]); err != nil {
		return err
	}
	h.flags = binary.BigEndian.Uint32(b[:])
	if unknown := h.flags &^ (clientFixedNewstyle | clientNoZeroes); unknown != 0 {
		return fmt.Errorf("client flags %#x are not known", unknown)
	}
	return nil
}

// option reads and answers one option. It returns a session when that option
// ended the negotiation.
func (h *handshake) option() (*session, error) {
	var b [optionHeaderLen]byte
	if _, err := io.ReadFull(h.rw, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errEnded
		}
		return nil, fmt.Errorf("read option: %w", err)
	}
	if m := binary.BigEndian.Uint64(b[:]); m != protocol.NEGOTIATION_MAGIC_OPTION {
		return nil, fmt.Errorf("option magic is %#x", m)
	}
	opt, n := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	tooBig, err := h.readData(opt, n)
	if err != nil {
		return nil, fmt.Errorf("read data of option %d: %w", opt, err)
	}

	h.out = h.out[:0]
	s, err := h.answer(opt, tooBig)
	if err != nil && !errors.Is(err, errEnded) {
		return nil, err
	}
	if serr := h.send(); serr != nil && err == nil {
		return nil, fmt.Errorf("answer option %d: %w", opt, serr)
	}
	return s, err
}

// readData reads the data of an option into h.in, or skips what is too big to
// be legal and still small enough to be answered.
func (h *handshake) readData(opt, n uint32) (tooBig bool, err error) {
	h.in = h.in[:0]
	switch {
	case n == 0 && opt == optGo && h.flags == 0:
		return false, h.readUncounted()
	case n <= maxOption:
		if cap(h.in) < int(n) {
			h.in = make([]byte, n)
		}
		h.in = h.in[:n]
		_, err = io.ReadFull(h.rw, h.in)
		return false, err
	case n <= maxOptionSkip:
		_, err = io.CopyN(io.Discard, h.rw, int64(n))
		return true, err
	}
	return false, fmt.Errorf("%d bytes, at most %d are allowed", n, maxOption)
}

// readUncounted reads the data of an NBD_OPT_GO that announces none. go-nbd's
// client sends it so, with client flags of 0: it writes the data after a
// length of 0. No legal client does either, so nobody else is misunderstood.
func (h *handshake) readUncounted() error {
	h.in = append(h.in, 0, 0, 0, 0)
	if _, err := io.ReadFull(h.rw, h.in); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(h.in)
	if n > maxName {
		return fmt.Errorf("%w: no data", errMalformed)
	}
	h.in = append(h.in, make([]byte, n+2)...)
	if _, err := io.ReadFull(h.rw, h.in[4:]); err != nil {
		return err
	}
	infos := h.in[4+n:]
	if infos[0] != 0 || infos[1] != 0 {
		return fmt.Errorf("%w: information requests without a length", errMalformed)
	}
	return nil
}

func (h *handshake) answer(opt uint32, tooBig bool) (*session, error) {
	if opt == optAbort {
		h.reply(opt, repAck, nil)
		return nil, errEnded
	}
	if h.closing() {
		if opt == optExportName {
			return nil, errors.New("server is shutting down") // this option cannot be refused otherwise
		}
		h.refuse(opt, repErrShutdown, "the server is shutting down")
		return nil, nil
	}
	if tooBig {
		if opt == optExportName {
			return nil, errors.New("export name is too long")
		}
		if opt == optSetMetaContext {
			h.selected = false // it replaces the selection even when it fails
		}
		h.refuse(opt, repErrTooBig, "the option is too long")
		return nil, nil
	}
	switch opt {
	case optExportName:
		return h.exportName()
	case optList:
		h.list()
	case optStartTLS:
		// The place for encryption, and with client certificates for
		// authentication: acknowledge, wrap h.rw in tls.Server, forget
		// everything negotiated, and from then on refuse all other options
		// of a client in the clear with NBD_REP_ERR_TLS_REQD.
		if h.empty(opt) {
			h.refuse(opt, repErrPolicy, "this server has no TLS")
		}
	case optInfo, optGo:
		return h.info(opt), nil
	case optStructuredReply:
		if h.empty(opt) {
			h.structured = true
			h.reply(opt, repAck, nil)
		}
	case optListMetaContext, optSetMetaContext:
		h.metaContext(opt)
	default:
		h.refuse(opt, repErrUnsup, fmt.Sprintf("option %d is not supported", opt))
	}
	return nil, nil
}

// exportName enters transmission without a way to say no.
func (h *handshake) exportName() (*session, error) {
	name, err := parseName(h.in)
	if err != nil {
		return nil, fmt.Errorf("export name: %w", err)
	}
	s := h.session(name)
	if s == nil {
		return nil, fmt.Errorf("no export %q", name)
	}
	h.out = binary.BigEndian.AppendUint64(h.out, uint64(s.rules.size))
	h.out = binary.BigEndian.AppendUint16(h.out, s.rules.flags())
	if h.flags&clientNoZeroes == 0 {
		h.out = append(h.out, make([]byte, 124)...)
	}
	return s, nil
}

func (h *handshake) list() {
	if !h.empty(optList) {
		return
	}
	for _, name := range h.exports.names {
		data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		data = append(data, name...)
		data = append(data, h.exports.byName[name].Description...)
		h.reply(optList, repServer, data)
	}
	h.reply(optList, repAck, nil)
}

// info answers NBD_OPT_INFO and NBD_OPT_GO; for the latter the session follows.
func (h *handshake) info(opt uint32) *session {
	req, err := parseInfoRequest(h.in)
	if err != nil {
		h.refuse(opt, repErrInvalid, err.Error())
		return nil
	}
	s := h.session(req.name)
	if s == nil {
		h.refuse(opt, repErrUnknown, fmt.Sprintf("no export %q", req.name))
		return nil
	}
	data := binary.BigEndian.AppendUint16(nil, protocol.NEGOTIATION_TYPE_INFO_EXPORT)
	data = binary.BigEndian.AppendUint64(data, uint64(s.rules.size))
	data = binary.BigEndian.AppendUint16(data, s.rules.flags())
	h.reply(opt, repInfo, data)

	// Sent to all: clients that did not ask must ignore it, and go-nbd's
	// works only when it gets it.
	data = binary.BigEndian.AppendUint16(data[:0], protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE)
	data = binary.BigEndian.AppendUint32(data, minBlock)
	data = binary.BigEndian.AppendUint32(data, preferredBlock)
	data = binary.BigEndian.AppendUint32(data, maxPayload)
	h.reply(opt, repInfo, data)

	if req.wants(protocol.NEGOTIATION_TYPE_INFO_NAME) {
		data = binary.BigEndian.AppendUint16(data[:0], protocol.NEGOTIATION_TYPE_INFO_NAME)
		h.reply(opt, repInfo, append(data, s.name...))
	}
	if req.wants(protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION) && s.export.Description != "" {
		data = binary.BigEndian.AppendUint16(data[:0], protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION)
		h.reply(opt, repInfo, append(data, s.export.Description...))
	}
	h.reply(opt, repAck, nil)
	if opt == optInfo {
		return nil
	}
	return s
}

func (h *handshake) metaContext(opt uint32) {
	if opt == optSetMetaContext {
		h.selected = false // it replaces the selection even when it fails
	}
	req, err := parseContextRequest(h.in)
	if err != nil {
		h.refuse(opt, repErrInvalid, err.Error())
		return
	}
	if !h.structured {
		h.refuse(opt, repErrInvalid, "structured replies have to be negotiated first")
		return
	}
	name, e := h.exports.lookup(req.export)
	if e == nil {
		h.refuse(opt, repErrUnknown, fmt.Sprintf("no export %q", req.export))
		return
	}
	var found bool
	id := uint32(0) // means nothing in a list
	if opt == optSetMetaContext {
		found, id = req.selectsAllocation(), contextAllocationID
		h.selected, h.context = found, name
	} else {
		found = req.listsAllocation()
	}
	if found {
		h.reply(opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), contextAllocation...))
	}
	h.reply(opt, repAck, nil)
}

// session is what the transmission phase would be now, nil without an export.
func (h *handshake) session(name string) *session {
	name, e := h.exports.lookup(name)
	if e == nil {
		return nil
	}
	return &session{name: name, export: e, rules: rules{
		size:       e.Device.Size(),
		readOnly:   e.ReadOnly,
		structured: h.structured,
		allocation: h.selected && h.context == name,
	}}
}

// empty refuses an option that came with data and must not.
func (h *handshake) empty(opt uint32) bool {
	if len(h.in) == 0 {
		return true
	}
	h.refuse(opt, repErrInvalid, "this option has no data")
	return false
}

func (h *handshake) reply(opt, typ uint32, data []byte) {
	h.out = binary.BigEndian.AppendUint64(h.out, protocol.NEGOTIATION_MAGIC_REPLY)
	h.out = binary.BigEndian.AppendUint32(h.out, opt)
	h.out = binary.BigEndian.AppendUint32(h.out, typ)
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(len(data)))
	h.out = append(h.out, data...)
}

func (h *handshake) refuse(opt, typ uint32, why string) {
	// A quoted name can be longer than strings may be.
	h.reply(opt, typ, []byte(strings.ToValidUTF8(why[:min(len(why), maxName)], "")))
}

func (h *handshake) send() error {
	_, err := h.rw.Write(h.out)
	return err
}
