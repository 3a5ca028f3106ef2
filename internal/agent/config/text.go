package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The checks of this file say why a text is not what its field needs; nil when it is.

var (
	clusterName     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	peerName        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	directoryName   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	certificateName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$`)
	hostLabel       = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	emailAddress    = regexp.MustCompile(`^[^\s@<>,;:"]+@[^\s@<>,;:"]+\.[^\s@<>,;:"]+$`)
)

// maxSocketPath is what sun_path holds beside its final NUL (unix(7)).
const maxSocketPath = 107

func checkPath(text string) *refusal {
	switch {
	case strings.ContainsRune(text, 0):
		return &refusal{"a path cannot hold a NUL", "remove it"}
	case !filepath.IsAbs(text):
		return &refusal{fmt.Sprintf("%q is not absolute", text), "write a path that begins with /"}
	case filepath.Clean(text) != text:
		return &refusal{fmt.Sprintf("%q has more than one spelling", text), "write " + filepath.Clean(text)}
	}
	return nil
}

func checkSocket(text string) *refusal {
	if r := checkPath(text); r != nil {
		return r
	}
	if len(text) > maxSocketPath {
		return &refusal{fmt.Sprintf("%d bytes are too many for a socket's path", len(text)), fmt.Sprintf("write a path of at most %d bytes", maxSocketPath)}
	}
	return nil
}

// checkAddress is for what is dialled: a host and a port.
func checkAddress(text string) *refusal {
	host, r := splitAddress(text)
	if r != nil {
		return r
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return &refusal{host + " is not an address that can be reached", "write the node's own address"}
		}
		return nil
	}
	if r := checkHost(strings.ToLower(host)); r != nil {
		return &refusal{fmt.Sprintf("%q is neither an IP address nor a host name", host), "write HOST:PORT, an IPv6 address as [2001:db8::1]:7443"}
	}
	return nil
}

// checkListen is for what is listened on: a port, with or without one of this node's addresses.
func checkListen(text string) *refusal {
	host, r := splitAddress(text)
	if r != nil || host == "" {
		return r
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return &refusal{fmt.Sprintf("%q is not an IP address", host), "write IP:PORT, or :PORT for all interfaces"}
	}
	return nil
}

func splitAddress(text string) (host string, r *refusal) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		instead := "write HOST:PORT, an IPv6 address as [2001:db8::1]:7443"
		if ip, ipErr := netip.ParseAddr(strings.Trim(text, "[]")); ipErr == nil {
			instead = "write " + net.JoinHostPort(ip.String(), "PORT")
		}
		return "", &refusal{fmt.Sprintf("%q is not an address with a port", text), instead}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", &refusal{fmt.Sprintf("%q is not a port", port), "write a number from 1 to 65535 after the colon"}
	}
	return host, nil
}

// sameAddress returns the one spelling of an address that checkAddress takes.
func sameAddress(text string) string {
	address, port, err := net.SplitHostPort(text)
	if err != nil {
		panic(fmt.Sprintf("config: %s was validated: %v", text, err))
	}
	if ip, err := netip.ParseAddr(address); err == nil {
		address = ip.Unmap().String()
	}
	return net.JoinHostPort(strings.ToLower(address), strings.TrimLeft(port, "0"))
}

// checkHost is for a DNS name in lower case.
func checkHost(name string) *refusal {
	if len(name) > 253 {
		return &refusal{fmt.Sprintf("%d characters are too many for a host name", len(name)), "write at most 253"}
	}
	for label := range strings.SplitSeq(name, ".") {
		if !hostLabel.MatchString(label) {
			return &refusal{fmt.Sprintf("%q is not a host name", name), "write one like www.example.com"}
		}
	}
	return nil
}

// checkCertified is for a name in a certificate.
func checkCertified(name string) *refusal {
	lower := strings.ToLower(name)
	switch _, err := netip.ParseAddr(name); {
	case strings.HasPrefix(name, "*."):
		return &refusal{fmt.Sprintf("%q: wildcards need dns-01, which is not there yet", name), "write each name out"}
	case err == nil:
		return &refusal{name + " is an IP address, for which this version cannot ask", "write a host name"}
	case strings.IndexFunc(name, func(r rune) bool { return r > '~' }) >= 0:
		return &refusal{fmt.Sprintf("%q is not in the form that DNS uses", name), "write the xn-- form of the name"}
	case lower != name:
		return &refusal{fmt.Sprintf("%q has upper-case letters", name), "write " + lower}
	}
	return checkHost(name)
}

// checkURL is for a CA's directory.
func checkURL(text string) *refusal {
	switch u, err := url.Parse(text); {
	case err != nil || u.Host == "" || u.Scheme != "https":
		return &refusal{fmt.Sprintf("%q is not an https URL", text), "write https://HOST/PATH, the URL of the CA's directory"}
	case u.User != nil:
		return &refusal{"a URL with a password in it", "write it without: secrets do not stand in this file"}
	case u.Fragment != "" || u.RawQuery != "":
		return &refusal{fmt.Sprintf("%q asks for more than a directory", text), "write it without ? and #"}
	}
	return nil
}

// checkGlob is for what a directory ignores.
func checkGlob(text string) *refusal {
	if text == "" || strings.HasPrefix(text, "/") || strings.ContainsRune(text, 0) {
		return &refusal{fmt.Sprintf("%q is not a glob", text), "write a pattern of base names (*.tmp), or of paths below the directory (old/**)"}
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(text, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return &refusal{fmt.Sprintf("%q can match nothing: no path below the directory has such a part", text), "write it without empty parts, . and .."}
		}
		if _, err := path.Match(segment, ""); err != nil {
			return &refusal{fmt.Sprintf("%q is not a glob: a bracket or backslash is left open", text), "close it, or write \\ before it"}
		}
	}
	return nil
}
