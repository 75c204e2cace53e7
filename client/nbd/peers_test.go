package nbd_test

import (
	"testing"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// TestPeers serves a device in memory to the clients that people use.
func TestPeers(t *testing.T) {
	t.Run("unix", func(t *testing.T) {
		_, uri := serve(t, nbd.Config{Exports: exports(devicetest.New(t, devicetest.NewDisk(nbdtest.MinSize), 4*client.MaxOpPages, false))})
		nbdtest.Peers(t, uri)
	})
	t.Run("tcp", func(t *testing.T) {
		l, err := nbd.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, uri := serveOn(t, l, nbd.Config{Exports: exports(devicetest.New(t, devicetest.NewDisk(nbdtest.MinSize), 4*client.MaxOpPages, false))})
		nbdtest.Nbdsh(t, uri)
		nbdtest.Nbdcopy(t, uri)
	})
}
