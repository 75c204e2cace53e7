package main

import (
	"fmt"
	"os"

	"dmps/chaos/kernel"
)

func main() {
	if os.Getpid() == 1 {
		// A process 1 that ends is a panic, and that is a failure too.
		fmt.Println("init:", initialise())
		os.Exit(1)
	}
	if err := kernel.InGuest(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(2)
	}
	os.Exit(command(os.Args[1:]))
}
