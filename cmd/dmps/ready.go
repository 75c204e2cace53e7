package main

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// ready tells whoever started this role that it does now what it is for: units
// of systemd are Type=notify, so that what is ordered after one finds the device
// there and swapped to. Without a service manager it does nothing.
func ready(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("the service manager was not told that this role is ready", "error", err)
	}
}

// leaving tells it that the role is about to end in order.
func leaving(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
		log.Warn("the service manager was not told that this role ends", "error", err)
	}
}
