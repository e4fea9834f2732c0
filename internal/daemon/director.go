// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"

	"github.com/manifold-grpc/manifold/proxy"
)

// newDirector returns what says where each call goes: to all upstreams if its
// service is one of fanOut, else to the next one in turn.
func newDirector(upstreams []*upstream, fanOut []string) (proxy.StreamDirector, error) {
	backends := make([]proxy.Backend, len(upstreams))
	for i, u := range upstreams {
		backends[i] = u
	}
	next, err := proxy.NewRoundRobin(backends...)
	if err != nil {
		return nil, err
	}
	all := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}

	routes := []proxy.Route{{Pattern: "*", Director: next.Direct}}
	for _, service := range fanOut {
		routes = append(routes, proxy.Route{Pattern: service, Director: all})
	}
	router, err := proxy.NewRouter(routes...)
	if err != nil {
		return nil, err
	}

	return router.Direct, nil
}
