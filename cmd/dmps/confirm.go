package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// consent is the --yes flag of a command that destroys or gives up something.
// Such a command says what it is about to do, and does it only when somebody
// agreed: by the flag, or by typing y.
type consent struct{ given bool }

// flag adds --yes to a command.
func (c *consent) flag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.given, "yes", "y", false, "do not ask")
}

// ask returns nil when the deed may be done. deed says what is about to happen
// and to what, as a sentence without its full stop ("delete volume v1 (1 GiB)
// and everything in it"); consequences, one a line, what follows from it.
//
// With --yes nothing is asked or printed. Without a terminal there is nobody
// who could answer, and the command line is refused (exit code 64). Any answer
// but y or yes means no.
func (c *consent) ask(a *app, deed string, consequences ...string) error {
	if c.given {
		return nil
	}
	if !isTerminal(a.in) {
		return usageError("this would %s. Nobody is there to be asked: say --yes if that is what you want", deed)
	}
	return askOn(a.in, a.err, deed, consequences)
}

// errDeclined is the end of a command whose user said no.
var errDeclined = errors.New("nothing was done")

// askOn asks on w and reads the answer from r.
func askOn(r io.Reader, w io.Writer, deed string, consequences []string) error {
	fmt.Fprintf(w, "This will %s.\n", deed)
	for _, line := range consequences {
		fmt.Fprintf(w, "  %s\n", line)
	}
	fmt.Fprint(w, "Go on? [y/N] ")
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errDeclined
}
