package paper

// Figures are all figures, in the order in which they are measured and shown.
var Figures = []string{FigureMessage, FigureDirect, FigureFile, FigureFill, FigureCluster, FigureApps, FigurePaths}

// Names of the figures, which are also names of files.
const (
	FigureMessage = "message"    // the paper's figure 2
	FigureDirect  = "direct"     // figure 4
	FigureFile    = "filesystem" // figures 5 and 6
	FigureFill    = "fill"       // figure 7
	FigureCluster = "cluster"    // left open: page-cluster
	FigureApps    = "apps"       // left open: real programs
	FigurePaths   = "paths"      // left open: several network paths
)

// Names of the devices that are compared.
const (
	Memory     = "memory"        // enough of it: nothing is swapped
	LocalDisk  = "disk"          // a virtio disk of the guest
	PlainNBD   = "nbd"           // the kernel's NBD over TCP to one plain server
	DmpsOne    = "dmps-1"        // one server, no redundancy
	DmpsTwo    = "dmps-2"        // two servers, pages dealt over both, no redundancy
	DmpsMirror = "dmps-mirror:2" // two servers, each has all
	DmpsRS     = "dmps-rs:2+1"   // three servers, any may be lost
)
