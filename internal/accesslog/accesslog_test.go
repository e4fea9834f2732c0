// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package accesslog_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/internal/accesslog"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relayed makes a call through a relay that rejects everything, and hands it to ended, in the hook.
func relayed(t *testing.T, ended func(*relay.Call, relay.CallStats), fields ...string) {
	t.Helper()
	l := memnet.Listen("front")
	done := make(chan struct{})
	s := &relay.Server{Route: func(c *relay.Call) { c.Reject(status.New(codes.PermissionDenied, "no"), "denied") }}
	s.Hooks.CallEnded = func(c *relay.Call, st relay.CallStats) { ended(c, st); close(done) }
	go s.Serve(l) //nolint:errcheck // until Close
	defer s.Close()
	nc, err := l.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := rawpeer.Client(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Headers(1, true, rawpeer.Request("/shop.v1.Catalog/List", fields...)...); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Until(rawpeer.Is(http2.FrameHeaders, 1)); err != nil {
		t.Fatal(err)
	}
	<-done
}

// syncBuffer is a buffer that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func open(t *testing.T, cfg accesslog.Config) *accesslog.Writer {
	t.Helper()
	w, err := accesslog.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Every line is JSON with the names that are promised, whatever a client sends.
func TestLine(t *testing.T) {
	var out syncBuffer
	w := open(t, accesslog.Config{Output: &out})
	l := accesslog.Logger{Writer: w, Headers: []string{"tenant", "absent"}, Trace: func(*relay.Call) string { return "abc" }}
	start := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.FixedZone("x", 3600))
	relayed(t, func(c *relay.Call, _ relay.CallStats) {
		l.Log(accesslog.End, c, &relay.CallStats{
			Start: start, Duration: 1234567 * time.Microsecond, FirstResponse: time.Millisecond, Code: codes.Unavailable, Reason: relay.ReasonUpstreamLost,
			Endpoint: "10.0.0.1:50051", Attempts: 2, RequestMessages: 1, RequestBytes: 10, ResponseMessages: 3, ResponseBytes: 40,
			Targets: []relay.TargetStats{
				{Outcome: fanout.Outcome{Name: `no"de`, Phase: fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE, Total: time.Second, ResponseMessages: 5}, Endpoint: "h:1", Attempts: 1},
				{Outcome: fanout.Outcome{Name: "b", Status: status.New(codes.NotFound, "")}},
				{Outcome: fanout.Outcome{Name: "unneeded", Phase: fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED}},
			},
		}, accesslog.Where{Frontend: "public", Route: "routes[0]", Backend: "catalog"})
		l.Log(accesslog.Progress, c, &relay.CallStats{Start: start}, accesslog.Where{})
	}, "grpc-timeout", "5S", "user-agent", "quote \" back \\ tab\tend", "x-request-id", "id-\xff-\u00e9", "tenant", "a")
	w.Close()

	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || w.Written() != 2 || w.Dropped() != 0 {
		t.Fatalf("%d lines, %d written, %d dropped: %s", len(lines), w.Written(), w.Dropped(), out.String())
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatalf("%v in %s", err, lines[0])
	}
	if addr, ok := got["downstream_remote_address"].(string); !ok || addr == "" {
		t.Errorf("no remote address in %s", lines[0])
	}
	delete(got, "downstream_remote_address")
	want := `{"start_time":"2026-03-04T04:06:07.089Z","event":"end","duration":1234.567,"response_duration":1,"frontend":"public","route":"routes[0]",
		"backend":"catalog","authority":"test","path":"/shop.v1.Catalog/List","grpc.service":"shop.v1.Catalog","grpc.method":"List",
		"upstream_host":"10.0.0.1:50051","grpc_status":"Unavailable","grpc_status_number":14,"end_reason":"UPSTREAM_CONNECTION_LOST","response_flags":"UC",
		"deadline":5000,"bytes_received":10,"bytes_sent":40,"msgs_received":1,"msgs_sent":3,"attempts":2,
		"user_agent":"quote \" back \\ tab\tend","x_request_id":"id-\ufffd-\u00e9","request.tenant":"a","trace_id":"abc","targets":[
		{"name":"no\"de","grpc_status":"OK","duration":1000,"upstream_host":"h:1","bytes_received":0,"bytes_sent":0,"msgs_received":5,"msgs_sent":0,"attempts":1},
		{"name":"b","grpc_status":"NotFound","duration":0,"bytes_received":0,"bytes_sent":0,"msgs_received":0,"msgs_sent":0,"attempts":0},
		{"name":"unneeded","grpc_status":"Canceled","duration":0,"bytes_received":0,"bytes_sent":0,"msgs_received":0,"msgs_sent":0,"attempts":0}]}`
	var expected map[string]any
	if err := json.Unmarshal([]byte(want), &expected); err != nil {
		t.Fatal(err)
	}
	delete(expected, "authority")
	delete(got, "authority")
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(expected)
	if string(a) != string(b) {
		t.Errorf("line\n%s\nwant\n%s", a, b)
	}
	if strings.Contains(lines[1], "grpc_status") || !strings.Contains(lines[1], `"event":"progress"`) {
		t.Errorf("line of a call that has not ended: %s", lines[1])
	}
}

// What cannot be written in time is dropped and counted; nobody waits.
func TestBounded(t *testing.T) {
	gate, reached := make(chan struct{}), make(chan struct{}, 1)
	w := open(t, accesslog.Config{Output: writerFunc(func(p []byte) (int, error) {
		select {
		case reached <- struct{}{}:
		default:
		}
		<-gate
		return len(p), nil
	}), Buffer: 2000, Flush: time.Millisecond})
	l := accesslog.Logger{Writer: w}
	relayed(t, func(c *relay.Call, st relay.CallStats) {
		l.Log(accesslog.End, c, &st, accesslog.Where{})
		<-reached // it is being written, and goes on to be
		for range 99 {
			l.Log(accesslog.End, c, &st, accesslog.Where{})
		}
	})
	if d := w.Dropped(); d < 80 || d > 98 {
		t.Errorf("%d of 100 lines dropped, with room for a few", d)
	}
	close(gate)
	w.Close()
	if w.Dropped()+w.Written() != 100 {
		t.Errorf("%d dropped and %d written of 100", w.Dropped(), w.Written())
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A line is written soon, by itself.
func TestFlush(t *testing.T) {
	var out syncBuffer
	w := open(t, accesslog.Config{Output: &out})
	defer w.Close()
	l := accesslog.Logger{Writer: w}
	relayed(t, func(c *relay.Call, st relay.CallStats) { l.Log(accesslog.End, c, &st, accesslog.Where{}) })
	deadline := time.After(20 * time.Second)
	for w.Written() == 0 {
		select {
		case <-deadline:
			t.Fatal("nothing was written")
		default:
		}
	}
	if !strings.Contains(out.String(), "PermissionDenied") {
		t.Errorf("wrote %q", out.String())
	}
}

// A file that was renamed is left, and a new one begun, also without being told.
func TestRotation(t *testing.T) {
	for _, told := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "access.log")
		w := open(t, accesslog.Config{Path: path, Flush: time.Millisecond})
		l := accesslog.Logger{Writer: w}
		log := func() {
			relayed(t, func(c *relay.Call, st relay.CallStats) { l.Log(accesslog.End, c, &st, accesslog.Where{}) })
		}
		log()
		waitFor(t, func() bool { return lines(t, path) == 1 })
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		n := 0
		if told {
			w.Reopen()
			waitFor(t, func() bool { _, err := os.Stat(path); return err == nil })
		}
		waitFor(t, func() bool { // at most a second of lines goes to the old one
			log()
			n++
			_, err := os.Stat(path)
			return err == nil
		})
		w.Close()
		if got := lines(t, path) + lines(t, path+".1"); got != n+1 || lines(t, path) == 0 {
			t.Errorf("told %t: %d and %d lines, want %d in all", told, lines(t, path), lines(t, path+".1"), n+1)
		}
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come")
		}
	}
}

func lines(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		if !json.Valid(s.Bytes()) {
			t.Errorf("line %q", s.Text())
		}
	}
	return n
}

// What is written can go elsewhere at any time, without a line lost.
func TestUse(t *testing.T) {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "0"), filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	w := open(t, accesslog.Config{Path: paths[0]})
	l := accesslog.Logger{Writer: w}
	relayed(t, func(c *relay.Call, st relay.CallStats) {
		for i := range 300 {
			if i%100 == 50 {
				o, err := accesslog.OpenOutput(paths[i/100])
				if err != nil {
					t.Error(err)
					return
				}
				w.Use(o)
			}
			l.Log(accesslog.End, c, &st, accesslog.Where{})
		}
		waitFor(t, func() bool { return w.Written() == 300 })
		l.Log(accesslog.End, c, &st, accesslog.Where{})
	})
	w.Close()
	if n := lines(t, paths[0]) + lines(t, paths[1]) + lines(t, paths[2]); n != 301 || lines(t, paths[2]) == 0 {
		t.Errorf("%d lines in all, want 301, some of them in the last file", n)
	}
	o, err := accesslog.OpenOutput(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	w.Use(o) // too late, and closed
}

// A file that cannot be opened is an error at once.
func TestOpenFails(t *testing.T) {
	if _, err := accesslog.Open(accesslog.Config{Path: filepath.Join(t.TempDir(), "no", "file")}); err == nil {
		t.Error("no error")
	}
}

// A line costs no allocation.
func TestAllocations(t *testing.T) {
	w := open(t, accesslog.Config{Output: io.Discard, Buffer: 1})
	defer w.Close()
	l := accesslog.Logger{Writer: w, Headers: []string{"tenant"}}
	relayed(t, func(c *relay.Call, st relay.CallStats) {
		st.Attempts, st.RequestBytes, st.Endpoint = 1, 12345, "10.0.0.1:50051"
		for _, e := range []accesslog.Event{accesslog.End, accesslog.Progress} {
			if n := testing.AllocsPerRun(100, func() { l.Log(e, c, &st, accesslog.Where{Frontend: "f"}) }); n > 0 {
				t.Errorf("%v allocations for a line of %s", n, e)
			}
		}
	}, "grpc-timeout", "5S", "user-agent", "a \"b\"", "tenant", "\u00e9")
}
