// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"time"

	"github.com/manifold-grpc/manifold/fanout"
)

// A FanOut says how a call goes to many targets at once and how their answers become one. What it
// decides by is package fanout; docs/fanout.md is the guide. The zero value is a unary method whose
// answers are joined and of which all targets must be OK. It must not change once a call has it, and
// any number of calls may have it at once.
type FanOut struct {
	// Policy says when the call has succeeded. Default: when all targets have.
	Policy fanout.Policy

	// CodeRule chooses the code of a call that failed. Default: the most frequent one.
	CodeRule fanout.CodeRule

	// Streaming says that the method streams its responses: messages of the targets interleave, each
	// as soon as it is whole and those of one target in their order. Without it the call is held
	// until it is decided, and its one answer is the messages of all targets one after another, which
	// protobuf reads as one message whose repeated fields have all elements.
	Streaming bool

	// Envelope wraps what targets send into messages of FanoutMessage, whatever the method's kind; a
	// unary method is then called as one that streams. Annotators are not used. Each target's outcome is told, whether the call
	// succeeds or fails, those that were cancelled included.
	Envelope bool

	// Merger has the program's own function make the answer. Annotators are not used, targets' header fields go to the
	// function alone, and messages go out as it sends them, whatever the method's kind. It prevails over Envelope and OrderKey.
	Merger NewMerger

	// Summary puts the outcome of each target into the call's trailers, within Report's limits. Without a limit there, the report
	// takes 4 KiB, or what the status and the targets' trailers leave of 8 KiB, which is what peers usually take.
	Summary bool
	Report  fanout.ReportLimits

	// ByArrival joins the answers of a unary method in the order in which they came, instead of that
	// of the targets.
	ByArrival bool

	// OrderKey makes one order of the messages of a method that streams, whose targets each send theirs in the order of a key: a
	// message waits until each target that has not ended has sent a later one. It gets a target's message as it came, and must not keep
	// it; it is called as an Annotator is. With Envelope it is not used. See [fanout.FieldKey] and [fanout.NumberKey].
	//
	// OrderWindow and OrderBytes bound what waits: 1024 messages and 4 MiB by default. When it is more, the first
	// of them goes out although a silent target may still send an earlier one. Targets that have not had their turn, with Hedge, count
	// as silent. OrderBytes is at most half of Limits.MergedBytes.
	OrderKey                func(message []byte) string
	OrderWindow, OrderBytes int

	// ConnectTimeout bounds the time to an open stream to a target, IdleTimeout that without an octet
	// from it while nothing of it waits for the client, TotalTimeout all of its part in the call. A
	// target that exceeds one has failed with DEADLINE_EXCEEDED. Defaults 5 s, none, none.
	ConnectTimeout, IdleTimeout, TotalTimeout time.Duration

	// Reserve is the time before the caller's deadline at which targets that still run have failed
	// with DEADLINE_EXCEEDED, so that what the others answered still arrives. Default: a tenth of the
	// caller's timeout, at most 250 ms; negative: none.
	Reserve time.Duration

	// Hedge starts the call with so many targets; each HedgeDelay, and whenever one of them
	// fails or all have ended, one more. Default: with all. HedgeDelay defaults to 100 ms.
	Hedge      int
	HedgeDelay time.Duration

	// LetFinish is how long the targets that a decided call needs no more may go on after the caller has its answer; theirs is
	// dropped; the deadline that the caller gave ends them all the same, and a server lets at most 4096 targets go on at once. One that
	// still waits for a connection or a stream goes on with that, as long as ConnectTimeout lets it, and then gets the request, if that has no more
	// than 64 KiB; one that had not had its turn, with Hedge, gets none. 0: they are cancelled, as they are if the call fails, or if its
	// request is not complete by then.
	LetFinish time.Duration

	// Limits bound what one call may hold.
	Limits FanLimits
}

// FanLimits bound what a fanned-out call may hold in memory. The zero value of each field means its default.
type FanLimits struct {
	// Targets is the most targets a call may have; one with more is answered with RESOURCE_EXHAUSTED.
	// Default 128.
	Targets int

	// TargetBytes bounds the answer of a target to a unary method, and each message of one that streams.
	// A target that exceeds it has failed with RESOURCE_EXHAUSTED. Default 16 MiB.
	TargetBytes int

	// MergedBytes bounds what is held of all targets together. A call that exceeds it ends with
	// RESOURCE_EXHAUSTED. Default 64 MiB.
	MergedBytes int

	// QueuedBytes bounds the request octets that wait for one target which is slower than the caller.
	// When so many wait, the caller gets no more credit until some have left. With DropSlow the caller waits
	// for the fastest target only, and one that is so far behind it has failed with RESOURCE_EXHAUSTED. Default
	// 256 KiB. What the caller had been granted before may come on top: its stream window. With DropSlow it should be more than the
	// targets' stream windows, which those that do not read take in as fast as any.
	QueuedBytes int
	DropSlow    bool

	// StallTimeout is how long a target with a full queue may take nothing before it has failed with
	// RESOURCE_EXHAUSTED. Default 10 s.
	StallTimeout time.Duration

	// MetadataBytes bounds the header fields of all targets together, and the trailers, that are passed
	// on to the client; those of later targets are left out. Default 8 KiB, of the trailers less what the status and the summary take.
	MetadataBytes int
}

// A Target is one receiver of a fanned-out call.
type Target struct {
	// Name is what outcomes and messages call it. It need not be unique.
	Name string

	// Backend is where its part of the call goes, as [Call.Forward] would. Mostly a backend of one endpoint.
	Backend *Backend

	// Annotator writes the source into its answers. nil: they stay as they are, and
	// no failure becomes an answer.
	Annotator Annotator
}

// An Annotator writes the source of an answer into it, as that of package proxy/splice does. Its methods
// may be called from many goroutines at once, with locks of the relay held: they must neither block nor
// call the relay. A panic has the target fail with INTERNAL.
type Annotator interface {
	// AppendInfo returns resp, a message of the target's, with its source. It may extend resp in place, and
	// must not keep it. streaming says that it is one message of a stream; else it is joined
	// with others. An error takes the place of the target's answer.
	AppendInfo(streaming bool, resp []byte) ([]byte, error)

	// BuildError returns a message that tells of a failed target, in place of its answer; nil for none.
	BuildError(streaming bool, err error) ([]byte, error)
}

const (
	defaultConnectTimeout = 5 * time.Second
	defaultHedgeDelay     = 100 * time.Millisecond
	defaultStallTimeout   = 10 * time.Second
	defaultTargetBytes    = 16 << 20
	defaultMergedBytes    = 64 << 20
	defaultQueuedBytes    = 256 << 10
	defaultMetadataBytes  = 8 << 10
	defaultOrderBytes     = 4 << 20
	maxReserve            = 250 * time.Millisecond
)

// reserve returns the time to keep before a deadline that is timeout after the start; 0: none.
func (f *FanOut) reserve(timeout time.Duration) time.Duration {
	switch {
	case timeout <= 0 || f.Reserve < 0:
		return 0
	case f.Reserve > 0:
		return min(f.Reserve, timeout/2)
	}
	return min(timeout/10, maxReserve)
}

// FanOut sends the call to all targets at once. Neither f nor targets may change until the call has ended.
// It returns false, and does nothing, if the call is decided already or over.
//
// Targets are asked for messages without compression; those with gzip are taken all the same, any
// other has its target fail with INTERNAL.
func (c *Call) FanOut(f *FanOut, targets []Target) bool {
	return c.decide(decision{fan: f, targets: targets})
}

// TargetStats is what became of one target of a fanned-out call.
type TargetStats struct {
	fanout.Outcome
	// Endpoint is the address of its endpoint, empty if none was chosen; Attempts counts the
	// streams opened to it.
	Endpoint string
	Attempts int
}
