// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package status is what a running daemon tells of itself: plain data, which the admin
// endpoint serves as JSON, its page and `manifold top` show, and the metrics are partly made of.
// Times are in seconds where they are numbers.
package status

import (
	"encoding/json"
	"math"
	"time"
)

// Status is all of it at one moment.
type Status struct {
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`
	// State is "starting", "serving" or "draining".
	State        string        `json:"state"`
	Process      Process       `json:"process"`
	Total        Activity      `json:"total"`
	Frontends    []Frontend    `json:"frontends"`
	Routes       []Route       `json:"routes"`
	Backends     []Backend     `json:"backends"`
	Certificates []Certificate `json:"certificates"`
	Reload       Reload        `json:"reload"`
	LogLevel     string        `json:"log_level"`
	AccessLog    *AccessLog    `json:"access_log,omitempty"`
	// Tracing is nil where no calls are traced.
	Tracing *Tracing `json:"tracing,omitempty"`
	// Seq numbers the newest point of the histories; ask for those after it the next time.
	Seq uint64 `json:"seq"`
}

// AccessLog is lines of the access log, since the start.
type AccessLog struct {
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"`
}

// Tracing is what became of spans.
type Tracing struct {
	Sent    uint64 `json:"sent"`
	Dropped uint64 `json:"dropped"` // too many waited
	Failed  uint64 `json:"failed"`  // the collector did not take them
}

// Process is what the daemon costs.
type Process struct {
	PID        int     `json:"pid"`
	Goroutines int     `json:"goroutines"`
	Memory     uint64  `json:"memory_bytes"` // that the runtime has from the system and did not give back
	CPU        float64 `json:"cpu"`          // cores in use, over the last second
}

// Activity is the calls of one frontend, route or backend, or of all. Rates and quantiles are those of
// the last ten seconds.
type Activity struct {
	Calls    uint64 `json:"calls"`    // that ended, since the start
	Errors   uint64 `json:"errors"`   // among them, with a code for which the server is to blame
	InFlight int64  `json:"inflight"` // that have not ended
	// Codes is the calls by the names of their codes.
	Codes     map[string]uint64 `json:"codes,omitempty"`
	Rate      Number            `json:"rate"`       // calls per second
	ErrorRate Number            `json:"error_rate"` // errors per second
	BytesIn   Number            `json:"bytes_in"`   // octets of requests per second
	BytesOut  Number            `json:"bytes_out"`  // octets of responses per second
	P50       Number            `json:"p50"`        // NaN, null in JSON, without calls
	P90       Number            `json:"p90"`
	P99       Number            `json:"p99"`
	// History is a point for each second, the oldest first.
	History []Point `json:"history,omitempty"`
}

// Point is one second of an Activity.
type Point struct {
	Rate   float32
	Errors float32
	P50    float32 // NaN without calls
	P99    float32
}

// MarshalJSON writes an array, as there are many.
func (p Point) MarshalJSON() ([]byte, error) {
	return json.Marshal([4]Number{Number(p.Rate), Number(p.Errors), Number(p.P50), Number(p.P99)})
}

// UnmarshalJSON reads it.
func (p *Point) UnmarshalJSON(b []byte) error {
	var a [4]Number
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	*p = Point{float32(a[0]), float32(a[1]), float32(a[2]), float32(a[3])}

	return nil
}

// Number is a float64 whose NaN is null in JSON.
type Number float64

// NaN is no number.
func NaN() Number { return Number(math.NaN()) }

// Known reports whether n is a number.
func (n Number) Known() bool { return !math.IsNaN(float64(n)) && !math.IsInf(float64(n), 0) }

// MarshalJSON writes four digits, which is more than anyone looks at.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Known() {
		return []byte("null"), nil
	}
	if n == 0 {
		return []byte("0"), nil
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(float64(n)))))

	return json.Marshal(math.Round(float64(n)*scale) / scale)
}

// UnmarshalJSON reads it.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = NaN()
		return nil
	}

	return json.Unmarshal(b, (*float64)(n))
}

// Frontend is a listener.
type Frontend struct {
	Name        string   `json:"name"`
	Address     string   `json:"address"`
	TLS         bool     `json:"tls"`
	Connections int      `json:"connections"`
	Activity    Activity `json:"activity"`
	// Accepted is the connections since the start; Rejected those that a limit turned away, and Reasons the failures of
	// the proxy's own making, by reason.
	Accepted uint64            `json:"accepted"`
	Rejected map[string]uint64 `json:"rejected,omitempty"`
	Reasons  map[string]uint64 `json:"reasons,omitempty"`
	Glitches map[string]uint64 `json:"glitches,omitempty"`
	Buffered int64             `json:"buffered_bytes"`
}

// Route is a route, by its place in the configuration.
type Route struct {
	Name     string   `json:"name"`
	Match    string   `json:"match"`
	To       string   `json:"to"`
	Activity Activity `json:"activity"`
}

// Backend is a set of endpoints.
type Backend struct {
	Name string `json:"name"`
	// Ready is whether it has an endpoint that takes calls.
	Ready     bool       `json:"ready"`
	Balance   string     `json:"balance"`
	Activity  Activity   `json:"activity"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one address of a backend.
type Endpoint struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// State is connecting, ready, failing or closed; Error why it is failing.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Health is unchecked, serving or not serving; HealthReason why not.
	Health       string    `json:"health"`
	HealthReason string    `json:"health_reason,omitempty"`
	Ejected      time.Time `json:"ejected_until,omitzero"`
	Usable       bool      `json:"usable"`
	Weight       int       `json:"weight"`
	Connections  int       `json:"connections"`
	InFlight     int       `json:"inflight"`
	Calls        uint64    `json:"calls"`
	Failures     uint64    `json:"failures"`
	Rate         Number    `json:"rate"`
	FailureRate  Number    `json:"failure_rate"`
	// Connected, Failed and Lost count attempts to connect and connections that ended.
	Connected uint64 `json:"connected"`
	Failed    uint64 `json:"connect_failed"`
	Lost      uint64 `json:"lost"`
}

// Certificate is one that a frontend shows.
type Certificate struct {
	Frontend string    `json:"frontend"`
	Subject  string    `json:"subject"`
	Names    []string  `json:"names,omitempty"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"not_after"`
	File     string    `json:"file"`
}

// Reload is the last look at the configuration.
type Reload struct {
	// File is empty if the configuration is of flags, and then nothing is reloaded.
	File string `json:"file,omitempty"`
	// Time is when the configuration in use was taken over; OK whether the last attempt
	// succeeded, else Error says why not.
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Error string    `json:"error,omitempty"`
	// Count is the configurations that were taken over after the first, Failed those that were not.
	Count  uint64 `json:"count"`
	Failed uint64 `json:"failed"`
}
