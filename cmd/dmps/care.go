package main

import (
	"log/slog"

	"dmps/client/care"
	"dmps/meta/metaclient"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/media"
)

// caretaker is how holders of care leases are called, before the server's id.
const caretaker = "caretaker@"

// keeper is the care that a memory server takes of volumes that nobody has
// attached; none when k is nil.
type keeper struct{ k *care.Keeper }

func (f *serverFlags) keeper(meta *metaclient.Client, log *slog.Logger) keeper {
	if !f.care {
		return keeper{}
	}
	return keeper{care.New(care.Config{
		Holder: caretaker + f.id, Meta: meta, Dialer: func() transport.Dialer { return &media.Dialer{Log: log} },
		Memory: int64(f.careMem), Logger: log,
	})}
}

// offer implements server.Config.Care.
func (c keeper) offer(list []server.CareOffer) {
	if c.k == nil {
		return
	}
	for _, o := range list {
		c.k.Offer(o.Volume, o.Pages)
	}
}

func (c keeper) close() {
	if c.k != nil {
		c.k.Close()
	}
}
