// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// DefaultMaxTargets is how many targets a caller may ask for.
const DefaultMaxTargets = 128

// Selection lets callers choose the targets of a call by metadata, within an allow-list. It
// is safe for concurrent use as long as it does not change.
type Selection struct {
	// Key is the metadata key, such as "nodes". Its values, which may also be
	// comma-separated lists, are the names that the caller wants; "*" is all of Known.
	Key string
	// Known lists the targets that exist, by name.
	Known []string
	// Patterns lists what else the caller may name, such as addresses that only the
	// caller knows. A "*" in a pattern stands for one or more letters, digits, "-" or
	// "_", and so never for a dot or a colon: "10.5.0.*:50000" takes no
	// "10.5.0.1.example.org:50000". Where the host of a pattern is an IP address but for its
	// stars, that of a name must be one. None: only known names.
	Patterns []string
	// Required says that a call which chooses nothing is refused; without it, it gets
	// all of Known.
	Required bool
	// Repeated says that a name given twice is two targets; without it, it is one.
	Repeated bool
	// MaxTargets is the most that one call may have; 0 means [DefaultMaxTargets].
	MaxTargets int
}

// Chosen reports whether the caller's metadata names targets.
func (s *Selection) Chosen(md metadata.MD) bool { return len(listed(md.Get(s.Key))) > 0 }

// Select returns the names of the targets in the order of the caller. The error is a
// status: codes.InvalidArgument if a required choice is missing, codes.PermissionDenied for a
// name that is not allowed, whether or not there is such a target, codes.ResourceExhausted
// for too many.
func (s *Selection) Select(md metadata.MD) ([]string, error) {
	wanted := listed(md.Get(s.Key))
	if len(wanted) == 0 {
		if s.Required {
			return nil, status.Errorf(codes.InvalidArgument, "fanout: metadata %q must name the targets of this call", s.Key)
		}
		wanted = []string{"*"}
	}
	limit := s.MaxTargets
	if limit == 0 {
		limit = DefaultMaxTargets
	}
	if !s.Repeated {
		wanted = Distinct(wanted)
	}
	var names []string
	for _, name := range wanted {
		if s.Repeated && len(names) > limit {
			break // each "*" may stand for many
		}
		switch {
		case name == "*":
			names = append(names, s.Known...)
		case s.allowed(name):
			names = append(names, name)
		default:
			return nil, status.Errorf(codes.PermissionDenied, "fanout: metadata %q: target %q is not allowed", s.Key, clip(oneLine(name), maxNameBytes))
		}
	}
	if !s.Repeated {
		names = Distinct(names)
	}
	if len(names) > limit {
		return nil, status.Errorf(codes.ResourceExhausted, "fanout: metadata %q names more than %d targets, the limit", s.Key, limit)
	}
	return names, nil
}

func (s *Selection) allowed(name string) bool {
	return slices.Contains(s.Known, name) || slices.ContainsFunc(s.Patterns, func(p string) bool { return matches(p, name) && sameKind(p, name) })
}

// sameKind tells whether the name is an IP address, where the pattern is one: "10.5.0.*" is not to let a caller
// have "10.5.0.x" looked up, whose address is up to whoever owns the zone.
func sameKind(pattern, name string) bool {
	return !isIP(hostOf(strings.ReplaceAll(pattern, "*", "1"))) || isIP(hostOf(name))
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// hostOf returns the host of an address with or without a port.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}

// matches tells whether the pattern takes the whole name. It takes time in proportion to the product
// of their lengths at most: of several stars the last one that can still grow does.
func matches(pattern, name string) bool {
	p, n := 0, 0
	star, mark := -1, 0 // the last star, and the first character that it has not taken yet
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*' && ofLabel(name[n]):
			star, mark = p, n+1
			p, n = p+1, n+1
		case p < len(pattern) && pattern[p] != '*' && pattern[p] == name[n]:
			p, n = p+1, n+1
		case star >= 0 && ofLabel(name[mark]):
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return p == len(pattern)
}

// ofLabel tells whether a star may stand for the character.
func ofLabel(c byte) bool {
	return strings.IndexByte("-_", c) >= 0 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
