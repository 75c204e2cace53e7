// Package cluster runs a whole dmps cluster on one host, every role a process
// of its own that may be killed, frozen and started again from outside.
//
// It is what `dmps dev` and `dmps demo` are made of. The nouns: a Config says
// what to start; a Cluster is the running thing; a File is cluster.json, the
// documented interface to programs that build on it (docs/dev-cluster.md).
//
// The path of Start, in order: take the folder (dir.go: one cluster a folder,
// leftovers of a killed one are found), take ports (plan.go), start the
// processes (process.go), wait for the metadata service and its servers, create
// the volume, start the client, shake hands with NBD, write cluster.json. From
// then on a watcher follows the roles by their pid files, whoever started them,
// and rewrites cluster.json.
//
// Caveats. All memory servers share one host, so the volume is placed with
// failure domain "server" and survives processes, not machines. A process is
// taken for a role only when its command line names the role's pid file:
// process ids are used again, and nothing that is not ours may be killed.
package cluster
