package reach

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Unspecified reports whether host:port names no host, such as 0.0.0.0:7301, [::]:7301
// or :7301: to listen there is to listen everywhere, and who dials it seeks on its own
// host.
func Unspecified(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.WithZone("").Unmap().IsUnspecified()
}

// Told refuses what others would be told: advertise, or listen where that is empty. The
// error names flag, which sets advertise, and proposes addresses of this host.
func Told(listen, advertise []string, flag string) error {
	told := advertise
	if len(told) == 0 {
		told = listen
	}
	for _, a := range told {
		if Unspecified(a) {
			return fmt.Errorf("%s is no address that others can dial: say with %s where they reach this host%s", a, flag, proposals(a))
		}
	}
	return nil
}

// proposals are addresses of this host that others may reach, with a's port.
func proposals(a string) string {
	_, port, err := net.SplitHostPort(a)
	addrs, ierr := net.InterfaceAddrs()
	if err != nil || ierr != nil {
		return ""
	}
	var l []string
	for _, i := range addrs {
		if n, ok := i.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && len(l) < 3 {
			l = append(l, net.JoinHostPort(n.IP.String(), port))
		}
	}
	if len(l) == 0 {
		return ""
	}
	return ", for example " + strings.Join(l, " or ")
}
