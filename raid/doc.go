// Package raid decides where the pages of a volume live and what guards them.
// It is the paper's Server Translator, with the coder beside it: pure state
// and policy. It does no I/O, reads no clock, starts no goroutine and imports
// no other package of this module; package client drives it.
//
// # Nouns
//
// A page (PageNo) is 4 KiB of the volume. A slot (Slot, or Index inside one
// chunk) is a page-sized place in a server's memory; it has a Header. A chunk
// is a run of slots that one server lends to one volume. A group (Group) is
// K+M chunks, its members (Col), on K+M servers in different failure domains.
// A row is the K+M slots with the same Index in one group: K data slots and M
// parity slots, one codeword. The Geometry is K and M; K=1 is a mirror. A
// Layout is all that a client must know of a volume; meta decides it. A note
// page (Notes) records the pages that have no slot of their own, since all of
// their bytes are the same.
//
// # The path of a page
//
// A page-out gets a place from the Log: free rows of one group for a whole
// batch (Log.Reserve). The Coder computes the parity of the batch alone
// (Coder.EncodeRow), each slot gets its Header, and every member is sent its
// part. Once all have it the page map points at the new slots (Log.Commit),
// and the old ones are dead. A row is written once and is immutable while it
// is in use: there is no read-modify-write and no write hole.
//
// A page-in asks the map (Log.Lookup, Log.Place) and reads one slot from one
// member. When that member does not answer, or its Header or checksum is
// wrong, any K others of the row (Coder.Sources) give the page back
// (Coder.Reconstruct).
//
// Rows that are mostly dead are emptied by moving what lives in them
// (Log.Victims). A client that restarts builds the map anew from the headers
// (Recovery). It believes the members that belong to each group (View), and judges
// the rows that are not settled. Before it serves anything that is made to last
// (Log.UnsureRows, Log.UnsureVictims, Log.TakeView, Log.Begin). Dead rows whose headers a recovery
// could take for something are erased before they are free (Log.TakeDoomed).
//
// Volumes of kind LayoutLinear and LayoutStriped have neither map nor parity:
// an InPlace computes where a page lives, for ever.
//
// # Caveats
//
// What lies in servers' memory is a format: the bytes of Header and Notes and
// the generator of Coder must not change without a new version. A Log is not
// safe for concurrent use; the Coder and the InPlace translators are. The
// Coder has no integrity check of its own: it believes its shards, so compare
// each page with the checksum in its header first.
//
// # Reading order
//
// units, geometry, layout, header: the words. log and what begins with log_
// (the state of rows; reserve, take, window, commit, clean, notes, erase, view, thin,
// missing, health, recover, replace, pending, scrub, stored, check), entry: the map.
// coder and coder_solve: redundancy. notes: fills and trims. inplace, linear and striped:
// the baseline.
package raid
