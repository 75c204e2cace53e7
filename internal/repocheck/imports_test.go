package repocheck

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the import path of the repository's root.
const module = "dmps"

// A rule says what the packages under a folder may import. Of several rules
// whose folder fits, the longest counts. A folder always may import what is
// under itself, unless strict.
type rule struct {
	dir    string   // folder, and all below it
	may    []string // folders of this module that it may import, with what is below them; "=raid" is that package alone
	tests  []string // what its _test.go files may import besides
	never  []string // import paths outside of the module (or prefixes ending in /) that it must not use
	reason string
}

var rules = []rule{
	{
		dir:    "raid",
		never:  []string{"net", "net/", "os", "os/", "time", "sync", "sync/", "syscall", "context", "math/rand", "math/rand/", "log", "log/", "golang.org/x/sys/"},
		reason: "raid is arithmetic: no I/O, no clock, no goroutine, so that a property test can run a million steps of it and the same input always gives the same layout",
	},
	{
		dir:    "transport",
		may:    []string{"=internal/accept"},
		reason: "transport is a leaf: it moves slots and knows neither volumes nor redundancy, so that an RDMA implementation has only the wire to care for",
	},
	{
		dir:    "transport/fabric",
		may:    []string{"=raid", "=transport", "=transport/tcp"},
		tests:  []string{"raid", "server", "transport", "=chaos/figures"},
		reason: "one-sided transfers are set up over a link of package tcp, which does all that they do not; a write erases its slots as a server would, by package raid; its tests run against a real memory server, whose memory they reach, and measure a figure",
	},
	{
		dir:    "transport/media",
		may:    []string{"=transport", "=transport/tcp", "=transport/fabric", "=transport/rails"},
		tests:  []string{"server", "raid"},
		reason: "it chooses a medium by an address, and moves nothing itself",
	},
	{
		dir:    "transport/rails",
		may:    []string{"=transport"},
		tests:  []string{"raid", "server", "transport"},
		reason: "it makes one session of several, over any medium; its tests run against a real memory server, whose fence is half of it",
	},
	{
		dir:    "transport/transporttest",
		may:    []string{"transport", "=raid"},
		reason: "the conformance suite also runs against real memory servers, which store only slots with true headers: package raid makes those",
	},
	{
		dir:    "server",
		may:    []string{"raid", "transport", "internal"},
		never:  []string{"github.com/hashicorp/", "go.etcd.io/", "connectrpc.com/"},
		reason: "server declares what it needs of the metadata service (server.Registrar); cmd passes it in, so that a memory server is tested without a Raft cluster",
	},
	{
		dir:    "client",
		may:    []string{"raid", "transport", "internal"},
		tests:  []string{"server"},
		never:  []string{"github.com/hashicorp/", "go.etcd.io/", "connectrpc.com/", "net/http"},
		reason: "client declares what it needs of the metadata service (client.Meta); raft and bbolt would bring memory-mapped files, whose page faults wait for the very swap that the client serves",
	},
	{
		dir:    "client/nbd",
		may:    []string{"client", "=transport", "transport/stream", "internal"},
		tests:  []string{"raid", "server", "transport"},
		never:  []string{"github.com/hashicorp/", "go.etcd.io/", "connectrpc.com/", "net/http"},
		reason: "a front end knows a client.Device, the size of a page and sockets: it must not see sessions with servers, nor the layout",
	},
	{
		dir:    "client/ublk",
		may:    []string{"=client", "=internal/blockdev", "=internal/uring"},
		tests:  []string{"client/devicetest"},
		never:  []string{"github.com/", "go.etcd.io/", "connectrpc.com/", "net/http"},
		reason: "a front end knows a client.Device, the size of a page and its driver: what runs on a queue's thread must be seen in one place",
	},
	{
		dir:    "meta",
		may:    []string{"raid", "client", "server", "internal"},
		tests:  []string{"transport"},
		reason: "meta decides, it never moves pages: it may speak the interfaces that client and server declare for it, and must not see the page path",
	},
	{
		dir:    "internal/repocheck",
		never:  []string{"dmps/"},
		reason: "a check of the repository that imports it could not be built when it is needed most",
	},
	{
		dir:    "internal",
		reason: "packages under internal are leaves that any layer may use: one that knew a layer would tie the others to it",
	},
	{
		dir:    "client/care",
		may:    []string{"raid", "=transport", "client"},
		tests:  []string{"server", "transport", "chaos"},
		never:  []string{"github.com/hashicorp/", "go.etcd.io/", "connectrpc.com/", "net/http"},
		reason: "care is a client without a front end that lives in a memory server's process: it knows the volume that it opened, and neither the server nor the metadata service, which cmd passes in",
	},
	{
		dir:    "chaos",
		may:    []string{"raid", "transport", "server", "meta", "client", "internal"},
		reason: "chaos breaks everything, so it may know everything, except the command line: what it starts are processes",
	},
	{
		dir:    "chaos/plan",
		may:    []string{"=raid"},
		never:  []string{"net", "net/", "os", "os/", "sync", "sync/", "syscall", "context", "math/rand", "log", "log/", "golang.org/x/sys/"},
		reason: "a plan comes from its seed alone: no I/O, no goroutine, no randomness but that of the seed",
	},
	{
		dir:    "chaos/history",
		reason: "the judge knows nothing of the accused: a history is checked by what clients saw, whatever they were clients of",
	},
	{
		dir:    "chaos/netfault",
		may:    []string{"chaos/plan"},
		reason: "the proxies pass bytes on, and must not know what these mean",
	},
	{
		dir:    "cmd",
		may:    []string{"raid", "transport", "server", "meta", "client", "internal", "chaos"},
		reason: "cmd is where the parts meet; nothing imports it",
	},
}

func TestImportRules(t *testing.T) {
	used := map[string]bool{}
	for _, f := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(f))
		r, ok := ruleFor(dir)
		if !ok {
			t.Errorf("%s: no import rule for this folder: add one to internal/repocheck/imports_test.go, with its reason", f)
			continue
		}
		used[r.dir] = true
		isTest := strings.HasSuffix(f, "_test.go")
		for _, path := range importsOf(t, f) {
			if why := r.judge(path, isTest); why != "" {
				t.Errorf("%s imports %s: %s.\n\tThe rule for %s: %s.", f, path, why, r.dir, r.reason)
			}
		}
	}
	if !used["raid"] {
		t.Error("the test saw no package raid: it looked in the wrong place")
	}
}

// TestRuleJudge shows that the rules bite.
func TestRuleJudge(t *testing.T) {
	for _, c := range []struct {
		from, path string
		test, ok   bool
	}{
		{"raid", "math/bits", false, true},
		{"raid", "time", false, false},
		{"raid", "time", true, true},
		{"raid", "dmps/transport", false, false},
		{"transport/tcp", "dmps/transport", false, true},
		{"transport/tcp", "dmps/raid", false, false},
		{"client", "dmps/meta", false, false},
		{"client", "dmps/meta", true, false},
		{"client", "dmps/server", false, false},
		{"client", "dmps/server", true, true},
		{"client", "github.com/hashicorp/raft", false, false},
		{"client/nbd", "dmps/client", false, true},
		{"client/nbd", "dmps/transport/stream", false, true},
		{"client/nbd", "dmps/transport", false, true},
		{"client/nbd", "dmps/transport/tcp", false, false},
		{"transport/transporttest", "dmps/raid", false, true},
		{"client/nbd", "dmps/raid", false, false},
		{"meta", "dmps/client", false, true},
		{"meta", "dmps/transport", false, false},
		{"chaos/cluster", "dmps/cmd/dmps", false, false},
		{"internal/bytesize", "dmps/raid", false, false},
		{"chaos/plan", "dmps/raid", false, true},
		{"chaos/plan", "dmps/client", false, false},
		{"chaos/history", "dmps/raid", false, false},
		{"chaos/netfault", "dmps/chaos/plan", false, true},
		{"chaos/netfault", "dmps/transport/tcp", false, false},
		{"cmd/dmps", "dmps/chaos/cluster", false, true},
	} {
		r, found := ruleFor(c.from)
		if !found {
			t.Errorf("no rule for %s", c.from)
			continue
		}
		if why := r.judge(c.path, c.test); (why == "") != c.ok {
			t.Errorf("%s imports %s (test %v): got %q, want allowed %v", c.from, c.path, c.test, why, c.ok)
		}
	}
	if _, ok := ruleFor("newfolder"); ok {
		t.Error("a folder that no rule names has a rule")
	}
}

func ruleFor(dir string) (rule, bool) {
	best, ok := rule{}, false
	for _, r := range rules {
		if under(dir, r.dir) && len(r.dir) > len(best.dir) {
			best, ok = r, true
		}
	}
	return best, ok
}

// judge says why a file of the rule's folder must not import path, or "".
func (r rule) judge(path string, isTest bool) string {
	if rest, ours := strings.CutPrefix(path, module+"/"); ours {
		may := append([]string{r.dir}, r.may...)
		if isTest {
			may = append(may, r.tests...)
		}
		for _, m := range may {
			if one, exact := strings.CutPrefix(m, "="); under(rest, m) || exact && rest == one {
				return ""
			}
		}
		return "it may import only " + strings.Join(may, ", ")
	}
	if isTest {
		return "" // tests may use clocks and goroutines to torment what has none
	}
	for _, n := range r.never {
		if path == n || strings.HasSuffix(n, "/") && strings.HasPrefix(path, n) {
			return "it must not use " + n
		}
	}
	return ""
}

// under reports whether dir is parent or below it.
func under(dir, parent string) bool {
	return dir == parent || strings.HasPrefix(dir, parent+"/")
}

func importsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), file), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}
