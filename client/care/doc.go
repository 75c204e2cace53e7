// Package care rebuilds volumes that nobody has attached.
//
// Its one noun is the Keeper, which lives in the process of a memory server.
// The metadata service offers it volumes that need care; it takes a care lease
// (client.AttachRequest.Care), opens the volume like any client, without a
// front end, and lets the client's rebuild driver do the work: the servers
// fill each other, and this process sends lists of rows. When nothing is left
// it gives the lease back.
//
// A care lease is an ordinary one in all that matters for safety: it has a
// higher epoch, which every server of the volume checks. It differs in that any
// other attach gets the volume at once; the Keeper then finds itself fenced and
// stops. When a Keeper dies, its lease runs out and another one goes on from
// what the members hold.
//
// Read in this order: keeper.go, watch.go.
package care
