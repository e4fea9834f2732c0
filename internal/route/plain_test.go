// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package route

import (
	"slices"
	"strings"
)

// plain looks at every route, and takes the most specific one that matches.
func plain(matches []Match, c *Call) (best int, ok bool) {
	var rank []int
	for i := range matches {
		r := plainRank(&matches[i], c)
		if r != nil && (!ok || slices.Compare(r, rank) > 0) {
			best, rank, ok = i, r, true
		}
	}
	return best, ok
}

// plainRank returns how specific m is, or nil if it does not match.
func plainRank(m *Match, c *Call) []int {
	host := canonicalHost(c.Host)
	h, s, method := 0, 0, 0
	switch suffix, wild := strings.CutPrefix(m.Host, "*"); {
	case m.Host == "":
	case wild && strings.HasSuffix(host, suffix):
		h = len(suffix)
	case !wild && host == m.Host:
		h = 1 << 20
	default:
		return nil
	}
	switch prefix, glob := strings.CutSuffix(m.Service, "*"); {
	case m.Service == "":
	case glob && strings.HasPrefix(c.Service, prefix):
		s = len(prefix)
	case !glob && c.Service == m.Service:
		s = 1 << 20
	default:
		return nil
	}
	if m.Method != "" {
		if c.Method != m.Method {
			return nil
		}
		method = 1
	}
	if !m.matches(c) {
		return nil
	}
	return []int{h, s, method, len(m.Metadata)}
}
