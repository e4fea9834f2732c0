// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/report"
)

// The benchmark starts the program that it is in, which here is the test.
func TestMain(m *testing.M) {
	if child.Run(roles()) {
		return
	}
	goleak.VerifyTestMain(m)
}

// runBench runs the benchmark as the command line does, and returns its results.
func runBench(t *testing.T, args ...string) *report.Run {
	t.Helper()
	dir := t.TempDir()
	if err := run(t.Context(), append(args, "-out", dir), io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	r, err := read(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(dir, "table.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Scenarios {
		if !strings.Contains(string(table), "### "+s.Title+"\n") {
			t.Errorf("table.md says nothing of %q", s.Title)
		}
	}
	plot, err := os.ReadFile(filepath.Join(dir, "cpu.svg"))
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, plot)
	return r
}

func wellFormed(t *testing.T, text []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("cpu.svg: %v", err)
		}
	}
}

// checkSamples fails unless every cell has its samples, with figures in them.
func checkSamples(t *testing.T, r *report.Run, scenarios, proxies int) {
	t.Helper()
	if len(r.Scenarios) != scenarios {
		t.Errorf("%d scenarios, expected %d", len(r.Scenarios), scenarios)
	}
	for _, s := range r.Scenarios {
		if len(s.Cells) != proxies {
			t.Errorf("%s: %d cells, expected %d", s.Name, len(s.Cells), proxies)
		}
		for _, c := range s.Cells {
			if len(c.Samples) != r.Rounds {
				t.Errorf("%s, %s: %d samples, expected %d", s.Name, c.Proxy, len(c.Samples), r.Rounds)
			}
			for _, sample := range c.Samples {
				if sample.CPU < 0 || sample.RSS <= 0 {
					t.Errorf("%s, %s: %+v", s.Name, c.Proxy, sample)
				}
				if busy := sample.CPU > 0 && sample.EndsCPU > 0 && sample.Rate > 0 && sample.P50 > 0 && sample.P99 >= sample.P50; busy == (s.Cost == report.CostIdle) {
					t.Errorf("%s, %s: %+v", s.Name, c.Proxy, sample)
				}
			}
		}
	}
}

// Every scenario, with the proxies that need nothing installed.
func TestSmoke(t *testing.T) {
	var names []string
	for _, s := range scenarios() {
		if s.connections() <= 1001 { // more take seconds, and not every machine has the descriptors
			names = append(names, "^"+s.Name+"$")
		}
	}
	r := runBench(t, "-proxies", "relay,"+proxies.Forward, "-scenarios", strings.Join(names, "|"), "-rounds", "1", "-duration", "100ms", "-profiles", t.TempDir())
	checkSamples(t, r, len(scenarios())-1, 2)
	for _, s := range r.Scenarios {
		for _, c := range s.Cells {
			if c.Samples[0].Objects < 0 {
				t.Errorf("%s, %s: a Go program does not tell what it allocates", s.Name, c.Proxy)
			}
		}
	}
}

// The peers, the installed ones as far as they are there.
func TestPeers(t *testing.T) {
	names := []string{"grpc-go"}
	for _, k := range proxies.Kinds() {
		if k.Command != "" && k.Installed() == nil {
			names = append(names, k.Name)
		}
	}
	r := runBench(t, "-proxies", strings.Join(names, ","), "-scenarios", "^unary-64B-1x1$|^stream|^tls-unary-64KiB", "-rounds", "2", "-duration", "100ms")
	checkSamples(t, r, 3, len(names))
}

// Between a client and a server of grpc-go's.
func TestStockEnds(t *testing.T) {
	r := runBench(t, "-ends", endsGRPC, "-proxies", "relay,"+proxies.Forward, "-scenarios", "^unary-64B-8x100$|^timeouts|^stream|^pingpong|^tls-unary-1MiB|^idle", "-rounds", "1", "-duration", "100ms")
	checkSamples(t, r, 5, 2) // those of grpc-go hold no idle streams
	if r.Ends != endsGRPC {
		t.Errorf("ends %q", r.Ends)
	}
}

func TestFlags(t *testing.T) {
	tests := []struct{ name, args, want string }{
		{"no such proxy", "-proxies relay,squid", `no proxy "squid"`},
		{"no such scenario", "-scenarios ^nothing$", `no scenario matches "^nothing$"`},
		{"no such ends", "-ends curl", `-ends "curl", expected wire or grpc-go`},
		{"no such load of those ends", "-ends grpc-go -scenarios ^idle", `no scenario matches "^idle"`},
		{"bad expression", "-scenarios (", "missing closing )"},
		{"no rounds", "-rounds 0", "above 0"},
		{"arguments", "relay", "expected no arguments"},
		{"no results", "-from nowhere.json", "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), append(strings.Fields(tt.args), "-out", t.TempDir()), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, expected one with %q", err, tt.want)
			}
		})
	}
}

// A failed sample fails the run, but only after the others were measured.
func TestFailedSample(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-proxies", proxies.Direct + ",relay", "-scenarios", "^tls-unary-64B-1x100", "-rounds", "1", "-duration", "50ms", "-out", dir}
	err := run(t.Context(), args, io.Discard, io.Discard)
	if err == nil || err.Error() != "1 samples failed" {
		t.Errorf("error %v, expected that a sample failed: no TLS without a proxy", err)
	}
	r, err := read(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	if cells := r.Scenarios[0].Cells; len(cells[0].Errors) != 1 || len(cells[1].Samples) != 1 {
		t.Errorf("cells %+v, expected an error and a sample", cells)
	}
}
