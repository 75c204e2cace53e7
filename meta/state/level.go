package state

import (
	"fmt"

	"dmps/raid"
)

// Level is a kind of failure domain, from the finest to the coarsest. Its zero
// value is the default, so that nobody gets less by leaving it out.
type Level uint8

const (
	LevelHost   Level = iota
	LevelServer       // finer than host: only when it is asked for by name
	LevelRack
	LevelZone
)

var levelNames = [...]string{"host", "server", "rack", "zone"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// ParseLevel is the inverse of String; the empty string is the default.
func ParseLevel(s string) (Level, error) {
	if s == "" {
		return LevelHost, nil
	}
	for i, n := range levelNames {
		if s == n {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("unknown failure domain %q: use server, host, rack or zone", s)
}

// domain names the failure domain of a server at a level. Without a host
// label a server is its own host. Servers without a rack or zone label are all
// in one nameless rack or zone: nothing says that they are apart.
func (s *Server) domain(l Level) string {
	switch l {
	case LevelServer:
		return string(s.ID)
	case LevelRack:
		return s.Labels["zone"] + "\x00" + s.Labels["rack"]
	case LevelZone:
		return s.Labels["zone"]
	}
	if h := s.Labels["host"]; h != "" {
		return "h" + h
	}
	return "s" + string(s.ID)
}

// wider lists the levels that a volume which asks for l may be spread by, the
// coarsest first, l last.
func (l Level) wider() []Level {
	switch l {
	case LevelZone:
		return []Level{LevelZone}
	case LevelRack:
		return []Level{LevelZone, LevelRack}
	case LevelServer:
		return []Level{LevelZone, LevelRack, LevelHost, LevelServer}
	}
	return []Level{LevelZone, LevelRack, LevelHost}
}

// apart reports whether two servers may share a group of a volume that asks
// for ask and is spread by by. Whatever the labels say, one host is shared
// only by a volume that asks for server.
func apart(a, b *Server, ask, by Level) bool {
	if a.ID == b.ID {
		return false
	}
	if ask != LevelServer && a.domain(LevelHost) == b.domain(LevelHost) {
		return false
	}
	return a.domain(ask) != b.domain(ask) && a.domain(by) != b.domain(by)
}

// Apart reports whether two servers may share a group of the volume.
func (v *Volume) Apart(a, b raid.ServerID, servers map[raid.ServerID]*Server) bool {
	sa, sb := servers[a], servers[b]
	if sa == nil || sb == nil {
		return a != b
	}
	return apart(sa, sb, v.Domain, v.PlacedBy)
}
