// Dmps lends the memory of machines to a machine that needs more of it: one
// program, all roles.
//
// One file a noun: server.go and meta.go run the daemons that lend and decide;
// attach.go serves a volume over NBD; volume.go, servers.go, status.go, top.go,
// events.go and rebuild.go ask and tell; dev.go runs a whole cluster on this host
// (package chaos/cluster) and demo.go breaks one on purpose; bench.go measures.
// Around them: root.go has the flags that all share, exit.go turns errors into
// exit codes and advice, confirm.go asks before something is destroyed, output.go
// prints tables and JSON, term.go makes them fit a terminal, role.go is the life of
// a daemon, memory.go locks memory, admin.go answers questions over HTTP.
//
// Here is wiring only: the packages client and server do not know package meta,
// they get a metaclient.Client handed in from here.
package main
