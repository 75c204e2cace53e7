package main

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"dmps/chaos/kernel"
)

// Of include/uapi/rdma/rdma_netlink.h: the request that makes a device of
// software above a network interface, and its attributes.
const (
	nldevNewLink      = 5<<10 + 3 // RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK)
	nldevAttrDevName  = 2
	nldevAttrNdevName = 51
	nldevAttrLinkType = 65
)

const (
	// roceLink is the module dummy's: rxe brings packets for its own address back
	// itself, so it needs an interface with an address, and nothing behind it.
	roceLink   = "dummy0"
	roceDevice = "rxe0"
	// roceMTU leaves RoCE its largest packet, 4096 bytes and headers.
	roceMTU = 4500
)

// softRoCE makes the device rxe0 at kernel.RDMAAddr.
func softRoCE() error {
	if err := address(roceLink, netip.MustParseAddr(kernel.RDMAAddr), roceMTU); err != nil {
		return err
	}
	if err := linkUp(roceLink); err != nil {
		return err
	}
	enc := netlink.NewAttributeEncoder()
	enc.String(nldevAttrDevName, roceDevice)
	enc.String(nldevAttrLinkType, "rxe")
	enc.String(nldevAttrNdevName, roceLink)
	attrs, err := enc.Encode()
	if err != nil {
		return fmt.Errorf("making %s: %w", roceDevice, err)
	}
	c, err := netlink.Dial(unix.NETLINK_RDMA, nil)
	if err != nil {
		return fmt.Errorf("making %s: %w", roceDevice, err)
	}
	defer c.Close() // nothing is lost with it
	if _, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: nldevNewLink, Flags: netlink.Request | netlink.Acknowledge}, Data: attrs,
	}); err != nil {
		return fmt.Errorf("making %s: %w", roceDevice, err)
	}
	return nil
}

// address gives an interface an IPv4 address, with a prefix of 24 bits, and an
// MTU.
func address(link string, addr netip.Addr, mtu uint32) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("giving %s an address: %w", link, err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(link)
	if err != nil {
		return fmt.Errorf("giving %s an address: %w", link, err)
	}
	req.SetUint32(mtu)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFMTU, req); err != nil {
		return fmt.Errorf("setting the MTU of %s: %w", link, err)
	}
	for _, set := range []struct {
		what uint
		addr []byte
	}{{unix.SIOCSIFADDR, addr.AsSlice()}, {unix.SIOCSIFNETMASK, []byte{255, 255, 255, 0}}} {
		if err := req.SetInet4Addr(set.addr); err != nil {
			return fmt.Errorf("giving %s an address: %w", link, err)
		}
		if err := unix.IoctlIfreq(s, set.what, req); err != nil {
			return fmt.Errorf("giving %s an address: %w", link, err)
		}
	}
	return nil
}
