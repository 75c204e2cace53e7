package paper

import (
	"fmt"
	"io"
	"strings"
)

// rowLen is the length of the random blob in a row of the database.
const rowLen = 400

// SQLite is a database in memory: rows are inserted in order, indexed by a random
// number, and visited in the order of that number, which has nothing to do with
// where they lie.
func SQLite(rows int) App {
	return App{
		Name: "sqlite",
		Argv: []string{"sqlite3", "-batch", ":memory:"},
		Input: func(w io.Writer) error {
			_, err := fmt.Fprintf(w, `PRAGMA temp_store=MEMORY;
CREATE TABLE t(k INTEGER PRIMARY KEY, r INTEGER, b BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT %d) INSERT INTO t SELECT i, random(), randomblob(%d) FROM n;
CREATE INDEX t_r ON t(r);
SELECT count(*), sum(length(b)), sum(k) FROM t INDEXED BY t_r WHERE r > -9223372036854775807 - 1;
UPDATE t SET r = r+1 WHERE k%%16=3 AND r < 9223372036854775807;
SELECT count(*) FROM t INDEXED BY t_r WHERE r > -9223372036854775807 - 1;
`, rows, rowLen)
			return err
		},
		Judge: func(out io.Reader) error {
			b, err := io.ReadAll(out)
			if err != nil {
				return err
			}
			// A random number is the smallest of all once in 2^64 rows.
			want := fmt.Sprintf("%d|%d|%d\n%d\n", rows, rows*rowLen, rows*(rows+1)/2, rows)
			if got := string(b); got != want {
				return fmt.Errorf("%q instead of %q", strings.TrimSpace(got), strings.TrimSpace(want))
			}
			return nil
		},
	}
}
