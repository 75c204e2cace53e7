package peers

import "fmt"

// Cell is one workload. The zero value is no workload.
type Cell struct {
	Block  int  `json:"block"`  // bytes a request
	Random bool `json:"random"` // else sequential
	Write  bool `json:"write"`  // else read
	Depth  int  `json:"depth"`  // requests in flight, over one connection
}

// Block sizes: a page, and the most that the kernel sends in one swap request.
const (
	Small = 4 << 10
	Large = 128 << 10
)

// Cells lists all workloads of a comparison, reads of a kind before its
// writes, in the order of the tables.
func Cells() []Cell {
	var cells []Cell
	for _, block := range []int{Small, Large} {
		for _, random := range []bool{true, false} {
			for _, write := range []bool{false, true} {
				for _, depth := range []int{1, 32} {
					cells = append(cells, Cell{Block: block, Random: random, Write: write, Depth: depth})
				}
			}
		}
	}
	return cells
}

// String gives the name of the cell in tables: "4k rand read qd32".
func (c Cell) String() string {
	return fmt.Sprintf("%dk %s %s qd%d", c.Block>>10, c.pattern(), c.op(), c.Depth)
}

func (c Cell) pattern() string {
	if c.Random {
		return "rand"
	}
	return "seq"
}

func (c Cell) op() string {
	if c.Write {
		return "write"
	}
	return "read"
}

// fioRW is fio's name of the workload.
func (c Cell) fioRW() string {
	if c.Random {
		return "rand" + c.op()
	}
	return c.op()
}
