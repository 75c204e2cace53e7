// Package host measures package paper's figures from outside: it boots a guest
// for each, with what package bed needs, reads the rows from its console, and
// saves them.
//
// A figure has a guest of its own: one that hangs takes no other with it, and no
// figure finds what another left behind. It is saved when it is complete, or
// not at all.
package host
