// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/relay"
)

func bitLen(n uint64) int { return bits.Len64(n) }

// Key is what tells cells apart. Each part is of the configuration or a fixed word.
type Key struct {
	Frontend, Route, Backend string
	Service, Method          string // see Pattern
	Kind                     Kind
}

// fullMethod is gRFC A66's grpc.method.
func (k *Key) fullMethod() string {
	if k.Service == Other {
		return Other
	}

	return k.Service + "/" + k.Method
}

// Other is the label of what has no name.
const Other = "other"

// Kind is what the go-grpc-prometheus family calls grpc_type.
type Kind string

// Values of Kind. A method of which nothing is known counts as streaming both ways.
const (
	Unary        Kind = "unary"
	ClientStream Kind = "client_stream"
	ServerStream Kind = "server_stream"
	BidiStream   Kind = "bidi_stream"
)

// numCodes is that of gRPC's codes, and one for those that are none.
const numCodes = int(codes.Unauthenticated) + 2

// Cell counts calls. Its methods are safe for concurrent use.
type Cell struct {
	Key

	generation uint64 // guarded by the registry's mu

	started  atomic.Uint64
	attempts atomic.Uint64 // opened

	// By code: calls with exactly one attempt, which is as long and has as many octets as the call;
	// all others; and attempts of those.
	single, other, retried byCode

	fanned atomic.Pointer[fanCounts]
}

// outcomes counts calls or attempts that ended in one way. What one call changes lies close together.
type outcomes struct {
	nanos                             atomic.Int64
	requestBytes, responseBytes       atomic.Uint64
	requestMessages, responseMessages atomic.Uint64
	_                                 [3]uint64
	latency                           latency
	requestSizes, responseSizes       sizes
}

// fanCounts counts one-to-many calls.
type fanCounts struct {
	calls, partial atomic.Uint64 // partial: some targets failed, and some did not
	targets        [numCodes]atomic.Uint64
}

// Start counts a call that begins.
func (c *Cell) Start() { c.started.Add(1) }

// Attempt counts an attempt that begins.
func (c *Cell) Attempt() { c.attempts.Add(1) }

// End counts a call that has ended.
func (c *Cell) End(s *relay.CallStats) {
	set := &c.single
	if s.Attempts != 1 || s.Targets != nil {
		set = &c.other
	}
	set.of(s.Code).add(s.Duration, s)
	switch {
	case s.Targets != nil:
		c.endFan(s)
	case s.Attempts > 1:
		c.retried.of(s.Code).add(s.Duration-s.LastAttempt.Sub(s.Start), s)
	}
}

// Retried counts an attempt that ended and is followed by another one.
func (c *Cell) Retried(code codes.Code, took time.Duration) {
	c.retried.of(code).add(took, &relay.CallStats{})
}

func (c *Cell) endFan(s *relay.CallStats) {
	f := c.fanned.Load()
	if f == nil {
		c.fanned.CompareAndSwap(nil, new(fanCounts))
		f = c.fanned.Load()
	}
	ok, failed := false, false
	for i := range s.Targets {
		t := &s.Targets[i]
		code := t.Code()
		f.targets[index(code)].Add(1)
		ok = ok || code == codes.OK
		failed = failed || t.Status.Code() != codes.OK && t.Phase != fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED // what was not needed has not failed
	}
	f.calls.Add(1)
	if ok && failed {
		f.partial.Add(1)
	}
}

// byCode is outcomes by their codes, made when they are needed first.
type byCode [numCodes]atomic.Pointer[outcomes]

func index(code codes.Code) int { return min(int(code), numCodes-1) }

// codeNames are the codes as gRPC's specification spells them, for gRFC A66.
var codeNames = [numCodes]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED", "OTHER",
}

// CodeName returns a code as gRPC's specification spells it, OTHER for what is none.
func CodeName(code codes.Code) string { return codeNames[index(code)] }

// Blames reports whether a code puts the blame on the server, as OpenTelemetry's conventions have it.
func Blames(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	}

	return int(code) >= numCodes-1
}

func (b *byCode) of(code codes.Code) *outcomes {
	p := &b[index(code)]
	if o := p.Load(); o != nil {
		return o
	}
	p.CompareAndSwap(nil, new(outcomes))

	return p.Load()
}

// add counts one that took d, with the octets and messages of s.
func (o *outcomes) add(d time.Duration, s *relay.CallStats) {
	o.nanos.Add(int64(d))
	o.requestBytes.Add(uint64(s.RequestBytes))
	o.responseBytes.Add(uint64(s.ResponseBytes))
	o.requestMessages.Add(uint64(s.RequestMessages))
	o.responseMessages.Add(uint64(s.ResponseMessages))
	o.latency.add(d)
	o.requestSizes.add(s.RequestBytes)
	o.responseSizes.add(s.ResponseBytes)
}

// blamed is Blames by index.
var blamed = func() (b [numCodes]bool) {
	for code := range b {
		b[code] = Blames(codes.Code(code))
	}

	return b
}()
