package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// waitNBD waits until the client says that it serves NBD, and a handshake there gives the
// volume's size. The handshake alone proves nothing: anybody may listen there.
func (c *Cluster) waitNBD(ctx context.Context) error {
	return c.poll(ctx, c.nbd.String()+" answers", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, nbdAttempt)
		defer cancel()
		if err := c.clientServes(ctx); err != nil {
			return err
		}
		conn, err := nbdclient.Dial(ctx, c.nbd)
		if err != nil {
			return err
		}
		size := bytesize.Size(conn.Size())
		if err := conn.Close(); err != nil {
			return err
		}
		if size != c.cfg.Size {
			return fmt.Errorf("the export has %v, not %v: another server listens there", size, c.cfg.Size)
		}
		return nil
	})
}

// clientServes reports whether the process that was started as the client serves NBD.
func (c *Cluster) clientServes(ctx context.Context) error {
	r := &c.mu.file.Client // no watcher runs yet
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Admin+"/status", nil)
	if err != nil {
		return fmt.Errorf("asking the client: %w", err)
	}
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := hc.Do(req)
	if err != nil {
		return fmt.Errorf("asking the client: %w", err)
	}
	defer res.Body.Close()
	var about struct {
		PID int    `json:"pid"`
		NBD string `json:"nbd"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&about); err != nil {
		return fmt.Errorf("asking the client: %w", err)
	}
	if about.PID != r.PID || about.NBD == "" {
		return fmt.Errorf("process %d, which is not the client, answers at %s, and serves %q", about.PID, r.Admin, about.NBD)
	}
	return nil
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
