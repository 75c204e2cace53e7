package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"dmps/chaos/cluster"
	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta"
	"dmps/meta/level"
	"dmps/meta/metaclient"
)

// exitError carries an exit code. Without err there is nothing to print: the
// output has said it.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// usageError is a command line that cannot be carried out, found out only
// after its flags were parsed.
func usageError(format string, a ...any) error {
	return &exitError{exitcode.Usage, fmt.Errorf(format, a...)}
}

// codeOf is the exit code of an error.
func codeOf(err error) int {
	var e *exitError
	var unknown *level.UnknownError
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &unknown), errors.Is(err, meta.ErrLevel):
		return exitcode.TooOld
	case errors.Is(err, cluster.ErrConfig):
		return exitcode.Usage
	case errors.Is(err, client.ErrInUse):
		return exitcode.InUse
	case errors.Is(err, client.ErrFenced):
		return exitcode.Fenced
	case errors.Is(err, client.ErrNoQuorum):
		return exitcode.Unavailable
	case errors.Is(err, client.ErrNoVolume), errors.Is(err, metaclient.ErrNotFound):
		return exitcode.NotFound
	case errors.Is(err, syscall.EADDRINUSE):
		return exitcode.CannotListen
	}
	return exitcode.Failure
}

// advised is an error with advice of its own.
type advised struct {
	error
	text string
}

func (e *advised) Unwrap() error { return e.error }

// listenError marks an address that could not be listened on.
func listenError(flag, addr string, err error) error {
	return &exitError{exitcode.CannotListen, fmt.Errorf("--%s %s: %w", flag, addr, err)}
}

// advice is what to do about an error; "" when the message says it.
func (a *app) advice(err error) string {
	var own *advised
	switch {
	case errors.As(err, &own):
		return own.text
	case errors.Is(err, syscall.EADDRINUSE):
		return "Another program listens there: stop it, or choose another address."
	case errors.Is(err, metaclient.ErrUnreachable):
		return fmt.Sprintf("Is a metadata node running at %s? Name others with --meta or %s; 'dmps meta --help' says how to start one, 'dmps dev' starts a whole cluster.",
			strings.Join(a.urls(), ", "), metaVariable)
	case errors.Is(err, client.ErrNoQuorum):
		return "More than half of the metadata nodes must be up and connected. Paging of attached volumes goes on meanwhile."
	case errors.Is(err, client.ErrInUse):
		return "Stop the client that holds it, or wait until its lease has run out, or take it over with 'dmps attach --takeover': the other client is then refused by every server."
	case errors.Is(err, client.ErrNoVolume):
		return "'dmps volume list' shows which there are, 'dmps volume create' makes one."
	case errors.Is(err, client.ErrFenced):
		return "Its lease is over: another client has the volume, or the metadata was restored or recovered. 'dmps status' shows who has it; when nobody does, attach it again."
	case errors.Is(err, metaclient.ErrExists):
		return "Choose another name, or look at the existing one with 'dmps volume show'."
	case errors.Is(err, metaclient.ErrTooFewDomains):
		return "'dmps server list' shows the servers and their labels. Add servers, ask for less redundancy, or, if it may be, name a finer --failure-domain."
	case errors.Is(err, metaclient.ErrNoSpace):
		return "'dmps server list' shows how much each server lends. Add servers, or ask for less."
	case errors.Is(err, metaclient.ErrIDInUse):
		return "Stop the one that has it ('dmps server list' says where it is), or, to start another one, choose another --id."
	case errors.Is(err, metaclient.ErrIDAwaited):
		return "It gets the id when the other one counts as down (--grace of 'dmps meta'). Was it started twice, or cloned? 'dmps server list' shows where the other one is."
	case errors.Is(err, metaclient.ErrLevel):
		return "'dmps version --all' shows the version of each node, and which levels it knows."
	case errors.Is(err, metaclient.ErrNoMajority):
		return "'dmps meta list' shows who answers. Start the silent ones, or let them leave first."
	case errors.Is(err, metaclient.ErrNotFound):
		return "'dmps server list' and 'dmps meta list' show which there are."
	case errors.Is(err, metaclient.ErrForeignCluster):
		return "The address leads to another cluster, or the data folder is of an earlier one."
	case errors.Is(err, metaclient.ErrHoldsChunks):
		return "Bring it back and move them off with 'dmps server drain'. Deleting the volumes, or --force, gives them up; forced, the groups of those volumes lose a member."
	case errors.Is(err, metaclient.ErrUnknownOutcome):
		return "Look with 'dmps status' before doing it again."
	}
	return ""
}
