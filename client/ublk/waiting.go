package ublk

import "errors"

// Held is a device of the driver: it is served, or waits for the next server.
type Held struct {
	Path string
	Tag  uint64 // Tag of the volume's identity, if it is a volume's
}

// List returns the devices that are not dead. Whoever makes a device of any kind
// asks first: the requests of one that waits would wait for ever. Without a
// driver there is none. Package hostdev asks for all kinds.
func List() ([]Held, error) {
	d, err := openDriver()
	if errors.Is(err, ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := listHeld(d)
	return all, errors.Join(err, d.Close())
}

func listHeld(k kernel) ([]Held, error) {
	ids, err := k.devices()
	if err != nil {
		return nil, err
	}
	var all []Held
	for _, id := range ids {
		i, err := k.info(id)
		switch {
		case errors.Is(err, errNoDevice): // it was deleted meanwhile
		case err != nil:
			return nil, err
		case i.state != stateDead:
			all = append(all, Held{k.path(id), i.tag})
		}
	}
	return all, nil
}

// Supported is nil when this kernel can do it, or says what is missing. Errors:
// ErrUnsupported, and what the driver says.
func Supported() error {
	d, err := openDriver()
	if err != nil {
		return err
	}
	_, err = supported(d)
	return errors.Join(err, d.Close())
}
