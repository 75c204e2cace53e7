package bed

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"dmps/chaos/research/paper"
)

// message measures what sockets carry between two processes of the guest: the
// network that everything else here is built on.
func (b *Bed) message(ctx context.Context) error {
	unix := filepath.Join(b.Dir, "messages.sock")
	const tcp = "127.0.0.1:10800"
	if err := b.report.Note("Two processes of the guest over loopback TCP, and over a unix socket. A message that is answered counts once, for the whole round trip."); err != nil {
		return err
	}
	for _, n := range []struct{ network, address string }{{"tcp", tcp}, {"unix", unix}} {
		p, err := b.start("messages-"+n.network, b.Self, "messages", n.network, n.address)
		if err != nil {
			return err
		}
		if err := errors.Join(b.messages(ctx, p, n.network, n.address), p.kill()); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bed) messages(ctx context.Context, p *process, network, address string) error {
	ready, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := p.ready(ready, network, address); err != nil {
		return err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close() // the server ends with it
	each := quick(b, 300*time.Millisecond, 100*time.Millisecond)
	// In rounds: what else happens on the host then meets all sizes.
	for range quick(b, 5, 1) {
		for _, way := range []string{paper.PingPong, paper.Stream} {
			for size := 64; size <= 1<<20; size *= 4 {
				row, err := paper.MeasureMessages(c, way, size, each)
				if err != nil {
					return err
				}
				row.Network = network
				if err := b.report.Row(row); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
