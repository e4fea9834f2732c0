// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// printer writes what the demo shows. Its first error stays, so that it can be
// looked at once, at the end.
type printer struct {
	out io.Writer
	err error
}

// printf writes unless a write has failed.
func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

// setting says who is where.
func (p *printer) setting(proxy daemon.Address, backends []*sample.Backend) {
	p.printf("Three gRPC servers with the same services are the backends:\n\n")
	t := p.table()
	for _, b := range backends {
		t.row(b.Name(), b.Addr().String())
	}
	t.end()
	p.printf("\nManifold is in front of them, on %s. It has no knowledge of their messages.\n", proxy)
	p.printf("All calls below are made to Manifold, over one connection.\n")
}

// configuration shows the file that the proxy runs on.
func (p *printer) configuration(text string) {
	p.printf("\nIt runs on this file:\n\n")
	for line := range strings.Lines(text) {
		p.printf("  %s", line)
	}
}

// tryIt says what to do with a proxy that keeps running.
func (p *printer) tryIt(proxy daemon.Address) {
	p.printf(`
All of it keeps running. Try, in another terminal:

  go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest
  grpcurl -plaintext %[1]s list
  grpcurl -plaintext %[1]s describe manifold.sample.v1.EchoService
  grpcurl -plaintext -d '{"text": "hello"}' %[1]s manifold.sample.v1.EchoService/Echo
  grpcurl -plaintext -d '{"text": "tick", "count": 3, "interval": "1s"}' %[1]s manifold.sample.v1.EchoService/Expand
  grpcurl -plaintext -d '{"fail_on": "two"}' %[1]s manifold.sample.v1.FleetService/Describe

Ctrl-C ends it.
`, grpcurlAddress(proxy))
}

// grpcurlAddress returns an address as the arguments of grpcurl.
func grpcurlAddress(a daemon.Address) string {
	if a.Network == "unix" {
		return "-unix " + a.Addr
	}

	return a.Addr
}

// table aligns columns, and has a heading if there are titles.
type table struct {
	p *printer
	w *tabwriter.Writer
}

// table begins a table, which is written by its end.
func (p *printer) table(titles ...string) table {
	t := table{p, tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)}
	if len(titles) > 0 {
		t.row(titles...)
		lines := make([]string, len(titles))
		for i, title := range titles {
			lines[i] = strings.Repeat("-", len(title))
		}
		t.row(lines...)
	}

	return t
}

func (t table) row(cells ...string) {
	if t.p.err == nil {
		_, t.p.err = fmt.Fprintf(t.w, "  %s\n", strings.Join(cells, "\t"))
	}
}

func (t table) end() {
	if t.p.err == nil {
		t.p.err = t.w.Flush()
	}
}

// quote returns the texts in quotes, separated by spaces.
func quote(texts ...string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = strconv.Quote(text)
	}

	return strings.Join(quoted, " ")
}

// texts returns the text of each answer.
func texts(answers []*samplepb.EchoResponse) []string {
	var all []string
	for _, answer := range answers {
		all = append(all, answer.GetText())
	}

	return all
}
