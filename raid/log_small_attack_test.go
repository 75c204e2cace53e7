package raid

import "testing"

// A client that was replaced gives up a row that its successor has taken in, and erases it
// at a member that its successor does not reach. When that member is back in the view, what
// its slot says to be dead must not count against a row in use.
func TestSmallErasedByAReplacedClient(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "begin 0; cut 2/0; finish 0; tidy 0; begin 0; back 2/0; takeover 3/0/1/0/1; settle 0; ofinish 0; otidy 0; back 2; tidy 0; crash 0; open 7; tidy 0")
}

// The same, and that member shows later what its slot said then.
func TestSmallErasedByAReplacedClientShownAgain(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "begin 0; cut 2/0; finish 0; tidy 0; begin 0; back 2/0; takeover 3/0/1/0/1; settle 0; ofinish 0; otidy 0; back 2; tidy 0; turn 18; crash 0; open 7; tidy 0")
}
