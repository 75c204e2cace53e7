package ublk

import "errors"

// Waiting looks for the device of a volume that an earlier client has left to
// the next one, or that is served now. Whoever would rather make a device of
// another kind asks first: the requests of this one would wait for ever. Without
// a driver there is none.
func Waiting(identity string) (path string, found bool, err error) {
	d, err := openDriver()
	if errors.Is(err, ErrUnsupported) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	path, found, err = waiting(d, identity)
	return path, found, errors.Join(err, d.Close())
}

func waiting(k kernel, identity string) (path string, found bool, err error) {
	ids, err := k.devices()
	if err != nil {
		return "", false, err
	}
	for _, id := range ids {
		i, err := k.info(id)
		switch {
		case errors.Is(err, errNoDevice): // it was deleted meanwhile
		case err != nil:
			return "", false, err
		case i.tag == tagOf(identity) && i.state != stateDead:
			return k.path(id), true, nil
		}
	}
	return "", false, nil
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
