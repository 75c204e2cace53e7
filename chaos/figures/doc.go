// Package figures holds what was measured for a figure: the rows of transfers, the
// machine that they come from, and the files and console lines that carry them.
//
// Nouns, in reading order:
//
//   - Data is a file of rows with the machine and the time they come from.
//   - A TransferRow is what one carrier did with transfers of one size; Moved is how
//     much went through in how long.
//   - A Report writes rows to a console, a line each, for figures that a guest measures.
//   - A Bar is a number that was asked for, and what was measured.
//
// The pictures are drawn by chaos/research, a module of its own: the program and its
// tests do not depend on what draws.
package figures
