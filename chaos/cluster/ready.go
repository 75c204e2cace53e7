package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/meta/metaclient"
)

// nbdAttempt bounds one handshake: a server that lives answers at once.
const nbdAttempt = 2 * time.Second

// createVolume waits until the metadata service knows every server, and
// creates the volume.
func (c *Cluster) createVolume(ctx context.Context, f *File) error {
	meta, err := c.cfg.connect(f.MetaURLs)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer meta.Close()
	c.cfg.Progress("waiting for the metadata service and its servers")
	err = c.poll(ctx, "the metadata service knows every server", func(ctx context.Context) error {
		st, err := meta.Status(ctx)
		if err != nil {
			return err
		}
		up := 0
		for _, s := range st.Servers {
			if s.State == metaclient.ServerUp {
				up++
			}
		}
		if up < c.cfg.Servers {
			return fmt.Errorf("%d of %d servers are up", up, c.cfg.Servers)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.cfg.Progress(fmt.Sprintf("creating volume %s: %s, %v", c.cfg.Volume, c.cfg.Size.Human(), c.cfg.Redundancy))
	_, err = meta.CreateVolume(ctx, metaclient.VolumeSpec{
		Name:          c.cfg.Volume,
		Size:          uint64(c.cfg.Size),
		Redundancy:    c.cfg.Redundancy,
		Kind:          c.cfg.Layout,
		FailureDomain: "server", // they all share this host
	})
	if errors.Is(err, metaclient.ErrNoSpace) {
		return fmt.Errorf("cluster: %w; %d servers lend %s each: give them more (--server-memory), start more of them (--servers), or ask for a smaller volume (--size)",
			err, c.cfg.Servers, c.cfg.ServerMemory.Human())
	}
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// waitNBD waits until the client answers a handshake with the volume's size.
func (c *Cluster) waitNBD(ctx context.Context) error {
	return c.poll(ctx, c.nbd.String()+" answers", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, nbdAttempt)
		defer cancel()
		conn, err := nbdclient.Dial(ctx, c.nbd)
		if err != nil {
			return err
		}
		size := bytesize.Size(conn.Size())
		if err := conn.Close(); err != nil {
			return err
		}
		if size < c.cfg.Size {
			return fmt.Errorf("the export has %v, not %v: another server listens there", size, c.cfg.Size)
		}
		return nil
	})
}

// poll tries ready until it succeeds. It ends early when a role ends, which
// nothing that follows could mend.
func (c *Cluster) poll(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.StartTimeout, fmt.Errorf("not within %v", c.cfg.StartTimeout))
	defer cancel()
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, ch := range c.mu.children { // no watcher runs yet
			if ended := ch.ended(); ended != nil {
				return fmt.Errorf("cluster: %w", ended)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("cluster: waiting until %s: %w: %w; see the logs in %s", what, context.Cause(ctx), err, c.dir.path)
		}
	}
}
