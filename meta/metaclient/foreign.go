package metaclient

import (
	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

// ClusterHeader names the cluster that a call is meant for. A node of another
// one refuses the call: ids of volumes and epochs mean nothing there, and one
// that began anew at the addresses of a cluster that lost its disks must not
// tell the clients that still page that their volumes were deleted.
const ClusterHeader = "Dmps-Cluster"

// learn notes the cluster that this Client belongs to from now on.
func (c *Client) learn(cluster string) {
	if cluster != "" {
		c.cluster.CompareAndSwap(nil, &cluster)
	}
}

// meant marks a call that must not reach another cluster.
func meant[T any](c *Client, r *connect.Request[T]) *connect.Request[T] {
	if p := c.cluster.Load(); p != nil {
		r.Header().Set(ClusterHeader, *p)
		if g := c.heard.of(*p); g > 0 {
			r.Header().Set(GenerationHeader, FormatGeneration(*p, g))
		}
	}
	return r
}

// foreign reports whether a node refused a call because it is of another
// cluster: one of the others may not be.
func foreign(r *metapb.Reason) bool { return r.GetCode() == metapb.Reason_CODE_FOREIGN_CLUSTER }
