// Package draw makes the pictures of package paper's data, as SVG and PNG.
//
// Nouns: a picture is a row of panels with one legend beside them, where it
// covers nothing; a panel has lines over a logarithmic axis of sizes (chart), or
// groups of bars (bars). Every device has its colour and its mark in all
// pictures (look). Each figure has a file that turns its rows into panels.
//
// A point is the median of the rows with the same settings. Where there is no
// row there is no point: nothing is interpolated.
//
// It measures nothing: All draws again whatever lies in docs/paper/data.
package draw
