package rails

import "dmps/transport"

// Suspect makes a session find one of its rails silent.
func Suspect(c transport.Conn, rail int) {
	select {
	case c.(*conn).rails[rail].suspected <- struct{}{}:
	default:
	}
}
