// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2spec

import (
	"io"
	"net"
	"net/http"
)

// serveBackend starts a server for HTTP/2 without TLS that answers everything
// with a short body, and returns its host:port.
func serveBackend() (addr string, stop func(), err error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: http.HandlerFunc(answer), Protocols: &protocols}
	done := make(chan struct{})
	go func() { // ends when stop closes the server
		_ = server.Serve(lis)
		close(done)
	}()
	return lis.Addr().String(), func() { _ = server.Close(); <-done }, nil
}

func answer(w http.ResponseWriter, r *http.Request) {
	// A body that breaks off is what many of the cases are about.
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "conformance\n")
}
