package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// longAgo is a deadline that is over.
var longAgo = time.Unix(1, 0)

// TransmissionFlags are the flags of a connection that ServeTransmission
// serves, for its peer, who has nobody to ask: NBD_FLAG_* of the protocol.
func TransmissionFlags(e Export) uint16 {
	return rules{size: e.Device.Size(), readOnly: e.ReadOnly}.flags()
}

// ServeTransmission serves one connection to a peer with whom everything is
// agreed already, the kernel: there is no handshake, replies are simple ones.
//
// It returns nil when the peer has closed the connection or ctx has ended, and
// an error when the connection broke. Either way every request that was read is
// over by then: submitted, completed, and its reply taken by the socket unless
// that was closed. When ctx ends, what has not been read is left unanswered, so
// that the peer can ask somebody else; a Server's Shutdown would have it fail.
// It closes nc.
func ServeTransmission(ctx context.Context, nc net.Conn, e Export, cfg Config) error {
	defer func() { _ = nc.Close() }() // everything was sent or given up
	cfg.Exports = map[string]Export{"": e}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	sess := &session{export: &e, rules: rules{size: e.Device.Size(), readOnly: e.ReadOnly}}
	// Nothing is answered with ESHUTDOWN, and a request that waits for page
	// buffers gets them: the device is served until its end.
	c, err := newConn(context.WithoutCancel(ctx), nc, sess, &cfg, new(atomic.Bool))
	if err != nil {
		return fmt.Errorf("nbd: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		_ = nc.SetReadDeadline(longAgo) // an error means that it is closed
	})()
	err = c.serve()
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
