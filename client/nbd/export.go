package nbd

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"dmps/client"
)

// Export is one device that clients can ask for by name.
type Export struct {
	Device      client.Device
	Description string // for people; at most 4096 bytes of UTF-8. May be empty
	ReadOnly    bool   // refuse writes, trims and zeroing with EPERM
}

// catalog is the exports of a Server. It does not change.
type catalog struct {
	byName map[string]*Export
	names  []string // sorted
	def    string   // what the empty name stands for; "" is no default or the export named ""
}

func newCatalog(exports map[string]Export, def string) (*catalog, error) {
	if len(exports) == 0 {
		return nil, errors.New("nbd: no exports")
	}
	c := &catalog{byName: make(map[string]*Export, len(exports)), def: def}
	for name, e := range exports {
		if _, err := parseName([]byte(name)); err != nil {
			return nil, fmt.Errorf("nbd: export %q: %w", name, err)
		}
		if len(e.Description) > maxName || !utf8.ValidString(e.Description) {
			return nil, fmt.Errorf("nbd: export %q: description must be UTF-8 of at most %d bytes", name, maxName)
		}
		if e.Device == nil {
			return nil, fmt.Errorf("nbd: export %q has no device", name)
		}
		c.byName[name] = &e
		c.names = append(c.names, name)
	}
	slices.Sort(c.names)
	if def == "" && len(c.names) == 1 {
		c.def = c.names[0]
	}
	if _, ok := c.byName[c.def]; !ok && def != "" {
		return nil, fmt.Errorf("nbd: default export %q is not among the exports", def)
	}
	return c, nil
}

// lookup finds an export by the name a client used and returns its own name.
func (c *catalog) lookup(name string) (string, *Export) {
	if name == "" {
		name = c.def
	}
	return name, c.byName[name]
}
