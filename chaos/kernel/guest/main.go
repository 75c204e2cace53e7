package main

import (
	"fmt"
	"os"
)

func main() {
	if os.Getpid() == 1 {
		// A process 1 that ends is a panic, and that is a failure too.
		fmt.Println("init:", initialise())
		os.Exit(1)
	}
	if err := inGuest(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(2)
	}
	os.Exit(command(os.Args[1:]))
}
