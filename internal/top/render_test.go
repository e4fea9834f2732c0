// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/manifold-grpc/manifold/internal/status"
)

var update = flag.Bool("update", false, "write the golden files anew")

var moment = time.Date(2026, 11, 25, 18, 30, 0, 0, time.UTC)

// activity is some calls with a history of a ramp.
func activity(perSecond, errors, p99 float64, inFlight int64, points int) status.Activity {
	a := status.Activity{
		Calls: uint64(perSecond * 60), InFlight: inFlight, Rate: status.Number(perSecond), ErrorRate: status.Number(errors),
		P50: status.Number(p99 / 4), P90: status.Number(p99 / 2), P99: status.Number(p99),
		BytesIn: status.Number(perSecond * 100), BytesOut: status.Number(perSecond * 3000),
	}
	for i := range points {
		p := status.Point{Rate: float32(perSecond * float64(i) / float64(points)), P50: float32(p99 / 4), P99: float32(p99)}
		if i == points/2 {
			p.Errors, p.P50, p.P99 = float32(errors), float32(math.NaN()), float32(math.NaN())
		}
		a.History = append(a.History, p)
	}

	return a
}

// idle has had no call.
func idle() status.Activity {
	return status.Activity{P50: status.NaN(), P90: status.NaN(), P99: status.NaN()}
}

// shop is a daemon with something of everything.
func shop() *status.Status {
	refused := "dial tcp 10.0.0.3:50051: connect: connection refused"
	return &status.Status{
		Now: moment, Started: moment.Add(-93 * time.Minute), Version: "v1.2.3", State: "serving", Seq: 300,
		Process: status.Process{PID: 4711, CPU: 0.42, Memory: 34 << 20},
		Total:   activity(1234, 12, 0.0453, 17, 40),
		Frontends: []status.Frontend{
			{Name: "public", Address: ":8443", TLS: true, Connections: 212, Activity: activity(1234, 12, 0.0453, 17, 40)},
			{Name: "inside", Address: "unix:/run/manifold.sock", Activity: idle()},
		},
		Routes: []status.Route{
			{Name: "routes[0]", Match: "api.example.com/shop.v1.Catalog", To: "catalog", Activity: activity(1200, 12, 0.0453, 12, 40)},
			{Name: "routes[1]", Match: "/machine.v1.MachineService tier=gold", To: "all of machines", Activity: activity(34, 0, 0.9, 5, 40)},
			{Name: "routes[2]", Match: "/shop.v1.*", To: "denied", Activity: idle()},
		},
		Backends: []status.Backend{
			{
				Name: "catalog", Ready: true, Balance: "round_robin", Activity: activity(1200, 12, 0.0453, 12, 40),
				Endpoints: []status.Endpoint{
					{Name: "one", Address: "10.0.0.1:50051", State: "ready", Health: "serving", Usable: true, Weight: 1, Connections: 1, InFlight: 12, Rate: 1188},
					{Name: "two", Address: "10.0.0.2:50051", State: "ready", Health: "serving", Weight: 1, Connections: 1, Rate: 12, FailureRate: 12, Ejected: moment.Add(4 * time.Second)},
					{Name: "three", Address: "10.0.0.3:50051", State: "failing", Error: refused, Health: "not serving", HealthReason: "no answer", Weight: 1},
					{Name: "four", Address: "10.0.0.4:50051", State: "ready", Health: "not serving", HealthReason: "it says\x1b[2J NOT_SERVING", Weight: 1, Connections: 1},
				},
			},
			{
				Name: "machines", Ready: true, Balance: "least_request", Activity: activity(34, 0, 0.9, 5, 40),
				Endpoints: []status.Endpoint{
					{Name: "m1:50000", Address: "m1:50000", State: "ready", Health: "unchecked", Usable: true, Weight: 1, Connections: 1, InFlight: 5, Rate: 34},
					{Name: "m2:50000", Address: "m2:50000", State: "ready", Health: "unchecked", Usable: true, Connections: 1},
				},
			},
			{
				Name: "billing", Balance: "round_robin", Activity: idle(),
				Endpoints: []status.Endpoint{{Name: "b:1", Address: "b:1", State: "connecting", Health: "unchecked", Weight: 1}},
			},
		},
		Certificates: []status.Certificate{
			{Frontend: "public", Subject: "CN=api.example.com", NotAfter: moment.Add(50 * time.Hour)},
			{Frontend: "public", Subject: "CN=fresh", NotAfter: moment.Add(900 * time.Hour)},
		},
		Reload: status.Reload{File: "m.yaml", Error: "m.yaml:3:4: unknown key \"x\"\nm.yaml:9:1: another\n", Failed: 1},
	}
}

// What a person sees. After a change, look at what -update makes of the files.
func TestRender(t *testing.T) {
	small := &status.Status{
		Now: moment, Started: moment.Add(-time.Second), State: "draining", Total: idle(), Reload: status.Reload{OK: true},
		Backends: []status.Backend{{Name: "b", Ready: true, Balance: "round_robin", Activity: idle()}},
	}
	tests := []struct {
		name string
		s    *status.Status
		view View
	}{
		{"once", shop(), View{Width: 120}},
		{"wide", shop(), View{Width: 200, Height: 40, Colour: true}},
		{"usual", shop(), View{Width: 80, Height: 24, Sort: ByRate, Scroll: 3}},
		{"errors", shop(), View{Width: 100, Height: 34, Sort: ByErrors}},
		{"narrow", shop(), View{Width: 40, Height: 20, Scroll: 1000}},
		{"gone", shop(), View{Width: 100, Height: 30, Err: errors.New("nothing listens on 127.0.0.1:9901")}},
		{"small", small, View{Width: 100, Height: 24}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m Model
			m.Take(tt.s)
			lines, _ := Render(&m, tt.view)
			got := strings.Join(lines, "\n") + "\n"
			file := filepath.Join("testdata", tt.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(strings.ReplaceAll(got, "\x1b", "␛")), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ReplaceAll(got, "\x1b", "␛") != string(want) {
				t.Errorf("%s differs, got\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

// However small or large the screen is, what is drawn fits, and nothing of a name reaches the terminal as an escape.
func TestRenderFits(t *testing.T) {
	var m Model
	m.Take(shop())
	for width := 1; width < 300; width += 7 {
		for height := 1; height < 60; height += 5 {
			lines, scrolled := Render(&m, View{Width: width, Height: height, Scroll: height})
			if len(lines) != height {
				t.Fatalf("%dx%d: %d lines", width, height, len(lines))
			}
			if scrolled < 0 || scrolled > height {
				t.Errorf("%dx%d: scrolled %d", width, height, scrolled)
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width || strings.ContainsRune(l, '\x1b') {
					t.Errorf("%dx%d: %d characters in %q", width, height, n, l)
				}
			}
		}
	}
}

// The histories of several answers are put together, and begin anew with another process.
func TestModel(t *testing.T) {
	var m Model
	points := func(seq uint64, started time.Time, rates ...float32) *status.Status {
		s := &status.Status{Seq: seq, Started: started, Backends: []status.Backend{{Name: "b"}}}
		for _, r := range rates {
			s.Backends[0].Activity.History = append(s.Backends[0].Activity.History, status.Point{Rate: r})
		}

		return s
	}
	want := func(values ...float64) {
		t.Helper()
		if got := m.rates(backendKey + "b"); fmt.Sprint(got) != fmt.Sprint(values) {
			t.Errorf("rates %v, want %v", got, values)
		}
	}
	m.Take(points(2, moment, 1, 2))
	m.Take(points(3, moment, 3))
	want(1, 2, 3)
	m.Take(points(1, moment.Add(time.Second), 9))
	want(9)
	m.Take(points(301, moment.Add(time.Second), make([]float32, keep)...))
	want(make([]float64, keep)...)
	m.Take(&status.Status{Seq: 302, Started: moment.Add(time.Second)})
	want()
}

func TestSort(t *testing.T) {
	list := []status.Backend{
		{Name: "b", Activity: status.Activity{Rate: 1, ErrorRate: 3, P99: 2, InFlight: 1}},
		{Name: "c", Activity: status.Activity{Rate: 3, ErrorRate: 1, P99: status.NaN(), InFlight: 2}},
		{Name: "a", Activity: status.Activity{Rate: 2, ErrorRate: 2, P99: 3, InFlight: 3}},
	}
	for s, want := range map[Sort]string{ByOrder: "bca", ByName: "abc", ByRate: "cab", ByErrors: "bac", ByLatency: "abc", ByInFlight: "acb"} {
		var got strings.Builder
		for _, b := range sorted(list, s, func(b *status.Backend) sortKey { return keyOf(b.Name, &b.Activity) }) {
			got.WriteString(b.Name)
		}
		if got.String() != want || list[0].Name != "b" {
			t.Errorf("by %v: %s, want %s", s, got.String(), want)
		}
		if back, err := ParseSort(s.String()); err != nil || back != s {
			t.Errorf("%v is parsed as %v, %v", s, back, err)
		}
	}
	if _, err := ParseSort("speed"); err == nil || !strings.Contains(err.Error(), "expected order, name") {
		t.Errorf("speed: %v", err)
	}
}

func TestFormat(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct{ got, want string }{
		{rate(0), "0"}, {rate(0.5), "0.50"}, {rate(12.34), "12.3"}, {rate(1234), "1234"}, {rate(56789), "56.8k"}, {rate(status.NaN()), none},
		{short(1234567), "1.23M"}, {short(2.5e9), "2.50G"},
		{percent(0), "0"}, {percent(0.0004), "<0.1"}, {percent(0.123), "12.3"}, {percent(0.99951), "100"},
		{seconds(0.0000005), "0 µs"}, {seconds(0.0004), "400 µs"}, {seconds(0.00535), "5.35 ms"}, {seconds(0.0535), "53.5 ms"}, {seconds(0.535), "535 ms"},
		{seconds(5.35), "5.35 s"}, {seconds(53.5), "53.5 s"}, {seconds(status.NaN()), none},
		{size(0), "0 B"}, {size(1536), "1.5 KiB"}, {size(5 << 30), "5.0 GiB"}, {size(nan), none}, {size(1 << 51), "2048.0 TiB"},
		{span(0), "0 s"}, {span(61 * time.Second), "1 min 1 s"}, {span(3 * time.Hour), "3 h 0 min"}, {span(50 * time.Hour), "2 d 2 h"},
		{spark([]float64{1, 2, 3, nan, 0, 0.001, 4}, 6), "▅▇ ▁▂█"}, {spark([]float64{0}, 3), "  ▁"}, {spark(nil, 2), "  "}, {spark([]float64{1}, 0), ""},
		{clip("abc", 3), "abc"}, {clip("äbcd", 3), "äb…"}, {clip("a", 0), ""},
		{shorten("/a.v1.Catalog", 9), "/a…atalog"}, {shorten("abc", 3), "abc"}, {shorten("abc", 1), "…"},
		{plain("a\x1b[2J\nb\u009bc"), "a [2J b c"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

func TestKeys(t *testing.T) {
	for input, want := range map[string][]key{
		"":                     nil,
		"q":                    {keyQuit},
		"\x03":                 {keyQuit},
		"jk":                   {keyDown, keyUp},
		"\x1b[A\x1b[B\x1bOA":   {keyUp, keyDown, keyUp},
		"\x1b[5~\x1b[6~\x1b[H": {keyPageUp, keyPageDown, keyHome},
		"\x1b[1;5qe":           {keySort + key(ByErrors)}, // the q is of a sequence that is nothing
		"\x1b[":                nil,
		"\x1b":                 nil,
		"zü\xff":               nil,
		"ron":                  {keySort + key(ByRate), keySort + key(ByOrder), keySort + key(ByName)},
	} {
		if got := parseKeys(input); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, want %v", input, got, want)
		}
	}
}
