package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("dir", "chaos/mutants/testdata", "folder of the patches, from the root of the tree")
	only := flag.String("only", "", "only those whose name this regular expression finds")
	side := flag.Int("j", 1, "how many at a time")
	limit := flag.Duration("limit", 2*time.Minute, "how long the tests of one may take")
	trust := flag.Bool("trust", false, "take it that the tests pass without a fault")
	show := flag.Bool("v", false, "print what the tests of each wrote")
	flag.Parse()
	pick, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	all, err := load(*dir)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m mutant) bool { return !pick.MatchString(m.name) })
	if len(all) == 0 {
		return errors.New("there is no such mutant")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{ctx: ctx, root: ".", limit: *limit, trust: *trust, sound: make(map[string]func() error)}
	outcomes := make([]outcome, len(all))
	places := make(chan struct{}, max(*side, 1))
	var wg sync.WaitGroup
	var line sync.Mutex
	for i := range all {
		places <- struct{}{}
		wg.Go(func() {
			o := b.try(&all[i])
			line.Lock()
			fmt.Printf("%-12s %-36s %6.1fs  %s\n", o.verdict, all[i].name, o.took.Seconds(), o.by)
			if *show || o.verdict.bad() {
				fmt.Println(o.output)
			}
			line.Unlock()
			outcomes[i] = o
			<-places
		})
	}
	wg.Wait()
	return table(all, outcomes)
}

// table prints what became of all, and fails unless each is what its patch says.
func table(all []mutant, outcomes []outcome) error {
	count := make(map[verdict]int)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nmutant\tverdict\tby\tfault")
	bad := 0
	for i, o := range outcomes {
		count[o.verdict]++
		if o.verdict.bad() {
			bad++
		}
		by := o.by
		if o.verdict == equivalent {
			by = all[i].why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", all[i].name, o.verdict, by, all[i].fault)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Printf("\n%d of %d killed (%.1f %%), %d equivalent\n", count[killed], len(all), 100*float64(count[killed])/float64(len(all)), count[equivalent])
	if bad > 0 {
		return fmt.Errorf("%d of %d mutants are not what their patches say", bad, len(all))
	}
	return nil
}
