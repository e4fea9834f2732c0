// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"sort"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/manifold-grpc/manifold/internal/status"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// gRFC A66, for servers: each name is that of the OpenTelemetry instrument with its unit.
var (
	serverStarted  = desc("grpc_server_call_started_total", "Calls that began.", "grpc_method", "frontend", "backend")
	serverDuration = desc("grpc_server_call_duration_seconds", "Time from the request's headers to the end of the response.",
		"grpc_method", "grpc_status", "frontend", "backend")
	serverSent = desc("grpc_server_call_sent_total_compressed_message_size_bytes", "Octets of the messages of a response, as sent.",
		"grpc_method", "grpc_status", "frontend", "backend")
	serverReceived = desc("grpc_server_call_rcvd_total_compressed_message_size_bytes", "Octets of the messages of a request, as received.",
		"grpc_method", "grpc_status", "frontend", "backend")
)

// gRFC A66, for clients; the target is the backend.
var (
	attemptStarted  = desc("grpc_client_attempt_started_total", "Attempts that began.", "grpc_method", "grpc_target")
	attemptDuration = desc("grpc_client_attempt_duration_seconds", "Time of an attempt, that for finding a connection included.",
		"grpc_method", "grpc_target", "grpc_status")
	attemptSent = desc("grpc_client_attempt_sent_total_compressed_message_size_bytes", "Octets of the messages of a request, as sent.",
		"grpc_method", "grpc_target", "grpc_status")
	attemptReceived = desc("grpc_client_attempt_rcvd_total_compressed_message_size_bytes", "Octets of the messages of a response, as received.",
		"grpc_method", "grpc_target", "grpc_status")
)

// gRFC A94.
var (
	subchannelConnected = desc("grpc_subchannel_connection_attempts_succeeded_total", "Connections to an endpoint that were made.", "grpc_target", "endpoint")
	subchannelFailed    = desc("grpc_subchannel_connection_attempts_failed_total", "Attempts to connect to an endpoint that failed.", "grpc_target", "endpoint")
	subchannelLost      = desc("grpc_subchannel_disconnections_total", "Connections to an endpoint that ended.", "grpc_target", "endpoint")
	subchannelOpen      = desc("grpc_subchannel_open_connections", "Connections to an endpoint that are open.", "grpc_target", "endpoint")
)

// The go-grpc-prometheus family.
var (
	promLabels   = []string{"grpc_type", "grpc_service", "grpc_method", "frontend", "backend"}
	promStarted  = desc("grpc_server_started_total", "Calls that began.", promLabels...)
	promHandled  = desc("grpc_server_handled_total", "Calls that ended, whatever their code.", append(promLabels[:len(promLabels):len(promLabels)], "grpc_code")...)
	promReceived = desc("grpc_server_msg_received_total", "Messages of requests.", promLabels...)
	promSent     = desc("grpc_server_msg_sent_total", "Messages of responses.", promLabels...)
	promHandling = desc("grpc_server_handling_seconds", "Time from the request's headers to the end of the response.", promLabels...)
)

// Own ones.
var (
	fanCalls   = desc("manifold_fanout_calls_total", "One-to-many calls that ended.", "grpc_method", "frontend", "backend")
	fanPartial = desc("manifold_fanout_partial_total", "One-to-many calls of which some targets failed and some did not.", "grpc_method", "frontend", "backend")
	fanTargets = desc("manifold_fanout_targets_total", "Targets of one-to-many calls, by the status of each.", "grpc_method", "grpc_status", "frontend", "backend")

	connsOpened   = desc("manifold_connections_accepted_total", "Connections of clients that were let in.", "frontend")
	connsClosed   = desc("manifold_connections_closed_total", "Connections of clients that ended, by why.", "frontend", "reason")
	connsRejected = desc("manifold_connections_rejected_total", "Connections of clients that a limit turned away.", "frontend", "reason")
	glitchesSeen  = desc("manifold_h2_glitches_total", "Frames of clients that are allowed but useless; WINDOW_UPDATE, PING and acknowledged SETTINGS aside.", "frontend", "kind")
	callsRejected = desc("manifold_rejected_total", "Calls that got their status from the proxy itself, by the reason in its google.rpc.ErrorInfo.", "frontend", "reason")

	connsOpen   = desc("manifold_connections", "Connections of clients.", "frontend")
	streamsOpen = desc("manifold_streams_in_flight", "Calls that have not ended.", "frontend")
	buffered    = desc("manifold_buffered_bytes", "Octets that wait for slow clients.", "frontend")

	upstreamReady    = desc("manifold_upstream_ready", "Whether a backend has an endpoint that takes calls.", "backend")
	upstreamHealthy  = desc("manifold_upstream_healthy", "Whether an endpoint takes calls: connected, not unhealthy, not ejected.", "backend", "endpoint")
	upstreamEjected  = desc("manifold_upstream_ejected", "Whether an endpoint gets no calls because calls to it failed.", "backend", "endpoint")
	upstreamInFlight = desc("manifold_upstream_calls_in_flight", "Calls that wait for an endpoint or are at it.", "backend", "endpoint")
	upstreamCalls    = desc("manifold_upstream_attempts_total", "Attempts at an endpoint.", "backend", "endpoint")
	upstreamFailures = desc("manifold_upstream_failures_total", "Attempts of which the endpoint likely is to blame for the failure.", "backend", "endpoint")

	healthChanges    = desc("manifold_upstream_health_changes_total", "Changes of the health of endpoints by active checks, by what it became.", "backend", "health")
	ejections        = desc("manifold_upstream_ejections_total", "Endpoints that got no calls for a while because calls to them failed, by the rule.", "backend", "cause")
	readmissions     = desc("manifold_upstream_readmissions_total", "Ejections that ended.", "backend")
	resolutions      = desc("manifold_upstream_resolutions_total", "Lookups of a target, by what came of them.", "backend", "result")
	upstreamRejected = desc("manifold_upstream_rejected_total", "Calls that a limit of the backend turned away, by the reason in their google.rpc.ErrorInfo.", "backend", "reason")
	mirrors          = desc("manifold_mirrors_total", "Copies of calls to the backend, by what became of them.", "backend", "result")
	retries          = desc("manifold_upstream_retries_total", "Attempts that failed and were followed by another by the retry policy.", "backend", "grpc_status")
	retriesExhausted = desc("manifold_upstream_retries_exhausted_total", "Attempts that failed and were followed by none because the budget of retries was spent.", "backend", "grpc_status")

	accessWritten = desc("manifold_access_log_lines_written_total", "Lines of the access log that were written.")
	accessDropped = desc("manifold_access_log_lines_dropped_total", "Lines of the access log that were dropped, as the file did not take them in time or at all.")

	certNotAfter   = desc("manifold_certificate_not_after_timestamp_seconds", "When a certificate of a frontend expires.", "frontend", "subject", "file")
	reloadOK       = desc("manifold_config_last_reload_success", "Whether the last configuration was taken over.")
	reloadTime     = desc("manifold_config_last_reload_success_timestamp_seconds", "When a configuration was taken over last.")
	reloadFailed   = desc("manifold_config_reload_failures_total", "Configurations that were not taken over.")
	spans          = desc("manifold_tracing_spans_total", "Spans of calls: sent, dropped because too many waited, or failed because the collector did not take them.", "result")
	draining       = desc("manifold_draining", "Whether the daemon takes no new calls.")
	buildInfo      = desc("manifold_build_info", "1, with the version.", "version")
	processStarted = desc("manifold_start_timestamp_seconds", "When the daemon started.")
)

// frontend sends the counters of a frontend.
func (e exposition) frontend(f *Frontend) {
	e.counter(connsOpened, float64(f.opened.Load()), f.name)
	for _, t := range []struct {
		d *prometheus.Desc
		t *tally
	}{{connsClosed, &f.closed}, {connsRejected, &f.rejected}, {glitchesSeen, &f.glitches}, {callsRejected, &f.reasons}} {
		for word, n := range t.t.counts() {
			e.counter(t.d, float64(n), f.name, word)
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}

	return 0
}

// state sends what is so at this moment.
func (e exposition) state(s *status.Status) {
	for i := range s.Frontends {
		f := &s.Frontends[i]
		e.gauge(connsOpen, float64(f.Connections), f.Name)
		e.gauge(streamsOpen, float64(f.Activity.InFlight), f.Name)
		e.gauge(buffered, float64(f.Buffered), f.Name)
	}
	for i := range s.Backends {
		e.backend(&s.Backends[i])
	}
	seen := map[[3]string]bool{}
	for _, c := range s.Certificates {
		if key := [3]string{c.Frontend, c.Subject, c.File}; !seen[key] {
			seen[key] = true
			e.gauge(certNotAfter, float64(c.NotAfter.Unix()), key[:]...)
		}
	}
	e.gauge(reloadOK, number(s.Reload.OK))
	e.gauge(reloadTime, seconds(s.Reload.Time))
	e.counter(reloadFailed, float64(s.Reload.Failed))
	if l := s.AccessLog; l != nil {
		e.counter(accessWritten, float64(l.Written))
		e.counter(accessDropped, float64(l.Dropped))
	}
	if t := s.Tracing; t != nil {
		e.counter(spans, float64(t.Sent), "sent")
		e.counter(spans, float64(t.Dropped), "dropped")
		e.counter(spans, float64(t.Failed), "failed")
	}
	e.gauge(draining, number(s.State == "draining"))
	e.gauge(buildInfo, 1, s.Version)
	e.gauge(processStarted, seconds(s.Started))
}

func seconds(t time.Time) float64 { return math.Round(float64(t.UnixMilli())) / 1e3 }

func (e exposition) backend(b *status.Backend) {
	e.gauge(upstreamReady, number(b.Ready), b.Name)
	sort.SliceStable(b.Endpoints, func(i, j int) bool { return b.Endpoints[i].Name < b.Endpoints[j].Name })
	for i := range b.Endpoints {
		ep := &b.Endpoints[i]
		if i > 0 && b.Endpoints[i-1].Name == ep.Name {
			continue // a name twice would spoil the whole answer
		}
		at := []string{b.Name, ep.Name}
		e.gauge(upstreamHealthy, number(ep.Usable), at...)
		e.gauge(upstreamEjected, number(!ep.Ejected.IsZero()), at...)
		e.gauge(upstreamInFlight, float64(ep.InFlight), at...)
		e.counter(upstreamCalls, float64(ep.Calls), at...)
		e.counter(upstreamFailures, float64(ep.Failures), at...)
		e.counter(subchannelConnected, float64(ep.Connected), at...)
		e.counter(subchannelFailed, float64(ep.Failed), at...)
		e.counter(subchannelLost, float64(ep.Lost), at...)
		e.gauge(subchannelOpen, float64(ep.Connected)-float64(ep.Lost), at...)
	}
}
