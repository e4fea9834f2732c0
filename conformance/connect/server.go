// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/manifold-grpc/manifold/conformance/undertest"
)

// endTimeout is how long a program of the suite may take to end after SIGTERM.
const endTimeout = 5 * time.Second

// A Server is what the suite's runner takes for a server under test: one of the
// suite's own servers with the proxy before it. The runner starts one process
// for each kind of server that it needs, asks for it on stdin, and expects its
// address on stdout.
type Server struct {
	Start   undertest.Start
	Program string // the suite's server
	Plain   bool   // it has no TLS: the proxy ends it, and dials h2c
}

// Run serves until ctx is done or the suite's server ends.
func (s Server) Run(ctx context.Context, in io.Reader, out, log io.Writer) error {
	request, err := readMessage(in)
	if err != nil {
		return fmt.Errorf("request of the runner: %w", err)
	}
	cmd, response, err := s.startBackend(ctx, request, log)
	if err != nil {
		return err
	}
	config := undertest.Config{Backends: []string{address(response, serverResponseHost, serverResponsePort)}}
	if request.varint(serverRequestTLS) != 0 {
		creds := message(request.bytes(serverRequestCreds))
		config.Identity = &undertest.Identity{Cert: creds.bytes(credsCert), Key: creds.bytes(credsKey)}
		config.ClientCA = request.bytes(serverRequestClientCA)
		config.BackendCA = response.bytes(serverResponseCert)
		response = response.withBytes(serverResponseCert, config.Identity.Cert)
	}
	addr, stop, err := s.Start(config)
	if err != nil {
		return err
	}
	defer stop()
	if response, err = withAddress(response, addr, serverResponseHost, serverResponsePort); err != nil {
		return err
	}
	if err := writeMessage(out, response); err != nil {
		return err
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil // told to end
	}
	return fmt.Errorf("the server behind the proxy ended: %w", err)
}

// startBackend starts the suite's server and returns what it says of itself.
func (s Server) startBackend(ctx context.Context, request message, log io.Writer) (*exec.Cmd, message, error) {
	// Clients authenticate to the proxy, which has no certificate of theirs to
	// show to the server.
	request = request.without(serverRequestClientCA)
	if s.Plain {
		request = request.without(serverRequestTLS, serverRequestCreds)
	}
	cmd := child(ctx, s.Program, log)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	if err := writeMessage(stdin, request); err != nil {
		return nil, nil, err
	}
	if err := stdin.Close(); err != nil {
		return nil, nil, err
	}
	response, err := readMessage(stdout)
	if err != nil {
		return nil, nil, fmt.Errorf("answer of %s: %w", s.Program, err)
	}
	return cmd, response, nil
}

// child prepares a program that gets SIGTERM when ctx is done, as the runner
// would send it.
func child(ctx context.Context, program string, log io.Writer) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program)
	cmd.Stderr = log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTimeout
	return cmd
}

// address returns the host:port that a message has in two fields.
func address(m message, host, port protowire.Number) string {
	return net.JoinHostPort(string(m.bytes(host)), strconv.FormatUint(m.varint(port), 10))
}

// withAddress returns the message with a host:port in two fields.
func withAddress(m message, addr string, host, port protowire.Number) (message, error) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return m.withBytes(host, []byte(h)).withVarint(port, n), err
}
