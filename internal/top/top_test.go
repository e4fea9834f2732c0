// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/manifold-grpc/manifold/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// screen is what was drawn last.
type screen struct {
	mu   sync.Mutex
	text string
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = string(p)

	return len(p), nil
}

// shows waits until nothing moves any more, and wants each text to be there.
func (s *screen) shows(t *testing.T, texts ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		if !strings.Contains(s.text, text) {
			t.Errorf("no %q in\n%s", text, s.text)
		}
	}
}

// told is a daemon that a test speaks for.
type told struct {
	mu   sync.Mutex
	s    *status.Status
	err  error
	asks []uint64
}

func (d *told) set(s *status.Status, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.s, d.err = s, err
}

func (d *told) ask(_ context.Context, since uint64) (*status.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asks = append(d.asks, since)

	return d.s, d.err
}

// live runs a session over a screen of 100 columns.
func live(t *testing.T, d *told, height *int) (s *screen, keys chan string, resized, signals chan os.Signal, ended chan error) {
	t.Helper()
	s, keys, resized, signals, ended = &screen{}, make(chan string), make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan error, 1)
	m := &Model{}
	m.Take(d.s)
	one := &session{
		model: m, ask: d.ask, interval: time.Second, out: s, size: func() (int, int) { return 100, *height },
		keys: keys, resized: resized, signals: signals,
	}
	go func() { ended <- one.run(t.Context()) }() // until quit

	return s, keys, resized, signals, ended
}

// A session from the first look to q: it asks once a second for what is new, and goes by keys, the size and failures.
func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, height := &told{s: shop()}, 20
		screen, keys, resized, _, ended := live(t, d, &height)
		screen.shows(t, "v1.2.3", "[order]", "18:30:00")

		next := shop()
		next.Now, next.Seq = next.Now.Add(time.Second), 301
		d.set(next, nil)
		time.Sleep(time.Second)
		screen.shows(t, "18:30:01")
		keys <- "\x1b[Bjj"
		screen.shows(t, "(3 above, ")
		keys <- "kr"
		screen.shows(t, "(2 above, ", "[rate]")
		height = 60
		resized <- syscall.SIGUSR1 // of whatever name
		synctest.Wait()
		screen.shows(t, "ROUTES", "denied")

		d.set(nil, errors.New("nothing listens"))
		time.Sleep(time.Second)
		screen.shows(t, "! not reachable since 18:30:01: nothing listens", "catalog")
		restarted := shop()
		restarted.Started, restarted.Seq, restarted.Version = moment, 2, "v2.0.0"
		d.set(restarted, nil)
		time.Sleep(time.Second)
		screen.shows(t, "v2.0.0")

		keys <- "q"
		if err := <-ended; err != nil {
			t.Errorf("end: %v", err)
		}
		want := []uint64{300, 301, 301, 0} // the last two: the daemon was another one, so all points are asked for
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.asks) != len(want) {
			t.Fatalf("asked for points after %v, want %v", d.asks, want)
		}
		for i := range want {
			if d.asks[i] != want[i] {
				t.Errorf("asked for points after %v, want %v", d.asks, want)
			}
		}
	})
}

// A signal ends it, also where there are no keys any more.
func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		height := 24
		screen, keys, _, signals, ended := live(t, &told{s: shop()}, &height)
		close(keys)
		time.Sleep(5 * time.Second)
		screen.shows(t, "Manifold")
		signals <- syscall.SIGTERM
		if err := <-ended; err != nil {
			t.Errorf("end: %v", err)
		}
	})
}

// Nobody waits for a daemon that does not answer: q ends at once.
func TestSessionWithSilentDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Model{}
		m.Take(shop())
		keys, ended := make(chan string), make(chan error, 1)
		s := &session{
			model: m, interval: time.Second, out: io.Discard, size: func() (int, int) { return 80, 24 }, keys: keys,
			ask: func(ctx context.Context, _ uint64) (*status.Status, error) { <-ctx.Done(); return nil, ctx.Err() },
		}
		go func() { ended <- s.run(t.Context()) }() // until quit
		time.Sleep(3 * time.Second)
		keys <- "q"
		if err := <-ended; err != nil {
			t.Errorf("end: %v", err)
		}
	})
}

func TestBaseURL(t *testing.T) {
	for admin, want := range map[string]string{
		"127.0.0.1:9901": "http://127.0.0.1:9901", ":9901": "http://127.0.0.1:9901", "[::1]:1": "http://[::1]:1", "http://h:1/": "http://h:1",
		"https://h/x": "https://h/x", "9901": "", "h": "", "": "", "h:": "", "ftp://h": "", "http://": "",
	} {
		got, err := BaseURL(admin)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", admin, got, err, want)
		}
	}
}

// What is no admin endpoint is said to be none; what is one is shown.
func TestRunOnce(t *testing.T) {
	answer, err := json.Marshal(shop())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want, err string
		handler         http.HandlerFunc
	}{
		{"daemon", "Backend billing has no endpoint", "", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RequestURI() != "/status.json?since=0" {
				t.Errorf("asked for %s", r.URL.RequestURI())
			}
			w.Write(answer) //nolint:errcheck // a test
		}},
		{"not found", "", "expected the admin endpoint of manifold, it answers 404 404 page not found", http.NotFound},
		{"page", "", "its answer is something else: invalid character", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }},
		{"other JSON", "", "its answer is something else", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"state": "ok"}`) }},
		{"cut off", "", "no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			var out strings.Builder
			err := Run(t.Context(), Options{URL: server.URL, Out: &out})
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !strings.Contains(out.String(), tt.want) || strings.ContainsRune(out.String(), '\x1b') {
				t.Errorf("no %q in plain text:\n%s", tt.want, out.String())
			}
		})
	}
}

func TestRunNobodyListens(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	err := Run(t.Context(), Options{URL: server.URL, Out: io.Discard})
	if err == nil || !strings.HasPrefix(err.Error(), "nothing listens on 127.0.0.1:") {
		t.Errorf("error %v", err)
	}
}
