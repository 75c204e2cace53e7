package main

import (
	"fmt"
	"slices"
	"strings"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/transport/fabric"
)

// carriersOf says what carries a volume's pages, where that is not TCP over one
// address to every server as a matter of course; and whether it is less than what
// the servers offer.
func carriersOf(r *client.Report, servers []metaclient.Server) (text string, less bool) {
	if r == nil {
		return "", false
	}
	var parts []string
	for name, n := range r.Counters {
		if carrier, ok := carrierOf(name); ok && n > 0 {
			parts = append(parts, fmt.Sprintf("%s to %s", carrier, count(n, "server")))
		}
	}
	offered := slices.ContainsFunc(servers, func(s metaclient.Server) bool { return fabric.IsAddress(s.Addr) })
	rails, down := r.Counters["rails"], r.Counters["rails_down"]
	if len(parts) == 0 || !offered && rails+down == 0 {
		return "", false
	}
	slices.Sort(parts)
	text = strings.Join(parts, ", ")
	if rails+down > 0 {
		text += fmt.Sprintf(", by %d of %d rails", rails, rails+down)
	}
	everywhere := !slices.ContainsFunc(servers, func(s metaclient.Server) bool { return !fabric.IsAddress(s.Addr) })
	return text, down > 0 || everywhere && r.Counters["sessions_tcp"] > 0
}

// carrierOf is the carrier that a counter of sessions is for
// (client.Report.Counters).
func carrierOf(counter string) (string, bool) {
	name, ok := strings.CutPrefix(counter, "sessions_")
	if provider, is := strings.CutPrefix(name, "fabric_"); is {
		return "fabric+" + provider, ok
	}
	return name, ok && name == "tcp"
}
