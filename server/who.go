package server

import (
	"context"
	"errors"
	"strings"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

// Who asks which server answers at an address of any scheme: behind each is a TCP port
// that shakes hands. Nothing is opened there. cluster is that of who asks; a server that
// belongs to none yet answers all the same.
func Who(ctx context.Context, addr, cluster string) (raid.ServerID, raid.Incarnation, error) {
	_, hostPort, ok := strings.Cut(addr, "://")
	if !ok {
		return "", 0, errors.New("the address has no scheme, such as tcp://")
	}
	var d tcp.Dialer
	defer d.Close()
	_, w, err := d.Dial(ctx, "tcp://"+hostPort, transport.Hello{Cluster: cluster, Mode: transport.ModeReader, Client: "metadata"}, nil)
	return raid.ServerID(w.Server), raid.Incarnation(w.Incarnation), err
}
