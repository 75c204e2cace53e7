package paper

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// Compile is GCC's compiler proper, cc1, with one file of so many functions. cc1
// is its path: gcc -print-prog-name=cc1 tells it.
func Compile(cc1 string, functions int) App {
	return App{
		Name: "compile",
		Argv: []string{cc1, "-quiet", "-nostdinc", "-O0", "-o", "-", "-"},
		Input: func(w io.Writer) error {
			b := bufio.NewWriter(w)
			for i := range functions {
				if _, err := fmt.Fprintf(b, "int f%d(int *a, int n) { int s = %d; for (int i = 0; i < n; i++) { if (a[i] %% %d) s += a[i] * %d; else s ^= a[i] << %d; a[i] = s; } return s; }\n",
					i, i, i%7+2, i%13+3, i%5+1); err != nil {
					return err
				}
			}
			return b.Flush()
		},
		Judge: func(out io.Reader) error {
			n := 0
			sc := bufio.NewScanner(out)
			for sc.Scan() {
				if bytes.Equal(sc.Bytes(), fmt.Appendf(nil, "f%d:", n)) {
					n++
				}
			}
			if err := sc.Err(); err != nil {
				return err
			}
			if n != functions {
				return fmt.Errorf("assembly of %d functions of %d", n, functions)
			}
			return nil
		},
	}
}
