// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package connect runs Connect's conformance suite, as far as it is about gRPC
// over HTTP/2, with a proxy between the suite's clients and servers.
//
// The suite has two modes, each with cases of its own. To test a server, its
// runner makes calls by both of its clients, some with malformed requests. To
// test a client, it sends the client to both of its servers, some of whose
// answers are malformed. So the proxy is put before each of the servers in the
// one mode (see Server) and before whatever a client calls in the other (see
// Client), and each of the two clients meets each of the two servers.
package connect

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/manifold-grpc/manifold/conformance/suite"
)

const (
	module = "connectrpc.com/conformance"
	runner = module + "/cmd/connectconformance"
)

// A side is one program of the suite under test, with the proxy at its side.
type side struct {
	name   string
	mode   string // the runner's: server or client
	pkg    string
	config string // file beside this one: what the program can do

	library string   // the same with package proxy in between, which can do less; "" for no difference
	known   string   // the suite's own list of what this program fails, in its module
	args    []string // for Server or Client
}

var sides = []side{
	{
		name: "reference server", mode: "server", pkg: module + "/cmd/referenceserver",
		config: "reference.yaml", library: "library.yaml", known: "referenceserver-known-failing.txt",
	},
	{
		name: "grpc-go server", mode: "server", pkg: module + "/cmd/grpcserver",
		config: "grpc-server.yaml", known: "grpcserver-known-failing.txt", args: []string{"-plain"},
	},
	{
		name: "reference client", mode: "client", pkg: module + "/cmd/referenceclient",
		config: "reference.yaml", library: "library-client.yaml", known: "referenceclient-known-failing.txt",
	},
	{
		name: "grpc-go client", mode: "client", pkg: module + "/cmd/grpcclient",
		config: "grpc-client.yaml", library: "library-grpc-client.yaml", known: "grpcclient-known-failing.txt",
	},
}

//go:embed *.yaml known
var files embed.FS

// Run holds the suite against the proxy that undertest.ByName knows by the name.
// The executable is this program, which Run has started for each process that
// the runner wants, as
//
//	executable connect-server|connect-client -proxy NAME -program FILE [-plain]
//
// Only cases that match a pattern are run, in the runner's syntax, if any is
// given.
func Run(ctx context.Context, dir, executable, proxy string, patterns []string) ([]suite.Report, error) {
	run, err := suite.Build(ctx, dir, runner)
	if err != nil {
		return nil, err
	}
	own, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return nil, fmt.Errorf("finding the module of the suite: %w", err)
	}
	var reports []suite.Report
	for _, s := range sides {
		program, err := suite.Build(ctx, dir, s.pkg)
		if err != nil {
			return nil, err
		}
		args, err := s.runnerArgs(dir, filepath.Join(strings.TrimSpace(string(own)), "testing", s.known), proxy)
		if err != nil {
			return nil, err
		}
		for _, p := range patterns {
			args = append(args, "--run", p)
		}
		args = append(args, "--", executable, "connect-"+s.mode, "-proxy", proxy, "-program", program)
		cmd := exec.CommandContext(ctx, run, append(args, s.args...)...)
		// The runner does not look at how a program under test exits, and so would
		// not see what the race detector, where it is on, says at the end.
		cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(os.Stderr, &complaints)
		// It exits with 1 when a case failed. What counts is what it printed.
		runErr := cmd.Run()
		if len(patterns) > 0 && strings.HasPrefix(complaints.String(), "run patterns: unmatched") {
			fmt.Printf("left out: the %s has no case that matches\n", s.name)
			continue
		}
		report, err := parse(out.String())
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w\n%s", s.name, err, runErr, out.String())
		}
		report.Run = "connect, proxy at the " + s.name
		reports = append(reports, report)
	}
	return reports, nil
}

// runnerArgs returns the runner's flags for a side. What is known to fail is on
// the suite's own list for the program, and on ours for the proxy.
func (s side) runnerArgs(dir, own, proxy string) ([]string, error) {
	features := s.config
	if proxy == "proxy" {
		features = cmp.Or(s.library, s.config)
	}
	config, err := files.ReadFile(features)
	if err != nil {
		return nil, err
	}
	if strings.Contains(proxy, " ") {
		config = withoutTLS(config)
	}
	known, err := os.ReadFile(own)
	if err != nil {
		return nil, err
	}
	// A proxy without a list has nothing on it.
	ours, _ := files.ReadFile("known/" + proxy + "-" + strings.ReplaceAll(s.name, " ", "-") + ".txt")
	known = append(append(known, '\n'), ours...)
	args := []string{"--mode", s.mode}
	for flag, content := range map[string][]byte{"conf": config, "known-failing": known} {
		file := filepath.Join(dir, "connect-"+flag)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return nil, err
		}
		if flag == "known-failing" {
			file = "@" + file
		}
		args = append(args, "--"+flag, file)
	}
	return args, nil
}

// withoutTLS takes TLS out of a configuration: a command line serves either with
// it or without.
func withoutTLS(config []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(config) {
		if !bytes.Contains(line, []byte("supportsTls")) {
			kept = append(kept, line...)
		}
	}
	return append(kept, "  supportsTls: false\n"...)
}

var (
	failedLine = regexp.MustCompile(`^FAILED: (.+?)(?::$| (was expected to fail but did not)$)`)
	knownLine  = regexp.MustCompile(`^INFO: (.+) failed \(as expected\):$`)
	totalLine  = regexp.MustCompile(`^(\d+) passed, (\d+) failed$`)
	notRunLine = regexp.MustCompile(`^Another (\d+) could not be run`)
)

// parse reads what the runner printed.
func parse(out string) (suite.Report, error) {
	var report suite.Report
	var open *suite.Case // whose explanation the indented lines are
	finished, failed := false, 0
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := failedLine.FindStringSubmatch(line); m != nil {
			report.Failed = append(report.Failed, suite.Case{Name: m[1], Says: m[2]})
			open = &report.Failed[len(report.Failed)-1]
		} else if m := knownLine.FindStringSubmatch(line); m != nil {
			report.Known = append(report.Known, suite.Case{Name: m[1]})
			open = &report.Known[len(report.Known)-1]
		} else if m := totalLine.FindStringSubmatch(line); m != nil {
			finished = true
			report.Passed, _ = strconv.Atoi(m[1])
			failed, _ = strconv.Atoi(m[2])
		} else if notRunLine.MatchString(line) {
			report.Failed = append(report.Failed, suite.Case{Name: "the run itself", Says: line})
			failed++
		} else if line == "" {
			open = nil
		} else if open != nil {
			open.Says += line + "\n"
		}
	}
	if !finished {
		return report, fmt.Errorf("the runner printed no totals")
	}
	if failed != len(report.Failed) {
		return report, fmt.Errorf("the runner counts %d failed cases and prints %d", failed, len(report.Failed))
	}
	return report, nil
}
