package nbdtest

import _ "embed"

// corners is the program that Nbdsh runs.
//
//go:embed nbdsh.py
var corners string
