package kernel

// Where things are in a guest.
const (
	InitPath  = "/init"
	JobPath   = "/etc/job.json"
	ModuleDir = "/modules"
)

// RDMAAddr is the address of a guest's RDMA device, rxe0 (Spec.RDMA), and
// RDMAEnv the variable that tells programs in the guest of it, by the name that
// the tests of transport/fabric have for it.
const (
	RDMAAddr = "10.9.0.1"
	RDMAEnv  = "DMPS_FABRIC_VERBS"
)

// GuestWord is on the kernel command line of every guest, and of no machine.
const GuestWord = "dmps.guest=1"

// LastWords come before the exit status in a guest's last line.
const LastWords = "guest ends with status "

// StatusBroken is the exit status of a guest in which the job could not be run,
// or was killed.
const StatusBroken = 120

// Job is what a guest runs, as JSON at JobPath.
type Job struct {
	Argv    []string          `json:"argv"`
	Env     []string          `json:"env,omitempty"`
	Modules []string          `json:"modules"` // in order; may have parameters
	Sysctl  map[string]string `json:"sysctl,omitempty"`
	RDMA    bool              `json:"rdma,omitempty"` // make rxe0 at RDMAAddr
}
