package peers

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"dmps/chaos/e2e/rig"
)

// RoleServers is the role of dmps' memory servers, whose memory is limited.
const RoleServers = "servers"

// Names of dmps' configurations.
const (
	NameNone   = "dmps-none"
	NameMirror = "dmps-mirror3"
	NameRS     = "dmps-rs4+2"
)

// dmpsContenders are the configurations that are compared. A server lends
// twice its share of the volume: the log needs spare rows, and a
// volume that does not fit would be refused.
func dmpsContenders() []Contender {
	return []Contender{
		dmpsContender(NameNone, "none", "log", 1, 1),
		dmpsContender(NameMirror, "mirror:3", "log", 3, 3),
		dmpsContender(NameRS, "rs:4+2", "log", 6, 1.5),
		dmpsContender("dmps-linear", "none", "linear", 1, 1),
		dmpsContender("dmps-striped", "none", "striped", 6, 1),
	}
}

func dmpsContender(name, redundancy, layout string, servers int, overhead float64) Contender {
	perServer := func(size int64) int64 {
		const chunk = 64 << 20
		share := int64(float64(size) * overhead / float64(servers))
		return 2*share + 2*chunk
	}
	return Contender{
		Name:   name,
		About:  fmt.Sprintf("dmps, %s, layout %s, memory servers: %d, each a process reached by TCP", redundancy, layout, servers),
		Memory: func(size int64) int64 { return int64(servers) * perServer(size) },
		start: func(ctx context.Context, s Site) (*Target, error) {
			addr := "127.0.0.1:0"
			if s.Front == "unix" {
				addr = "unix:" + s.socket()
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			d, err := rig.StartDev(ctx, rig.DevConfig{
				Bin: s.Dmps, Dir: filepath.Join(s.Dir, "dev"),
				Meta: 1, Servers: servers, ServerMemory: mib(perServer(s.Size)),
				Redundancy: redundancy, Layout: layout, Size: mib(s.Size), NBD: addr, Volume: "bench",
			})
			if err != nil {
				return nil, err
			}
			t := &Target{URI: d.NBD, stop: []func() error{d.Stop}}
			t.addPID("client", d.Client.PID)
			for _, r := range d.Servers {
				t.addPID(RoleServers, r.PID)
			}
			t.Roles[1].Limit = perServer(s.Size) >> 20 << 20
			for _, r := range d.Meta {
				t.addPID("meta", r.PID)
			}
			return t, nil
		},
	}
}

func mib(n int64) string { return fmt.Sprintf("%dMiB", n>>20) }
