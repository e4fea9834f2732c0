// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package interop runs grpc-go's interoperability client and server with a proxy
// between them.
package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/manifold-grpc/manifold/conformance/suite"
	"github.com/manifold-grpc/manifold/conformance/undertest"
)

const (
	client = "google.golang.org/grpc/interop/client"
	server = "google.golang.org/grpc/interop/server"

	caseTimeout = 20 * time.Second // as grpc-go's own script has it
)

// cases are those that grpc-go's own script runs. It leaves out what needs
// Google's cloud for credentials, and pick_first_unary, which is about the
// client's balancing of several addresses.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service",
	"orca_per_rpc", "orca_oob", "rpc_soak", "channel_soak",
}

// orcaPolicy makes the client look at the load reports of the two orca cases.
const orcaPolicy = `{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`

// inapplicable says why a case has no meaning with that many backends, or "".
func inapplicable(name string, backends int) string {
	if name == "orca_oob" && backends > 1 {
		return "it sets the load of one server by one call and expects it in the reports of another: each call has its own backend"
	}
	return ""
}

// Run holds the suite against the proxy: over h2c and TLS on both sides, with 1
// and 3 backends.
func Run(ctx context.Context, dir string, start undertest.Start) ([]suite.Report, error) {
	identity, err := undertest.NewIdentity()
	if err != nil {
		return nil, err
	}
	r := runner{dir: dir, start: start, identity: identity, ca: filepath.Join(dir, "interop-ca.pem")}
	if err := os.WriteFile(r.ca, identity.Cert, 0o600); err != nil {
		return nil, err
	}
	if r.client, err = suite.Build(ctx, dir, client); err != nil {
		return nil, err
	}
	if r.server, err = suite.Build(ctx, dir, server); err != nil {
		return nil, err
	}
	var reports []suite.Report
	for _, secure := range []bool{false, true} {
		for _, backends := range []int{1, 3} {
			report, err := r.run(ctx, secure, backends)
			if errors.Is(err, undertest.ErrUnsupported) {
				fmt.Printf("left out: %s: %v\n", report.Run, err)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", report.Run, err)
			}
			reports = append(reports, report)
		}
	}
	return reports, nil
}

type runner struct {
	dir            string
	start          undertest.Start
	identity       *undertest.Identity // of the proxy and of all backends
	ca             string              // file that trusts it
	client, server string              // programs
}

// run makes one arrangement and runs all cases in it.
func (r runner) run(ctx context.Context, secure bool, backends int) (suite.Report, error) {
	report := suite.Report{Run: fmt.Sprintf("interop, h2c, backends: %d", backends)}
	var config undertest.Config
	if secure {
		report.Run = fmt.Sprintf("interop, TLS, backends: %d", backends)
		config.Identity, config.BackendCA = r.identity, r.identity.Cert
	}
	for range backends {
		addr, stop, err := r.startServer(secure)
		if err != nil {
			return report, err
		}
		defer stop()
		config.Backends = append(config.Backends, addr)
	}
	addr, stop, err := r.start(config)
	if err != nil {
		return report, err
	}
	defer stop()
	for _, name := range cases {
		if why := inapplicable(name, backends); why != "" {
			report.Known = append(report.Known, suite.Case{Name: name, Says: why})
			continue
		}
		if says, err := r.runCase(ctx, name, addr, secure); err != nil {
			report.Failed = append(report.Failed, suite.Case{Name: name, Says: fmt.Sprintf("%v\n%s", err, says)})
			continue
		}
		report.Passed++
	}
	return report, nil
}

// startServer starts the suite's server as if it were a proxy: what it lacks is
// backends alone.
func (r runner) startServer(secure bool) (string, func(), error) {
	// The program takes a port and listens on all interfaces.
	if !secure {
		return undertest.Command(r.server + " -port {port}")(undertest.Config{})
	}
	line := r.server + " -port {port} -use_tls -tls_cert_file {cert} -tls_key_file {key}"
	return undertest.Command(line)(undertest.Config{Identity: r.identity})
}

// runCase returns what the client printed, and an error if it did not exit with
// 0 in time.
func (r runner) runCase(ctx context.Context, name, addr string, secure bool) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	args := []string{"-test_case", name, "-server_host", host, "-server_port", port}
	if name == "orca_per_rpc" || name == "orca_oob" {
		args = append(args, "-service_config_json", orcaPolicy)
	}
	if secure {
		args = append(args, "-use_tls", "-use_test_ca", "-ca_file", r.ca)
	}
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	return exec.CommandContext(ctx, r.client, args...).CombinedOutput()
}
