package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// commands lists all commands of the program.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		all = append(all, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{out: os.Stdout, err: os.Stderr}).root())
	return all
}

// TestHelpIsComplete: every command says what it does and how it is used, and
// its examples are command lines that parse.
func TestHelpIsComplete(t *testing.T) {
	seen := 0
	for _, c := range commands(t) {
		if c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			continue
		}
		seen++
		if c.Short == "" {
			t.Errorf("%s: no short help", c.CommandPath())
		}
		if c.Runnable() && c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s: no example", c.CommandPath())
		}
		for _, line := range commandLines(c.Example) {
			if err := parseLine(line); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), strings.Join(line, " "), err)
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d commands", seen)
	}
}

// TestDocumentedCommandsParse: command lines in fenced blocks of the
// documentation exist.
func TestDocumentedCommandsParse(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "../../README.md", "../../CONTRIBUTING.md")
	fence := regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	lines := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(b), -1) {
			for _, line := range commandLines(m[1]) {
				lines++
				if err := parseLine(line); err != nil {
					t.Errorf("%s: %q: %v", f, strings.Join(line, " "), err)
				}
			}
		}
	}
	if lines < 5 {
		t.Errorf("found only %d command lines in the documentation", lines)
	}
}

// commandLines finds dmps command lines in a text: the words behind dmps, as
// far as the shell would pass them on.
func commandLines(text string) [][]string {
	text = strings.ReplaceAll(text, "\\\n", " ")
	var lines [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		for _, prefix := range []string{"", "bin/", "sudo "} {
			rest, ok := strings.CutPrefix(line, prefix+"dmps ")
			if !ok {
				continue
			}
			var words []string
			for _, w := range strings.Fields(rest) {
				if strings.HasPrefix(w, "#") || strings.ContainsAny(w[:1], "|>&;") {
					break
				}
				words = append(words, strings.Trim(w, `'"`))
			}
			lines = append(lines, words)
		}
	}
	return lines
}

// parseLine finds the command and parses its flags and arguments, and does not
// run it.
func parseLine(words []string) error {
	root := (&app{out: os.Stdout, err: os.Stderr}).root()
	cmd, args, err := root.Find(words)
	if err != nil {
		return err
	}
	if cmd == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return fmt.Errorf("no command %s", args[0])
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return nil
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

func TestCommandLineMistakes(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"bogus", exitcode.Usage, "unknown command"},
		{"volume", exitcode.Usage, "create, delete, list, show"},
		{"volume bogus", exitcode.Usage, "unknown command"},
		{"volume create", exitcode.Usage, "takes NAME"},
		{"volume create x", exitcode.Usage, "--size 16GiB"},
		{"volume create x --size 1GiB", exitcode.Usage, "--redundancy rs:4+2"},
		{"volume create x --size 1GiB --redundancy rs:4", exitcode.Usage, "for example rs:4+2"},
		{"volume create x --size 1GiB --redundancy rs:4+2 --layout linear", exitcode.Usage, "--redundancy none"},
		{"volume create x --size 1GiB --redundancy none --failure-domain cage", exitcode.Usage, "server or host or rack or zone"},
		{"volume list", exitcode.Usage, metaVariable},
		{"volume list --meta ftp://x", exitcode.Usage, "http://HOST:PORT"},
		{"volume list --output xml", exitcode.Usage, "table or json"},
		{"volume list --timeout 50ms --meta 127.0.0.1:1", exitcode.Unavailable, "dmps dev"},
		{"status --timeout 50ms --meta 127.0.0.1:1", exitcode.Unavailable, "no metadata node answers"},
		{"status --log-level loud", exitcode.Usage, "log-level"},
		{"rebuild", exitcode.Usage, "takes VOLUME"},
		{"rebuild x --rate fast", exitcode.Usage, "rate"},
		{"top --every 1ms", exitcode.Usage, "at least 100ms"},
		{"top --once --timeout 50ms --meta 127.0.0.1:1", exitcode.Unavailable, "no metadata node answers"},
		{"events --since -3m", exitcode.Usage, "10m"},
		{"events --timeout 50ms --meta 127.0.0.1:1", exitcode.Unavailable, "dmps dev"},
		{"meta", exitcode.Usage, "dir"},
		{"meta --dir x --api 0.0.0.0:1", exitcode.Usage, "--insecure-network"},
		{"meta --dir x --raft :1", exitcode.Usage, "--insecure-network"},
		{"server", exitcode.Usage, "memory"},
		{"server --memory 0", exitcode.Usage, "--memory 8GiB"},
		{"server --memory 1GiB --listen 192.0.2.1:7301", exitcode.Usage, "--insecure-network"},
		{"server --memory 1GiB --listen 7301", exitcode.Usage, "HOST:PORT"},
		{"server --memory 1GiB --listen 0.0.0.0:7301 --insecure-network", exitcode.Usage, "--advertise"},
		{"server --memory 1GiB --listen [::]:7301 --advertise :7301 --insecure-network", exitcode.Usage, "--advertise"},
		{"meta --dir x --api 0.0.0.0:1 --insecure-network", exitcode.Usage, "--api-advertise"},
		{"meta --dir x --raft :1 --insecure-network", exitcode.Usage, "--raft-advertise"},
		{"meta restore x --dir y --raft 0.0.0.0:1 --yes", exitcode.Usage, "--raft"},
		{"attach", exitcode.Usage, "takes VOLUME"},
		{"attach x --nbd /run/x.sock", exitcode.Usage, "unix:PATH"},
		{"attach x --nbd 192.0.2.1:10809", exitcode.Usage, "--insecure-network"},
		{"attach x --admin 192.0.2.1:1", exitcode.Usage, "--insecure-network"},
		{"dev --meta 2", exitcode.Usage, "must be 1, 3 or 5"},
		{"dev --servers 0", exitcode.Usage, "needs 6 memory servers"},
		{"dev --nbd 192.0.2.1:10809", exitcode.Usage, "an address of loopback"},
		{"dev --nbd 127.0.0.1:99999", exitcode.Usage, "a number from 0 to 65535"},
		{"dev --nbd 127.0.0.1:nbd", exitcode.Usage, "a number from 0 to 65535"},
		{"dev --nbd unix:/no/such/folder/s", exitcode.Usage, "its folder"},
		{"dev --nbd unix:/proc/version", exitcode.Usage, "is no socket"},
		{"dev --dir /proc/version", exitcode.Failure, "not a directory"},
		{"demo --size 1", exitcode.Usage, "the demo needs at least"},
		{"volume create x --size 1 --redundancy none", exitcode.Usage, "a page of 4096 bytes"},
		{"help nosuch", exitcode.Usage, "nosuch"},
		{"help volume bogus", exitcode.Usage, "bogus"},
		{"completion fish9", exitcode.Usage, "fish9"},
		{"volume create x --size 1GiB --redundancy none --fill 0", exitcode.Usage, "10 to 95"},
		{"server --memory 1KiB", exitcode.Usage, "at least one page"},
		{"server --memory 1GiB --id a/b", exitcode.Usage, "--id"},
		{"server --memory 1GiB --label =x", exitcode.Usage, "rack=r1"},
		{"attach x --heap-limit 1KiB", exitcode.Usage, "at least 16MiB"},
		{"attach x --nbd unix:/proc/version", exitcode.Usage, "is no socket"},
		{"attach x --nbd unix:/" + strings.Repeat("a", 120), exitcode.Usage, "107 bytes"},
		{"dev --nbd nowhere", exitcode.Usage, "--nbd"},
		{"demo --kill 3", exitcode.Usage, "survives the loss of 2"},
		{"bench nbd://127.0.0.1:1", exitcode.Usage, "--overwrite"},
		{"bench http://x --overwrite", exitcode.Usage, "nbd://"},
		{"bench --depth 0", exitcode.Usage, "--depth 0"},
		{"bench --ops sideways", exitcode.Usage, "randread"},
	} {
		code, out, errOut := runCLI(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(errOut, c.want) {
			t.Errorf("dmps %s: exit code %d, want %d; stderr %q, want %q in it", c.args, code, c.code, errOut, c.want)
		}
		if out != "" {
			t.Errorf("dmps %s: printed a result: %q", c.args, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitcode.Failure},
		{fmt.Errorf("x: %w", client.ErrInUse), exitcode.InUse},
		{&metaclient.InUseError{Holder: "h"}, exitcode.InUse},
		{fmt.Errorf("x: %w", client.ErrNoQuorum), exitcode.Unavailable},
		{fmt.Errorf("x: %w", syscall.EADDRINUSE), exitcode.CannotListen},
		{listenError("nbd", "x", syscall.EACCES), exitcode.CannotListen},
		{fmt.Errorf("x: %w", client.ErrNoVolume), exitcode.NotFound},
		{fmt.Errorf("x: %w", metaclient.ErrNotFound), exitcode.NotFound},
		{usageError("x"), exitcode.Usage},
		{statusExit(client.StateDegraded), exitcode.Degraded},
		{statusExit(client.StateFailed), exitcode.Lost},
		{statusExit("strange"), exitcode.Failure},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
	if err := statusExit(client.StateHealthy); err != nil {
		t.Errorf("healthy: %v", err)
	}
}

// TestAdvice: every sentinel that a person can meet comes with a next step.
func TestAdvice(t *testing.T) {
	a := &app{metaURLs: []string{"http://m:1"}}
	for _, err := range []error{
		syscall.EADDRINUSE, metaclient.ErrUnreachable, client.ErrNoQuorum, client.ErrInUse, client.ErrNoVolume, client.ErrFenced,
		metaclient.ErrExists, metaclient.ErrTooFewDomains, metaclient.ErrNoSpace, metaclient.ErrIDInUse, metaclient.ErrIDAwaited, metaclient.ErrNoMajority,
		metaclient.ErrForeignCluster, metaclient.ErrNotFound, metaclient.ErrHoldsChunks, metaclient.ErrUnknownOutcome,
	} {
		if a.advice(fmt.Errorf("x: %w", err)) == "" {
			t.Errorf("no advice for: %v", err)
		}
	}
	if s := a.advice(fmt.Errorf("y: %w", &advised{client.ErrInUse, "say --force"})); s != "say --force" {
		t.Errorf("an error with advice of its own gets: %s", s)
	}
	if s := a.advice(errors.New("x")); s != "" {
		t.Errorf("advice out of nothing: %s", s)
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}} {
		code, out, _ := runCLI(args...)
		if code != 0 || !strings.Contains(out, "wire protocol 5") {
			t.Errorf("%v: %d %q", args, code, out)
		}
	}
	if code, out, _ := runCLI("version", "--output", "json"); code != 0 || !strings.Contains(out, `"protocol": 5`) {
		t.Errorf("%d %q", code, out)
	}
}

func TestCompletion(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"volume create x --redundancy ", "rs:4+2"},
		{"volume create x --layout ", "striped"},
		{"status --output ", "json"},
		{"events --output ", "json"},
		{"vol", "volume"},
		{"server ", "list"},
	} {
		words := append([]string{"__complete"}, strings.Split(c.args, " ")...)
		code, out, errOut := runCLI(words...)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("complete %q: %d %q %q, want %q", c.args, code, out, errOut, c.want)
		}
	}
	// A metadata service that is not there is no error of the shell's user.
	if code, out, _ := runCLI("__complete", "volume", "show", "--meta", "127.0.0.1:1", ""); code != 0 || strings.Contains(out, "swap") {
		t.Errorf("%d %q", code, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := runCLI("completion", shell); code != 0 || len(out) < 1000 {
			t.Errorf("completion %s: %d, %d bytes", shell, code, len(out))
		}
	}
}
