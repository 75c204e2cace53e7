package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"dmps/client/nbd"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// fakeVariable makes the test's own program play a role of the cluster: it
// writes its pid file and waits to be told to end, or misbehaves.
const fakeVariable = "DMPS_FAKE_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(fakeVariable) != "" {
		os.Exit(fakeRole(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

func argOf(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func fakeRole(args []string) int {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	pidFile := argOf(args, "--pidfile")
	if slices.Contains(args, "--fail") {
		fmt.Fprintln(os.Stderr, "the fake role refuses to work")
		return exitcode.Failure
	}
	// The first role to come takes the token and claims that its port is taken.
	if token := argOf(args, "--port-taken-once"); token != "" && os.Remove(token) == nil {
		return exitcode.CannotListen
	}
	if args[0] == "attach" {
		// As the true one: it replaces the socket of a client that was killed.
		l, err := nbd.Listen(argOf(args, "--nbd"))
		if err != nil {
			return exitcode.CannotListen
		}
		admin, err := net.Listen("tcp", argOf(args, "--admin"))
		if err != nil {
			return exitcode.CannotListen
		}
		go http.Serve(admin, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"pid":%d,"nbd":"nbd://somewhere"}`, os.Getpid())
		}))
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fakeNBD(c)
				c.Close()
			}
		}()
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return exitcode.Failure
	}
	if slices.Contains(args, "--deaf") {
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	<-end
	os.Remove(pidFile)
	return 0
}

// fakeNBD answers one handshake with an export of 1 GiB.
func fakeNBD(c net.Conn) {
	be := binary.BigEndian
	b := be.AppendUint64(nil, 0x4e42444d41474943)
	b = be.AppendUint64(b, 0x49484156454f5054)
	c.Write(be.AppendUint16(b, 3))
	var head [20]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, c, int64(be.Uint32(head[16:]))); err != nil {
		return
	}
	reply := func(kind uint32, data []byte) {
		b := be.AppendUint64(nil, 0x3e889045565a9)
		b = be.AppendUint32(b, 7)
		b = be.AppendUint32(b, kind)
		b = be.AppendUint32(b, uint32(len(data)))
		c.Write(append(b, data...))
	}
	reply(3, be.AppendUint16(be.AppendUint64([]byte{0, 0}, 1<<30), 1))
	reply(1, nil)
	io.Copy(io.Discard, c)
}

// fakeControl is a metadata service that knows a server when its pid file is
// there.
type fakeControl struct {
	dir    string
	create error
}

func (f *fakeControl) Close() {}

func (f *fakeControl) Status(context.Context) (*metaclient.Status, error) {
	files, err := filepath.Glob(filepath.Join(f.dir, "run", "server*.pid"))
	st := &metaclient.Status{}
	for range files {
		st.Servers = append(st.Servers, metaclient.Server{State: metaclient.ServerUp})
	}
	return st, err
}

func (f *fakeControl) CreateVolume(_ context.Context, spec metaclient.VolumeSpec) (metaclient.Volume, error) {
	if spec.FailureDomain != "server" {
		return metaclient.Volume{}, errors.New("the servers share a host")
	}
	return metaclient.Volume{Name: spec.Name}, f.create
}
