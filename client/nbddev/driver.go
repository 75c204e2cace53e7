package nbddev

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Errors that callers decide by.
var (
	// ErrNoDriver: the kernel's nbd driver is not loaded, or does not hear this process.
	ErrNoDriver = errors.New("no nbd driver answers")
	// ErrBusy: the device is connected already, to something else.
	ErrBusy = errors.New("the device is in use")
)

// Of include/uapi/linux/nbd-netlink.h.
const (
	familyName    = "nbd"
	familyVersion = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdStatus      = 5

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrClientFlags = 6
	attrSockets     = 7
	attrDeadTimeout = 8
	attrDevices     = 9
	attrIdentifier  = 10

	attrSocket   = 1 // in attrSockets
	attrSocketFD = 1 // in attrSocket

	attrDevice          = 1 // in attrDevices
	attrDeviceIndex     = 1 // in attrDevice
	attrDeviceConnected = 2
)

// Connection is what the kernel is told of a device.
type Connection struct {
	Index       int   // of /dev/nbdINDEX; AnyIndex for the first free one
	Sockets     []int // file descriptors; the kernel takes its own references
	Size        int64 // bytes
	BlockSize   int64 // logical and physical, bytes
	Flags       uint16
	Timeout     time.Duration // of one request, whole seconds
	DeadTimeout time.Duration // without any live socket, whole seconds
	Identifier  string        // only who knows it can reconfigure the device
}

// AnyIndex lets the kernel choose.
const AnyIndex = -1

// Driver is the kernel's nbd driver. It is used by one goroutine at a time.
type Driver struct {
	conn   conn
	family uint16
}

// conn is what a Driver needs of a generic netlink connection.
type conn interface {
	Execute(m genetlink.Message, family uint16, flags netlink.HeaderFlags) ([]genetlink.Message, error)
	Close() error
}

// OpenDriver finds the driver. Errors: ErrNoDriver.
func OpenDriver() (*Driver, error) {
	c, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("nbd driver: %w", err)
	}
	f, err := c.GetFamily(familyName)
	if errors.Is(err, fs.ErrNotExist) {
		err = unanswered(sysfs)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nbd driver: %w", err), c.Close())
	}
	return &Driver{conn: c, family: f.ID}, nil
}

// unanswered is why there is no driver to speak to.
func unanswered(sysfs string) error {
	if _, err := os.Stat(filepath.Join(sysfs, "module", "nbd")); err == nil {
		return fmt.Errorf("%w: it is loaded, and hears the network namespace of the host alone (a container: --network=host)", ErrNoDriver)
	}
	return fmt.Errorf("%w: it is not loaded (modprobe nbd)", ErrNoDriver)
}

// Supported is nil when there is a driver that this process can speak to. Errors:
// ErrNoDriver.
func Supported() error {
	d, err := OpenDriver()
	if err != nil {
		return err
	}
	return d.Close()
}

// Close ends the conversation; devices stay as they are.
func (d *Driver) Close() error { return d.conn.Close() }

// Connect makes a device and returns its index. Errors: ErrBusy.
func (d *Driver) Connect(c Connection) (int, error) {
	reply, err := d.execute(cmdConnect, c.encode)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return 0, fmt.Errorf("connecting an nbd device: %w", err)
	}
	for _, m := range reply {
		if index, ok, err := decodeIndex(m.Data); err != nil {
			return 0, fmt.Errorf("connecting an nbd device: the kernel's answer: %w", err)
		} else if ok {
			return index, nil
		}
	}
	if c.Index != AnyIndex {
		return c.Index, nil
	}
	return 0, errors.New("connecting an nbd device: the kernel does not say which it chose")
}

// Reconfigure gives the sockets of c to a connected device in the place of dead
// ones. A socket that found no dead one to replace is closed by the kernel
// without a word. Errors: ErrGone, for a device that was disconnected, also when
// somebody has it open still, or that is somebody else's.
func (d *Driver) Reconfigure(c Connection) error {
	_, err := d.execute(cmdReconfigure, c.encodeAgain)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return fmt.Errorf("reconnecting /dev/nbd%d: %w", c.Index, err)
	}
	return nil
}

// Disconnect takes the device away. Requests that it still has fail.
func (d *Driver) Disconnect(index int) error {
	_, err := d.execute(cmdDisconnect, func(e *netlink.AttributeEncoder) { e.Uint32(attrIndex, uint32(index)) })
	if err != nil {
		return fmt.Errorf("disconnecting /dev/nbd%d: %w", index, err)
	}
	return nil
}

// Connected reports whether a device with this index is connected; none is
// not.
func (d *Driver) Connected(index int) (bool, error) {
	reply, err := d.execute(cmdStatus, func(e *netlink.AttributeEncoder) { e.Uint32(attrIndex, uint32(index)) })
	if err != nil {
		return false, fmt.Errorf("status of /dev/nbd%d: %w", index, err)
	}
	for _, m := range reply {
		list, err := decodeStatus(m.Data)
		if err != nil {
			return false, fmt.Errorf("status of /dev/nbd%d: %w", index, err)
		}
		for _, s := range list {
			if s.index == index && s.connected {
				return true, nil
			}
		}
	}
	return false, nil
}

func (d *Driver) execute(cmd uint8, encode func(*netlink.AttributeEncoder)) ([]genetlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	encode(e)
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	flags := netlink.Request
	if cmd == cmdReconfigure || cmd == cmdDisconnect {
		// The others are answered: an acknowledgement beside that would be
		// taken for the answer to the next command.
		flags |= netlink.Acknowledge
	}
	return d.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: cmd, Version: familyVersion}, Data: b}, d.family, flags)
}

// encode is the whole of a connection, for NBD_CMD_CONNECT.
func (c *Connection) encode(e *netlink.AttributeEncoder) {
	if c.Index != AnyIndex {
		e.Uint32(attrIndex, uint32(c.Index))
	}
	e.Uint64(attrSize, uint64(c.Size))
	e.Uint64(attrBlockSize, uint64(c.BlockSize))
	e.Uint64(attrServerFlags, uint64(c.Flags))
	e.Uint64(attrClientFlags, 0) // neither destroyed nor disconnected when somebody closes it
	c.encodeTimes(e)
	c.encodeSockets(e)
}

// encodeAgain is what may change, for NBD_CMD_RECONFIGURE.
func (c *Connection) encodeAgain(e *netlink.AttributeEncoder) {
	e.Uint32(attrIndex, uint32(c.Index))
	c.encodeTimes(e)
	c.encodeSockets(e)
}

func (c *Connection) encodeTimes(e *netlink.AttributeEncoder) {
	e.Uint64(attrTimeout, seconds(c.Timeout))
	e.Uint64(attrDeadTimeout, seconds(c.DeadTimeout))
	if c.Identifier != "" {
		e.String(attrIdentifier, c.Identifier)
	}
}

func (c *Connection) encodeSockets(e *netlink.AttributeEncoder) {
	e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range c.Sockets {
			list.Nested(attrSocket, func(s *netlink.AttributeEncoder) error {
				s.Uint32(attrSocketFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

// seconds rounds up: 0 means something else.
func seconds(d time.Duration) uint64 { return uint64(math.Ceil(d.Seconds())) }

func decodeIndex(b []byte) (index int, ok bool, err error) {
	a, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, false, err
	}
	for a.Next() {
		if a.Type() == attrIndex {
			index, ok = int(a.Uint32()), true
		}
	}
	return index, ok, a.Err()
}

type deviceStatus struct {
	index     int
	connected bool
}

func decodeStatus(b []byte) ([]deviceStatus, error) {
	a, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	var all []deviceStatus
	for a.Next() {
		if a.Type() != attrDevices {
			continue
		}
		a.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				if list.Type() != attrDevice {
					continue
				}
				var s deviceStatus
				list.Nested(func(d *netlink.AttributeDecoder) error {
					for d.Next() {
						switch d.Type() {
						case attrDeviceIndex:
							s.index = int(d.Uint32())
						case attrDeviceConnected:
							s.connected = d.Uint8() != 0
						}
					}
					return nil
				})
				all = append(all, s)
			}
			return nil
		})
	}
	return all, a.Err()
}
