package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds one of this module's programs for the guest, static, into dir.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	return BuildIn(ctx, dir, ".", pkg)
}

// BuildIn is Build for a program of the module in folder module.
func BuildIn(ctx context.Context, dir, module, pkg string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", pkg, err)
	}
	out := filepath.Join(dir, filepath.Base(pkg))
	return out, goTool(ctx, "CGO_ENABLED=0", "build", "-C", module, "-trimpath", "-o", out, pkg)
}

// BuildFabric builds dmps with libfabric, and the tests of transport/fabric,
// into dir: for Spec.Linked. Errors: ErrNoGuest where this machine lacks what
// they are built with.
func BuildFabric(ctx context.Context, dir string) (dmps, tests string, err error) {
	const header = "/usr/include/rdma/fi_rma.h"
	if _, err := os.Stat(header); err != nil {
		return "", "", fmt.Errorf("%w with libfabric: %w (Debian: libfabric-dev)", ErrNoGuest, err)
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", "", fmt.Errorf("%w with libfabric: %w (Debian: gcc)", ErrNoGuest, err)
	}
	dmps, tests = filepath.Join(dir, "dmps-fabric"), filepath.Join(dir, "fabric.test")
	if err := goTool(ctx, "CGO_ENABLED=1", "build", "-tags", "fabric", "-trimpath", "-o", dmps, "dmps/cmd/dmps"); err != nil {
		return "", "", err
	}
	return dmps, tests, goTool(ctx, "CGO_ENABLED=1", "test", "-tags", "fabric", "-c", "-o", tests, "dmps/transport/fabric")
}

// goTool runs go with a variable set.
func goTool(ctx context.Context, env string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", args[len(args)-1], err, strings.TrimSpace(string(text)))
	}
	return nil
}
