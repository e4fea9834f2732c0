// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package h2spec runs h2spec, strict, against what a proxy shows to its clients.
//
// Its requests are plain GETs and POSTs, not gRPC. Behind the proxy stands an
// HTTP/2 server that answers them with a body; a proxy that answers for itself
// never asks it.
package h2spec

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/manifold-grpc/manifold/conformance/suite"
	"github.com/manifold-grpc/manifold/conformance/undertest"
)

const program = "github.com/summerwind/h2spec/cmd/h2spec"

// Run holds the suite against the proxy over h2c and over TLS.
func Run(ctx context.Context, dir string, start undertest.Start) ([]suite.Report, error) {
	h2spec, err := suite.Build(ctx, dir, program)
	if err != nil {
		return nil, err
	}
	backend, stop, err := serveBackend()
	if err != nil {
		return nil, err
	}
	defer stop()
	identity, err := undertest.NewIdentity()
	if err != nil {
		return nil, err
	}
	arrangements := []struct {
		name   string
		config undertest.Config
	}{
		{"h2spec strict, h2c", undertest.Config{Backends: []string{backend}}},
		{"h2spec strict, TLS", undertest.Config{Backends: []string{backend}, Identity: identity}},
	}
	var reports []suite.Report
	for _, a := range arrangements {
		report, err := runOne(ctx, h2spec, filepath.Join(dir, "h2spec.xml"), start, a.config)
		if errors.Is(err, undertest.ErrUnsupported) {
			fmt.Printf("left out: %s: %v\n", a.name, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		report.Run = a.name
		reports = append(reports, report)
	}
	return reports, nil
}

func runOne(ctx context.Context, h2spec, file string, start undertest.Start, config undertest.Config) (suite.Report, error) {
	addr, stop, err := start(config)
	if err != nil {
		return suite.Report{}, err
	}
	defer stop()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return suite.Report{}, err
	}
	args := []string{"--strict", "-h", host, "-p", port, "-j", file}
	if config.Identity != nil {
		args = append(args, "--tls", "--insecure")
	}
	_ = os.Remove(file)
	// It exits with 1 when a case failed. What counts is the report it leaves.
	out, runErr := exec.CommandContext(ctx, h2spec, args...).CombinedOutput()
	text, err := os.ReadFile(file)
	if err != nil {
		return suite.Report{}, fmt.Errorf("no report from h2spec: %w\n%s", errors.Join(runErr, err), out)
	}
	return parse(string(text))
}

// junit is the part of h2spec's report that is read here.
type junit struct {
	Suites []struct {
		Package string `xml:"package,attr"` // like generic/3.1
		Cases   []struct {
			Description string    `xml:"classname,attr"`
			Failure     *string   `xml:"failure"`
			Error       *string   `xml:"error"`
			Skipped     *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// parse reads h2spec's report. A case counts from 1 within its section, which
// makes the names that h2spec takes as arguments, like generic/3.1/1.
func parse(text string) (suite.Report, error) {
	var report suite.Report
	var found junit
	decoder := xml.NewDecoder(strings.NewReader(text))
	decoder.Strict = false // h2spec does not escape what peers sent
	if err := decoder.Decode(&found); err != nil {
		return report, fmt.Errorf("report of h2spec: %w", err)
	}
	for _, s := range found.Suites {
		for i, c := range s.Cases {
			name := fmt.Sprintf("%s/%d %s", s.Package, i+1, c.Description)
			switch {
			case c.Skipped != nil:
				report.Known = append(report.Known, suite.Case{Name: name, Says: "skipped by h2spec: the answer gave it nothing to test with, mostly no body"})
			case c.Failure != nil:
				report.Failed = append(report.Failed, suite.Case{Name: name, Says: *c.Failure})
			case c.Error != nil:
				report.Failed = append(report.Failed, suite.Case{Name: name, Says: *c.Error})
			default:
				report.Passed++
			}
		}
	}
	return report, nil
}
