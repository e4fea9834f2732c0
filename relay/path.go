// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "strings"

// splitPath returns where the service ends and the method begins in a canonical gRPC path,
// "/service/method"; 0 for another. Everything else is refused before routing, so that no two
// parties read the same path differently (CVE-2026-33186): one slash between two names that are not
// empty, visible ASCII only, and none of the octets that start an escape, a parameter, a query or a fragment.
func splitPath(path string) (slash int, ok bool) {
	if len(path) < 4 || path[0] != '/' {
		return 0, false
	}
	for i := 1; i < len(path); i++ {
		if !pathOctet[path[i]] {
			return 0, false
		}
	}
	service, method, ok := strings.Cut(path[1:], "/")
	if !ok || service == "" || method == "" || strings.Contains(method, "/") || !dotted(service) || !dotted(method) {
		return 0, false
	}
	return 1 + len(service), true
}

// dotted refuses the path segments "." and "..", which others would resolve.
func dotted(s string) bool { return s != "." && s != ".." }

// pathOctet tells which octets a path may have.
var pathOctet = func() (t [256]bool) {
	for c := '!'; c <= '~'; c++ {
		t[c] = true
	}
	for _, c := range "\"#%;<>?\\^`{|}" {
		t[c] = false
	}
	return t
}()
