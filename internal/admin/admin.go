// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package admin is the endpoint for operators: an http.Handler with a status page, what it shows as JSON, metrics,
// the configuration, explanations, a drain, the log's level, and pprof.
//
// It asks nobody who they are, so it is to be reached from its own machine alone. Against web pages that a browser on that
// machine is shown, a request must name the endpoint by an address or a name that is its own (DNS rebinding), and
// what changes something must not be a GET and must have the header [Header], which no page of another
// origin can send without asking first.
package admin

import (
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/manifold-grpc/manifold/internal/status"
)

// Header is what a request must have that changes something; any value will do.
const Header = "X-Manifold"

// Source is what the endpoint shows and does. All of it is required; all functions may be called at once.
type Source struct {
	// Status returns the state of now, with the points of histories after number since.
	Status func(since uint64) *status.Status
	// Metrics serves Prometheus.
	Metrics http.Handler
	// Config returns the configuration in use, without secrets.
	Config func() string
	// Explain returns which route a call takes.
	Explain func(host, service, method string, metadata map[string][]string) string
	// Drain begins to stop the daemon, and returns at once.
	Drain func()
	// Ready returns why the daemon, or one of its backends, takes no calls; nil if it does. ok is false
	// for a backend that there is not.
	Ready func(backend string) (err error, ok bool)
	// Level is that of the log.
	Level *slog.LevelVar
}

//go:embed page
var page embed.FS

// Handler returns the endpoint. hosts are names that it has besides its address and localhost; remote is whether it may be
// called by addresses that are not the machine's own.
func Handler(s Source, hosts []string, remote bool) http.Handler {
	h := &handler{s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", asset("page.html", "text/html; charset=utf-8"))
	mux.HandleFunc("GET /page.css", asset("page.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /page.js", asset("page.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /status.json", h.status)
	mux.Handle("GET /metrics", s.Metrics)
	mux.HandleFunc("GET /config", h.config)
	mux.HandleFunc("GET /explain", h.explain)
	mux.HandleFunc("POST /drain", h.drain)
	mux.HandleFunc("GET /log/level", h.level)
	mux.HandleFunc("PUT /log/level", h.setLevel)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, "ok\n") })
	mux.HandleFunc("GET /readyz", h.ready)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)

	return guard(mux, hosts, remote)
}

// guard turns away what a web page of somebody else may have sent.
func guard(next http.Handler, hosts []string, remote bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-store")
		if !known(r.Host, hosts, remote) {
			http.Error(w, fmt.Sprintf("host %q is not one of this endpoint: expected its address, localhost, or a name in admin.hosts", r.Host), http.StatusForbidden)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if origin := r.Header.Get("Origin"); r.Header.Get(Header) == "" || origin != "" && origin != "http://"+r.Host {
				http.Error(w, "this changes something: expected the header "+Header+": 1, and no other origin", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// known reports whether a Host is a name of the endpoint's own.
func known(host string, hosts []string, remote bool) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if ip, err := netip.ParseAddr(name); err == nil { // no name to rebind
		return remote || ip.IsLoopback()
	}

	return name == "localhost" || slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

type handler struct{ Source }

func say(w io.Writer, text string) { io.WriteString(w, text) } //nolint:errcheck // who asked is gone

func asset(name, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := page.ReadFile("page/" + name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Write(text) //nolint:errcheck,gosec // who asked is gone
	}
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
	if err != nil && r.FormValue("since") != "" {
		http.Error(w, "since: expected the seq of an earlier answer", http.StatusBadRequest)
		return
	}
	text, err := json.Marshal(h.Status(since))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(text) //nolint:errcheck,gosec // who asked is gone
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	say(w, text)
}

func (h *handler) config(w http.ResponseWriter, _ *http.Request) { plain(w, h.Config()) }

func (h *handler) explain(w http.ResponseWriter, r *http.Request) {
	full := r.FormValue("method")
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok || service == "" || method == "" {
		http.Error(w, fmt.Sprintf("method %q: expected /service/method, such as /shop.v1.Catalog/List", full), http.StatusBadRequest)
		return
	}
	metadata := map[string][]string{}
	for _, pair := range r.Form["metadata"] {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			http.Error(w, fmt.Sprintf("metadata %q: expected key=value", pair), http.StatusBadRequest)
			return
		}
		key = strings.ToLower(key)
		metadata[key] = append(metadata[key], value)
	}
	plain(w, h.Explain(r.FormValue("host"), service, method, metadata))
}

func (h *handler) drain(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusAccepted)
	plain(w, "draining\n")
	h.Drain()
}

func (h *handler) level(w http.ResponseWriter, _ *http.Request) {
	plain(w, strings.ToLower(h.Level.Level().String())+"\n")
}

func (h *handler) setLevel(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(io.LimitReader(r.Body, 64))
	var level slog.Level
	if err == nil {
		err = level.UnmarshalText([]byte(strings.TrimSpace(string(text))))
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("level %q: expected debug, info, warn or error", text), http.StatusBadRequest)
		return
	}
	h.Level.Set(level)
	h.level(w, r)
}

func (h *handler) ready(w http.ResponseWriter, r *http.Request) {
	backend := r.FormValue("backend")
	err, ok := h.Ready(backend)
	switch {
	case !ok:
		http.Error(w, fmt.Sprintf("no backend %q", backend), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		plain(w, "ok\n")
	}
}
