package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"dmps/meta"
	"dmps/meta/metaclient"
)

func (a *app) metaBackupCommand() *cobra.Command {
	var (
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Save all decisions of the metadata service to a file",
		Long: `Writes a consistent copy of all decisions: servers, volumes, where their members
are. It holds no pages: those are in the servers' memory. Make one after volumes
were created, and regularly; it is what is left when all metadata disks are lost.

The file is complete, on disk and verified before it takes its name, so that FILE
is never half a backup. - writes to standard output, once all of it was received
and verified. An existing file is replaced only after a yes, or with --yes.

'dmps meta verify-backup' verifies it again, 'dmps meta restore' uses it.`,
		Example: `  dmps meta backup /backup/dmps-meta
  dmps meta backup /backup/dmps-meta --yes      # replace the last one, as a timer would
  dmps meta backup - | ssh vault 'cat >dmps-meta'`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[0]
			if file == "-" {
				switch {
				case output.value == "json":
					return usageError("standard output is the backup: it cannot be JSON too")
				case isTerminal(a.out):
					return usageError("a backup is not for a terminal: name a file, or pipe it somewhere")
				}
			} else if st, err := os.Stat(file); err == nil {
				if st.IsDir() {
					return usageError("%s is a folder: name a file in it", file)
				}
				if err := yes.ask(a, fmt.Sprintf("replace %s, of %s", file, st.ModTime().Format("2006-01-02 15:04:05"))); err != nil {
					return err
				}
			}
			m, err := a.meta()
			if err != nil {
				return err
			}
			defer m.Close()
			r, err := a.backup(cmd.Context(), m, file)
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, r)
			}
			if file == "-" {
				_, err = fmt.Fprintln(a.err, r.line())
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\nverify it again with: dmps meta verify-backup %s\n", r.line(), file)
			return err
		},
	}
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}

// backupFile is a backup that was written or verified.
type backupFile struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	meta.Contents
}

func (b backupFile) line() string {
	return fmt.Sprintf("%s: %s, whole and readable; cluster %s as of command %d, %s, %s",
		b.File, human(b.Bytes), b.Cluster, b.Applied, count(b.Volumes, "volume"), count(b.Servers, "memory server"))
}

// backup writes a backup to a file of another name first: beside the file
// itself, or in the temporary folder for standard output.
func (a *app) backup(ctx context.Context, m *metaclient.Client, file string) (_ backupFile, err error) {
	fail := func(err error) (backupFile, error) { return backupFile{}, fmt.Errorf("backup to %s: %w", file, err) }
	dir, pattern := "", "dmps-backup-*"
	if file != "-" {
		dir, pattern = filepath.Dir(file), "."+filepath.Base(file)+".*"
	}
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if f != nil { // it has not become the backup
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	r := backupFile{File: file}
	if r.Bytes, err = m.Backup(ctx, f); err != nil {
		return backupFile{}, err
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	if r.Contents, err = meta.CheckBackup(f); err != nil {
		return fail(err)
	}
	if file == "-" {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fail(err)
		}
		if _, err := io.Copy(a.out, f); err != nil {
			return fail(err)
		}
		return r, nil
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fail(err)
	}
	err = f.Close()
	f = nil
	if err := errors.Join(err, syncFolder(dir)); err != nil {
		return fail(err)
	}
	return r, nil
}

// syncFolder makes renames in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (a *app) metaVerifyCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:   "verify-backup FILE",
		Short: "Verify a backup of the metadata service",
		Long: `Reads a backup to its end, verifies its checksum and every record in it, and says
what it holds. No metadata service is asked. - reads standard input.`,
		Example: "  dmps meta verify-backup /backup/dmps-meta\n  dmps meta backup - | dmps meta verify-backup -",
		Args:    exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			r := backupFile{File: args[0]}
			err := a.readBackup(args[0], func(in io.Reader) (err error) {
				n := &counted{Reader: in}
				r.Contents, err = meta.CheckBackup(n)
				r.Bytes = n.bytes
				return err
			})
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, r)
			}
			_, err = fmt.Fprintln(a.out, r.line())
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// counted counts what is read.
type counted struct {
	io.Reader
	bytes int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.bytes += int64(n)
	return n, err
}

// readBackup calls f with a file, or with standard input for -.
func (a *app) readBackup(file string, f func(io.Reader) error) error {
	if file == "-" {
		return f(a.in)
	}
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := f(in); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", file, err), in.Close())
	}
	return in.Close()
}
