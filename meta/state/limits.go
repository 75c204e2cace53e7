package state

import (
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what callers say. All of it is replicated, rewritten with each change of
// its record, and printed to people.
const (
	maxText    = 1024 // bytes of a string
	maxLabels  = 16   // of a server, keys and values of maxLabel bytes
	maxLabel   = 64
	maxServers = 10_000
	maxVolumes = 100_000
	maxNodes   = 15 // records of those that are no members are removed (meta.Node.forgetStrays)
)

// Check says why a command is not fit to be replicated, whatever the state: a string in
// it is too long, or of what a terminal would not print. It is asked before a command is
// written to the log.
func (c *Command) Check() *Refusal {
	if r := c.Register; r != nil {
		if !ValidServer(string(r.ID)) {
			return refuse(Invalid, "server id %.140q: use 1 to 128 of a-z A-Z 0-9 . _ : - and begin with a letter or digit", string(r.ID))
		}
		if len(r.Labels) > maxLabels {
			return refuse(Invalid, "server %s has %d labels, at most %d can be kept", r.ID, len(r.Labels), maxLabels)
		}
		for k, v := range r.Labels {
			if len(k) > maxLabel || len(v) > maxLabel {
				return refuse(Invalid, "server %s: label %.70q=%.70q is longer than %d bytes", r.ID, k, v, maxLabel)
			}
		}
	}
	if where, text := unfit(reflect.ValueOf(c), ""); where != "" {
		return refuse(Invalid, "%s %.70q: text of at most %d bytes that can be printed is taken", where, text, maxText)
	}
	return nil
}

// unfit finds a string that is too long or cannot be printed, and names its field.
func unfit(v reflect.Value, name string) (where, text string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return unfit(v.Elem(), name)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if where, text = unfit(v.Field(i), field); where != "" {
				return where, text
			}
		}
	case reflect.Slice:
		for i := 0; i < v.Len() && v.Type().Elem().Kind() == reflect.String; i++ {
			if where, text = unfit(v.Index(i), name); where != "" {
				return where, text
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			for _, s := range []reflect.Value{it.Key(), it.Value()} {
				if where, text = unfit(s, name); where != "" {
					return where, text
				}
			}
		}
	case reflect.String:
		if s := v.String(); len(s) > maxText || !printable(s) {
			return name, s
		}
	}
	return "", ""
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// Printable makes of a reason that programs put together what Check takes.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return ' '
	}, s[:min(len(s), maxText)])
	for len(s) > maxText { // blanks for bytes that are no text
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// ValidServer reports whether a server can be called so: the id is safe in URLs, in
// metrics and on a terminal.
func ValidServer(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i, r := range []byte(id) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case i > 0 && strings.IndexByte("._:-", r) >= 0:
		default:
			return false
		}
	}
	return true
}
