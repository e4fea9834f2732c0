// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"crypto/tls"
	"net"
	"sync/atomic"

	"github.com/manifold-grpc/manifold/relay"
)

// serveRelay is package relay as the daemon has it, with its own defaults, and a hook for each call, as
// metrics have it.
func serveRelay(lis net.Listener, c Config, front *tls.Config) (stop func(), err error) {
	endpoint := relay.NewEndpoint(c.Backend, relay.EndpointConfig{ShareReader: true})
	backend := &relay.Backend{Name: "bench", Endpoints: []*relay.Endpoint{endpoint}}
	var m callMetrics
	server := &relay.Server{
		TLS:         front,
		Route:       func(call *relay.Call) { call.Forward(backend) },
		ShareReader: true,
		Hooks:       relay.Hooks{CallEnded: m.ended},
		Limits:      relay.Limits{Buffer: c.Buffer},
	}
	done := make(chan struct{})
	go func() { // ends with server.Close
		defer close(done)
		_ = server.Serve(lis)
	}()
	return func() {
		server.Close()
		<-done
		endpoint.Close()
	}, nil
}

// callMetrics is about the work that metrics of calls take.
type callMetrics struct {
	byCode                                             [17]atomic.Int64
	nanoseconds                                        atomic.Int64
	requests, responses, requestOctets, responseOctets atomic.Int64
}

func (m *callMetrics) ended(_ *relay.Call, s relay.CallStats) {
	m.byCode[min(int(s.Code), len(m.byCode)-1)].Add(1)
	m.nanoseconds.Add(int64(s.Duration))
	m.requests.Add(s.RequestMessages)
	m.responses.Add(s.ResponseMessages)
	m.requestOctets.Add(s.RequestBytes)
	m.responseOctets.Add(s.ResponseBytes)
}
