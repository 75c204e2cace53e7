// Package metaclient asks the metadata service of dmps.
//
// A Client is made from the API addresses of any meta nodes, in any order. It
// is what package client needs to attach volumes (client.Meta), what package
// server needs to lend memory (server.Registrar), and what the command line
// needs to look after the cluster. Client finds the node that answers, goes on
// to the next one when it does not, and tries again for a bounded time while
// nobody leads.
//
// Errors fall in two classes. A refusal is a decision of the service and comes
// back at once: it matches one of the sentinels of this package or of package
// client, and its text is for people. Without a decision the error matches
// client.ErrNoQuorum, and also ErrUnreachable when no node answered at all:
// try again later.
//
// The package stands between meta and the packages client and server, so that
// these do not import each other: cmd passes a Client to both.
package metaclient
