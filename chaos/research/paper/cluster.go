package paper

// ClusterRow is a pass over an array with one setting of vm.page-cluster: the
// kernel may read up to 2^PageCluster pages when one is asked for.
type ClusterRow struct {
	FillRow
	PageCluster int    `json:"page_cluster"`
	Readahead   string `json:"readahead"` // ByAddress or BySlot
}

// How the kernel chooses what to read besides the page that was asked for.
const (
	// ByAddress takes neighbours in the process's memory, wherever they lie on the
	// device, and adapts how many: Linux since 4.14, on devices that do not
	// rotate (swap_vma_readahead).
	ByAddress = "by address"
	// BySlot takes neighbours on the device, whoever's they are, as the paper's
	// kernel did, though this one adapts how many too (swap_cluster_readahead).
	BySlot = "by slot"
)
