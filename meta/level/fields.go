package level

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Tag is the key of a field's tag that says from which level on it exists; without one
// it is as old as the struct that it is in.
const Tag = "level"

// Of is the level that a reader must know to read v, a struct or a pointer to one: the
// highest one of the fields in it that are not zero. The first is that of all else.
func Of(v any) Level { return of(reflect.ValueOf(v)) }

func of(v reflect.Value) Level {
	needs := Level(1)
	if !gated(v.Type()) {
		return needs
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			needs = of(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			needs = max(needs, of(v.Index(i)))
		}
	case reflect.Map:
		for i := v.MapRange(); i.Next(); {
			needs = max(needs, of(i.Value()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if skipped(f) || v.Field(i).IsZero() {
				continue
			}
			needs = max(needs, tagged(f), of(v.Field(i)))
		}
	}
	return needs
}

// known remembers gated, for types that were asked for.
var known sync.Map

// gated reports whether a value of a type may need more than the first level, so that
// nothing else is walked.
func gated(t reflect.Type) bool {
	if is, ok := known.Load(t); ok {
		return is.(bool)
	}
	is := gatedWithin(t, nil)
	known.Store(t, is)
	return is
}

func gatedWithin(t reflect.Type, within []reflect.Type) bool {
	if slices.Contains(within, t) {
		return false
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return gatedWithin(t.Elem(), within)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !skipped(f) && (tagged(f) > 1 || gatedWithin(f.Type, append(within, t))) {
				return true
			}
		}
	}
	return false
}

func skipped(f reflect.StructField) bool {
	return !f.IsExported() && !f.Anonymous || f.Tag.Get("json") == "-"
}

func tagged(f reflect.StructField) Level {
	n, err := strconv.ParseUint(f.Tag.Get(Tag), 10, 32)
	if err != nil {
		return 1 // no tag; Fields tells of one that is no number
	}
	return Level(n)
}

// Fields lists the fields that the JSON form of a type has, by level, each with its
// path and what kind of value it is.
func Fields(name string, t reflect.Type) (map[Level][]string, error) {
	out := map[Level][]string{}
	return out, fields(out, name, t, 1, nil)
}

func fields(out map[Level][]string, path string, t reflect.Type, since Level, within []reflect.Type) error {
	if slices.Contains(within, t) {
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case opaque(t):
		out[since] = append(out[since], path+" "+t.String())
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		return fields(out, path+"[]", t.Elem(), since, within)
	case t.Kind() == reflect.Map:
		return fields(out, path+"{"+t.Key().Kind().String()+"}", t.Elem(), since, within)
	case t.Kind() == reflect.Struct && t.NumField() == 0:
		out[since] = append(out[since], path+" empty")
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if skipped(f) || f.Anonymous && f.Type.NumField() == 0 {
				continue
			}
			if tag, ok := f.Tag.Lookup(Tag); ok && (tagged(f) <= since || tagged(f) > Highest) {
				return fmt.Errorf("%s.%s: level %q is none above %d that this build knows", path, f.Name, tag, since)
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			at := path + "." + name
			if f.Anonymous {
				at = path
			}
			if err := fields(out, at, f.Type, max(since, tagged(f)), append(within, t)); err != nil {
				return err
			}
		}
	default:
		out[since] = append(out[since], path+" "+t.Kind().String())
	}
	return nil
}

// opaque reports whether a type has a JSON form of its own.
func opaque(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	for _, own := range []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()} {
		if p.Implements(own) {
			return true
		}
	}
	return false
}
