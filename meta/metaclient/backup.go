package metaclient

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

// Backup writes a consistent copy of all decisions to w, for meta.Restore,
// which also checks that it is whole. Every node is asked in turn until one
// begins to answer; an error after that is returned, and what was written is
// worth nothing. It gives the number of bytes.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	s, err := call(ctx, c, backupTimeout, "backup", &metapb.BackupRequest{},
		func(n *endpoint, attempt context.Context, r *connect.Request[metapb.BackupRequest]) (*connect.Response[backupStream], error) {
			// The attempt ends with the first bytes, the stream later.
			ctx, cancel := context.WithCancel(ctx)
			begun := context.AfterFunc(attempt, cancel)
			stream, err := n.cluster.Backup(ctx, r)
			if err != nil {
				cancel()
				return nil, err
			}
			ok := stream.Receive()
			begun()
			if !ok {
				err := stream.Err()
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				_ = stream.Close() // it failed already
				cancel()
				return nil, err
			}
			return connect.NewResponse(&backupStream{stream, cancel}), nil
		})
	if err != nil {
		return 0, err
	}
	defer s.cancel()
	defer s.Close()
	var n int64
	for {
		m, err := w.Write(s.Msg().Data)
		n += int64(m)
		if err != nil {
			return n, fmt.Errorf("backup: write: %w", err)
		}
		if !s.Receive() {
			break
		}
	}
	if err := s.Err(); err != nil {
		return n, fmt.Errorf("backup: after %d bytes: %w", n, err)
	}
	return n, nil
}

// backupStream is what a call for a backup gives.
type backupStream struct {
	*connect.ServerStreamForClient[metapb.BackupResponse]
	cancel context.CancelFunc
}
