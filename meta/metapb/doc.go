// Package metapb is the API of the metadata service on the wire: the messages
// and services of meta.proto, and their generated Go code. Package metaclient
// is how Go programs call it; docs/meta.md shows how curl does.
//
// To change the API, edit meta.proto and run go generate in this folder; the
// result is committed. Fields are only ever added: their numbers and JSON
// names are a promise.
package metapb

//go:generate go tool -modfile=../../tools/go.mod buf lint
//go:generate go tool -modfile=../../tools/go.mod buf generate
