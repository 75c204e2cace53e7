// Package scale measures the metadata service with many memory servers, clients and groups:
// three metadata nodes are processes, the servers and clients only what they say to them.
// `make scale` runs it whole, the end-to-end tests of CI in small.
package scale
