package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrUnavailable says that there is no kernel and that none can be had here:
// the programs that unpack one are missing, or the archive is out of reach.
var ErrUnavailable = errors.New("no kernel for the guest")

// Meta packages of Debian 12 that name the newest kernel of their kind.
const (
	Cloud = "linux-image-6.12-cloud-amd64" // 34 MB: nbd and ublk
	Full  = "linux-image-6.12-amd64"       // 107 MB: RDMA as well
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	Release string // as uname -r says
	Image   string // path of what boots
	modules string // folder of the modules
}

// Fetch returns the kernel that the meta package stands for. It is unpacked in
// a folder of its own below dir; what is there already is taken as it is, so
// that only the first run needs the network.
func Fetch(ctx context.Context, dir, meta string) (*Kernel, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("the kernel's folder: %w", err)
	}
	root := filepath.Join(dir, meta)
	if k, err := open(root); err == nil {
		return k, nil
	}
	for _, tool := range []string{"apt-cache", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: it comes as a Debian package: %w", ErrUnavailable, err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("the kernel's folder: %w", err)
	}
	// Unpacked beside its place and moved there when it is whole.
	tmp, err := os.MkdirTemp(dir, meta+".")
	if err != nil {
		return nil, fmt.Errorf("the kernel's folder: %w", err)
	}
	defer os.RemoveAll(tmp) // a rest of it does no harm
	name, err := newest(ctx, meta)
	if err != nil {
		return nil, err
	}
	deb := filepath.Join(tmp, "deb")
	if err := os.Mkdir(deb, 0o755); err != nil {
		return nil, fmt.Errorf("the kernel's folder: %w", err)
	}
	if _, err := output(ctx, deb, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	files, err := filepath.Glob(filepath.Join(deb, "*.deb"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("downloading %s: %d packages came (%w)", name, len(files), err)
	}
	tree := filepath.Join(tmp, "tree")
	if _, err := output(ctx, tmp, "dpkg-deb", "-x", files[0], tree); err != nil {
		return nil, err
	}
	if _, err := open(tree); err != nil {
		return nil, err
	}
	if err := os.Rename(tree, root); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("keeping the kernel: %w", err)
	}
	return open(root)
}

// newest is the package that a meta package depends on.
func newest(ctx context.Context, meta string) (string, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "--important", meta)
	if err != nil {
		return "", fmt.Errorf("%w: %w (is the package list there? apt-get update)", ErrUnavailable, err)
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if name, ok := strings.CutPrefix(strings.TrimSpace(s.Text()), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("%w: %s names no kernel", ErrUnavailable, meta)
}

// open finds a kernel in an unpacked package.
func open(root string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, fmt.Errorf("looking for a kernel in %s: %w", root, err)
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("looking for a kernel in %s: %d found", root, len(images))
	}
	k := &Kernel{Image: images[0], Release: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")}
	for _, lib := range []string{"lib", "usr/lib"} {
		k.modules = filepath.Join(root, lib, "modules", k.Release)
		if st, err := os.Stat(k.modules); err == nil && st.IsDir() {
			return k, nil
		}
	}
	return nil, fmt.Errorf("looking for the modules of %s: not in %s", k.Release, root)
}

// output runs a program and returns what it prints.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, nil
}
