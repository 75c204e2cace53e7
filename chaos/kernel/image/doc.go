// Package image makes what a guest boots from: a kernel of Debian's, its
// modules, and an initial RAM file system with the programs of a test.
//
// The nouns, in the order in which they are used: Fetch finds a Kernel, from a
// folder or from Debian; Kernel.Modules reads the modules that were asked for
// with all that they need; an Initrd collects files and writes them as the
// archive that the kernel unpacks (Documentation/driver-api/early-userspace/
// buffer-format.rst).
//
// Nothing is installed on this machine: the package is downloaded and unpacked.
package image
