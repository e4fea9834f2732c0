// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Backend is a set of endpoints of which any can serve a call.
type Backend struct {
	Endpoints        Endpoints      `yaml:"endpoints" doc:"A list of addresses, or a map of names to addresses. The name, else the address, is the source of an answer to a one-to-many call."`
	Target           string         `yaml:"target" doc:"In place of endpoints, a name that leads to them: dns:///host:port for all addresses of a host, srv:///_service._tcp.host for SRV records with their ports and weights."`
	ResolveInterval  Time           `yaml:"resolve_interval" doc:"Time after which the target is looked up again; that is also done when a connection is lost, at most twice a minute." default:"30s"`
	Balance          Balance        `yaml:"balance" doc:"How each call finds its endpoint: the next in turn, the less busy of two by chance, or always the same for the same value of hash_key." default:"round_robin"`
	Weights          map[string]int `yaml:"weights" doc:"Names, or addresses, of endpoints with their share of the calls, relative to the others; 0 is none." default:"1 each; with SRV records theirs"`
	HashKey          string         `yaml:"hash_key" doc:"The key of the metadata by whose value ring_hash chooses. Calls without it go anywhere."`
	TLS              *BackendTLS    `yaml:"tls" doc:"TLS to all endpoints; an empty one, {}, is TLS with the system's authorities." default:"TLS only to https:// endpoints"`
	ConnectTimeout   Time           `yaml:"connect_timeout" doc:"Time for one attempt to connect." default:"5s"`
	KeepaliveTime    OrNever        `yaml:"keepalive_time" doc:"Silence of an endpoint with calls after which it is asked for a sign of life. If there is none for a second, it gets no further calls." default:"2s"`
	KeepaliveTimeout Time           `yaml:"keepalive_timeout" doc:"Time for that sign, after which the connection is given up and the calls on it fail." default:"10s"`
	Authority        string         `yaml:"authority" doc:"The :authority of requests." default:"that of the client"`
	Health           *Health        `yaml:"health" doc:"Active health checks by grpc.health.v1. An endpoint without that service counts as healthy." default:"no checks"`
	Ejection         Ejection       `yaml:"ejection" doc:"When an endpoint to which calls fail gets none for a while."`
	Breaker          Breaker        `yaml:"breaker" doc:"What the backend is spared."`
	Retry            *Retry         `yaml:"retry" doc:"Tries calls again that failed before anything of their response was passed on (gRFC A6)." default:"only what provably did not reach an endpoint is tried again"`
}

// Health is how endpoints are asked for their health.
type Health struct {
	Service   string `yaml:"service" doc:"The service to ask for." default:"the server as a whole"`
	Interval  Time   `yaml:"interval" doc:"Time between two checks. An endpoint with Watch is watched as well, and checked for whether it is there." default:"5s"`
	Timeout   Time   `yaml:"timeout" doc:"Time for the answer to a check." default:"1s"`
	Unhealthy Count  `yaml:"unhealthy" doc:"Checks in a row that must fail for an endpoint to get no calls. What Watch says counts at once, and the first check decides alone." default:"2"`
	Healthy   Count  `yaml:"healthy" doc:"Checks in a row that must succeed for it to get calls again." default:"1"`
}

// Ejection is passive outlier detection in the terms of gRFC A50. Zero fields mean the defaults.
type Ejection struct {
	Disabled    bool        `yaml:"disabled" doc:"Ejects none." default:"false"`
	Consecutive Count       `yaml:"consecutive" doc:"Calls in a row that must fail with UNAVAILABLE, the loss of the connection or no answer in time, for an endpoint to be ejected at once." default:"5"`
	Interval    Time        `yaml:"interval" doc:"Time between two looks at the rates below." default:"10s"`
	BaseTime    Time        `yaml:"base_time" doc:"Time of the first ejection; it grows by as much with each further one, and shrinks while there is none." default:"5s"`
	MaxTime     Time        `yaml:"max_time" doc:"What that grows to." default:"25s"`
	MaxPercent  Count       `yaml:"max_percent" doc:"How many of the endpoints may be ejected at once, in percent, at most 50; one of two or more may always." default:"50"`
	SuccessRate SuccessRate `yaml:"success_rate" doc:"Ejects endpoints whose share of successes is far below that of the others."`
	FailureRate FailureRate `yaml:"failure_percentage" doc:"Ejects endpoints whose share of failures is high."`
}

// SuccessRate is success_rate_ejection of gRFC A50.
type SuccessRate struct {
	StdevFactor   Count `yaml:"stdev_factor" doc:"Thousandths of the standard deviation below the mean from which on an endpoint is ejected." default:"1900"`
	MinEndpoints  Count `yaml:"minimum_endpoints" doc:"Endpoints that must have had enough calls." default:"5"`
	RequestVolume Count `yaml:"request_volume" doc:"Calls in an interval that are enough." default:"100"`
}

// FailureRate is failure_percentage_ejection of gRFC A50.
type FailureRate struct {
	Threshold     Count `yaml:"threshold" doc:"Percentage of failures above which an endpoint is ejected." default:"85"`
	MinEndpoints  Count `yaml:"minimum_endpoints" doc:"Endpoints that must have had enough calls." default:"5"`
	RequestVolume Count `yaml:"request_volume" doc:"Calls in an interval that are enough." default:"50"`
}

// Breaker bounds what a backend is burdened with. Zero fields mean the defaults.
type Breaker struct {
	MaxRequests    Count `yaml:"max_requests" doc:"Calls at once at the backend (gRFC A32); more fail with UNAVAILABLE." default:"no limit"`
	MaxConnections Count `yaml:"max_connections" doc:"Connections to each endpoint. A further one is made when the endpoint allows no more calls on the others." default:"16"`
	MaxPending     Count `yaml:"max_pending" doc:"Calls that wait for a connection to an endpoint; more fail with UNAVAILABLE." default:"1000"`
}

// Retry is a retry policy of gRFC A6. Zero fields mean the defaults.
type Retry struct {
	MaxAttempts    Count  `yaml:"max_attempts" doc:"Attempts in all, from 2 to 5." default:"3"`
	Codes          []Code `yaml:"codes" doc:"The codes with which an attempt must fail to be followed by another." default:"[UNAVAILABLE]"`
	InitialBackoff Time   `yaml:"initial_backoff" doc:"Pause before the second attempt, give or take a fifth; each further one is twice as long." default:"50ms"`
	MaxBackoff     Time   `yaml:"max_backoff" doc:"The longest pause." default:"1s"`
	Budget         Budget `yaml:"budget" doc:"What ends retries where most of them are in vain."`
}

// Budget is retryThrottling of gRFC A6.
type Budget struct {
	MaxTokens  Count `yaml:"max_tokens" doc:"Tokens to begin with, at most 1000. A failure takes one; there are no retries with half of them or less." default:"10"`
	TokenRatio Count `yaml:"token_percent" doc:"What a success gives back, in hundredths of a token." default:"10"`
}

// Code is a gRPC code.
type Code codes.Code

// codeNames are the codes that can be given. OK is no failure.
var codeNames = []string{
	"ABORTED", "ALREADY_EXISTS", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT",
	"NOT_FOUND", "OUT_OF_RANGE", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN",
}

func parseCode(text string) (Code, error) {
	if !slices.Contains(codeNames, text) {
		return 0, errUnknown
	}
	var code codes.Code
	err := code.UnmarshalJSON([]byte(strconv.Quote(text)))

	return Code(code), err
}

func (c *checker) backend(name string) {
	b := c.config.Backends[name]
	path := join("backends", name)
	if !c.broken[path] {
		c.source(&b, path)
	}
	c.twice(b.Endpoints, path)
	if t := b.TLS; t != nil && (t.Cert == "") != (t.Key == "") && !c.broken[path+".tls"] {
		c.fail(path+".tls", "one of cert and key, expected both or none")
	}
	if strings.ContainsFunc(b.Authority, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.fail(path+".authority", "authority %q, expected a host, maybe with a port", b.Authority)
	}
	c.useless(b.KeepaliveTime < 0 && b.KeepaliveTimeout > 0, path, "keepalive_timeout", "keepalive_time: never")
	c.balance(&b, path)
	c.ejection(&b.Ejection, path+".ejection")
	if b.Retry != nil {
		c.retry(b.Retry, path+".retry")
	}
}

// source checks that a backend has endpoints, or what leads to them.
func (c *checker) source(b *Backend, path string) {
	switch {
	case len(b.Endpoints) > 0 && b.Target != "":
		c.fail(path+".target", "a target beside endpoints, expected one of them")
	case len(b.Endpoints) == 0 && b.Target == "":
		c.fail(path+".endpoints", "no endpoint, expected at least one, or a target")
	case b.Target != "":
		c.target(b.Target, path+".target")
	case b.ResolveInterval != 0:
		c.fail(path+".resolve_interval", "resolve_interval without a target, expected a target")
	}
}

// target checks the name of a set of endpoints.
func (c *checker) target(text, path string) {
	const expected = "expected dns:///host:port or srv:///_service._tcp.host"
	u, err := url.Parse(text)
	if err != nil {
		c.fail(path, "target %q: not a URL, %s", text, expected)
		return
	}
	name := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "dns":
		host, port, err := net.SplitHostPort(name)
		if err != nil || host == "" || port == "" {
			c.fail(path, "target %q: %q is no host and port, %s", text, name, expected)
		}
	case "srv":
		if name == "" || strings.ContainsAny(name, ":/") || u.Host != "" {
			c.fail(path, "target %q: %q is no name of SRV records, %s", text, u.Host+u.Path, expected)
		}
	default:
		c.fail(path, "target %q: unknown scheme %q, %s", text, u.Scheme, expected)
	}
}

// balance checks what the choice of an endpoint depends on.
func (c *checker) balance(b *Backend, path string) {
	switch {
	case b.Balance == RingHash && b.HashKey == "" && !c.broken[path]:
		c.fail(path+".balance", "ring_hash without a hash_key, expected the key of the metadata to choose by")
	case b.Balance != RingHash && b.HashKey != "":
		c.fail(path+".hash_key", "hash_key without ring_hash, expected balance: ring_hash")
	case b.HashKey != "" && !goodHeader(b.HashKey):
		c.fail(path+".hash_key", "hash_key %q, expected a name in lower case of letters, digits, - _ and .", b.HashKey)
	}
	if b.Target != "" && len(b.Weights) > 0 {
		c.fail(path+".weights", "weights beside a target, expected them with endpoints")
		return
	}
	var known []string
	total, all := 0, len(b.Endpoints)
	for _, e := range b.Endpoints {
		known = append(known, e.Name)
		w, given := b.Weights[e.Name]
		total += min(w, maxWeight)
		if !given {
			total++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Weights)) {
		if !slices.Contains(known, name) && !c.broken[path+".endpoints"] {
			c.fail(path+".weights."+name, "unknown endpoint %q%s, expected %s", name, nearest(name, known), either(known))
		}
		if w := b.Weights[name]; w > maxWeight {
			c.fail(path+".weights."+name, "weight %d, expected at most %d", w, maxWeight)
		}
	}
	if all > 0 && total == 0 && !c.broken[path+".weights"] {
		c.fail(path+".weights", "all weights are 0, expected one above")
	}
}

func (c *checker) ejection(e *Ejection, path string) {
	if e.MaxPercent > 50 {
		c.fail(path+".max_percent", "%d percent, expected at most 50: the other half must bear the load", e.MaxPercent)
	}
	if e.FailureRate.Threshold > 100 {
		c.fail(path+".failure_percentage.threshold", "%d percent, expected at most 100", e.FailureRate.Threshold)
	}
	if base, top := orTime(e.BaseTime, 5*time.Second), orTime(e.MaxTime, 25*time.Second); top < base {
		c.fail(path, "max_time of %v is below base_time of %v, expected at least as much", top, base)
	}
}

func (c *checker) retry(r *Retry, path string) {
	if r.MaxAttempts == 1 || r.MaxAttempts > 5 {
		c.fail(path+".max_attempts", "%d attempts, expected 2 to 5", r.MaxAttempts)
	}
	if r.Budget.MaxTokens > 1000 {
		c.fail(path+".budget.max_tokens", "%d tokens, expected at most 1000", r.Budget.MaxTokens)
	}
	if first, top := orTime(r.InitialBackoff, 50*time.Millisecond), orTime(r.MaxBackoff, time.Second); top < first {
		c.fail(path, "max_backoff of %v is below initial_backoff of %v, expected at least as much", top, first)
	}
	seen := map[Code]bool{}
	for i, code := range r.Codes {
		if seen[code] {
			c.fail(fmt.Sprintf("%s.codes[%d]", path, i), "code given twice, expected it once")
		}
		seen[code] = code != 0
	}
}

// orTime returns t, or d where it is not given.
func orTime(t Time, d time.Duration) time.Duration {
	if t == 0 {
		return d
	}

	return time.Duration(t)
}
