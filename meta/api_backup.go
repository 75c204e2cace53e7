package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

const backupPiece = 256 << 10 // bytes of a message

// Backup sends the state as of now. It is copied to a file first, so that a
// slow receiver does not keep the state file from reusing its pages.
func (a clusterAPI) Backup(ctx context.Context, _ *connect.Request[metapb.BackupRequest], to *connect.ServerStream[metapb.BackupResponse]) error {
	_, p, err := a.n.leading(ctx)
	if err == nil {
		err = a.n.await(ctx, p.raft.VerifyLeader()) // one that was cut off has an old state
	}
	if err != nil {
		return apiError(err)
	}
	f, err := a.n.copyState()
	if err != nil {
		return apiError(fmt.Errorf("backup: %w", err))
	}
	defer f.Close()
	buf := make([]byte, backupPiece)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := to.Send(&metapb.BackupResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return apiError(fmt.Errorf("backup: %w", err))
		}
	}
}

// copyState gives a file without a name that holds a snapshot.
func (n *Node) copyState() (*os.File, error) {
	f, err := os.CreateTemp(n.cfg.Dir, "backup-*")
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) { return nil, errors.Join(err, f.Close()) }
	if err := os.Remove(f.Name()); err != nil {
		return fail(err)
	}
	s, err := n.disks.state.Snapshot()
	if err != nil {
		return fail(err)
	}
	_, err = s.WriteTo(f)
	if err = errors.Join(err, s.Release()); err != nil {
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	return f, nil
}
