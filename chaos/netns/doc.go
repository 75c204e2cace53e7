// Package netns makes hosts of network namespaces on one switch, and breaks the
// network between them: real processes with addresses of their own, and real TCP that
// loses packets.
//
// The nouns: a Net is a switch, in a namespace of its own, and its Hosts; a Fault is
// something that happens to packets. Set replaces all faults at once. What is dropped is
// dropped at the switch, by one atomic change of its rules, so a partition has no
// moment in which it is half there. What is refused is refused by the host that is
// asked, as a firewall does.
//
// It needs root, and the programs ip and nft of the Debian packages iproute2 and
// nftables: Possible says what is missing. Close removes everything, and ends what
// runs in a namespace all the same.
//
// Read in this order: net.go, fault.go.
package netns
