// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/internal/admin"
	"github.com/manifold-grpc/manifold/internal/status"
)

// Web pages of others reach nothing: not by a name of theirs for this machine, and not by a request from a browser.
func TestGuard(t *testing.T) {
	drained := 0
	h := admin.Handler(admin.Source{
		Status: func(uint64) *status.Status { return &status.Status{} }, Metrics: http.NotFoundHandler(),
		Drain: func() { drained++ }, Level: new(slog.LevelVar),
	}, []string{"ops.example.com", "Console.Example.com"}, false)
	tests := []struct {
		method, host, origin, header string
		code                         int
	}{
		{"GET", "127.0.0.1:9901", "", "", 200},
		{"GET", "[::1]:9901", "", "", 200},
		{"GET", "localhost:9901", "", "", 200},
		{"GET", "LOCALHOST", "", "", 200},
		{"GET", "ops.example.com", "", "", 200},
		{"GET", "console.example.com:9901", "", "", 200},
		{"GET", "rebound.example.net:9901", "", "", 403},
		{"GET", "localhost.example.net", "", "", 403},
		{"GET", "10.0.0.1:9901", "", "", 403},
		{"GET", "", "", "", 403},
		{"POST", "127.0.0.1:9901", "", "", 403},
		{"POST", "127.0.0.1:9901", "", "1", 202},
		{"POST", "127.0.0.1:9901", "http://127.0.0.1:9901", "1", 202},
		{"POST", "127.0.0.1:9901", "http://evil.example", "1", 403},
		{"POST", "rebound.example.net", "http://rebound.example.net", "1", 403},
	}
	want := 0
	for _, tt := range tests {
		path := "/status.json"
		if tt.method == "POST" {
			path = "/drain"
		}
		r := httptest.NewRequest(tt.method, path, nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.header != "" {
			r.Header.Set(admin.Header, tt.header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.code {
			t.Errorf("%+v: status %d", tt, w.Code)
		}
		if tt.code == 202 {
			want++
		}
		if !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%+v: no policy", tt)
		}
	}
	if drained != want {
		t.Errorf("drained %d times, want %d", drained, want)
	}
}
