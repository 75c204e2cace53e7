package main

import (
	"os"
)

func main() {
	if code, served := serveDeviceCall(os.Args[1:], os.Stdin, os.Stdout); served {
		os.Exit(code)
	}
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(a.run(os.Args[1:]))
}
