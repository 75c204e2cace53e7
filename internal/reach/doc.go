// Package reach looks at addresses that others are told to dial.
package reach
