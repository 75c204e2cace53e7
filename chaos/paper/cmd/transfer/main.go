// Transfer draws what `go test -tags fabric ./transport/fabric -run Figure
// -figure docs/transport` has measured, and prints how it stands to what was
// asked for:
//
//	go run ./chaos/paper/cmd/transfer -dir docs/transport
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"dmps/chaos/paper"
	"dmps/chaos/paper/draw"
)

func main() {
	dir := flag.String("dir", "docs/transport", "`folder` of what was measured, and for the pictures")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "transfer:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	d, err := paper.Load[paper.TransferRow](dir, paper.FigureTransfer)
	if err != nil {
		return err
	}
	fmt.Printf("measured %s in %.0f s, load %s before and %s after\n", d.Started.Format("2006-01-02 15:04"), d.Took, d.Load[0], d.Load[1])
	for _, b := range paper.TransferBars(d.Rows) {
		fmt.Println(b)
	}
	drawn, err := draw.Transfer(dir, dir)
	fmt.Printf("drawn in %s: %s\n", dir, strings.Join(drawn, ", "))
	return err
}
