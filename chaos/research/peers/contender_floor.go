package peers

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"dmps/chaos/research/peers/floor"
)

// Names of the floors: what sockets cost for the hops and bytes of dmps.
const (
	NameFloorNone   = "floor-none"
	NameFloorMirror = "floor-mirror3"
	NameFloorRS     = "floor-rs4+2"
)

func floorContenders() []Contender {
	return []Contender{
		floorContender(NameFloorNone, 1, 0),
		floorContender(NameFloorMirror, 1, 2),
		floorContender(NameFloorRS, 4, 2),
	}
}

func floorContender(name string, k, m int) Contender {
	return Contender{
		Name:   name,
		About:  fmt.Sprintf("the hops and bytes of dmps with %d+%d members and nothing else: a relay over plain sockets, in Go", k, m),
		Memory: func(size int64) int64 { return int64(k+m) * size },
		start: func(ctx context.Context, s Site) (*Target, error) {
			t := &Target{}
			var stores []string
			for range k + m {
				addr, err := t.loopback()
				if err != nil {
					return t, err
				}
				argv := append(append([]string{}, s.Floor...), "store", addr, strconv.FormatInt(s.Size, 10))
				if err := t.launch(ctx, s, RoleServers, addr, argv...); err != nil {
					return t, err
				}
				stores = append(stores, addr)
			}
			addr, err := t.endpoint(s)
			if err != nil {
				return t, err
			}
			argv := append(append([]string{}, s.Floor...), "relay", addr, strconv.FormatInt(s.Size, 10), strconv.Itoa(k), strings.Join(stores, ","))
			return t, t.launch(ctx, s, "client", addr, argv...)
		},
	}
}

// Floor is the main function of the processes of a floor. It serves until ctx
// ends.
//
//	store ADDRESS BYTES
//	relay ADDRESS BYTES K STORES
func Floor(ctx context.Context, args []string) error {
	usage := fmt.Errorf("floor: %q is not understood", args)
	if len(args) < 3 {
		return usage
	}
	network := "tcp"
	if filepath.IsAbs(args[1]) {
		network = "unix"
	}
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("floor: size: %w", err)
	}
	l, err := net.Listen(network, args[1])
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	switch {
	case args[0] == "store" && len(args) == 3:
		return floor.Store(l, size)
	case args[0] == "relay" && len(args) == 5:
		k, err := strconv.Atoi(args[3])
		if err != nil {
			return fmt.Errorf("floor: data members: %w", err)
		}
		return floor.Relay(l, floor.Config{Size: size, K: k, Stores: strings.Split(args[4], ",")})
	}
	return usage
}
