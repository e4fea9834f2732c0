// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Phase is the part of a call in which a backend's work ended.
type Phase int

const (
	// PhaseComplete means that the backend's stream ended by itself: with the backend's status, or with that which grpc-go
	// made of a connection that broke.
	PhaseComplete Phase = iota
	// PhaseConnect means that no stream to the backend was opened.
	PhaseConnect
	// PhaseRequest means that a request could not be read from the caller or not be sent to the backend.
	PhaseRequest
	// PhaseResponse means that an answer did not reach the caller.
	PhaseResponse
	// PhaseHook means that a hook of the backend failed on an answer.
	PhaseHook
	// PhaseCancelled means that the caller went away, or that the call was decided without this backend.
	PhaseCancelled
)

// Outcome is what became of one backend of one call.
type Outcome struct {
	// Backend is the name: what String of the backend says.
	Backend string
	// FullMethod is the method, as "/package.Service/Method".
	FullMethod string
	// Status is the backend's own status where it gave one, else what the proxy made of the failure. It is never nil.
	Status *status.Status
	// Phase is where the work ended.
	Phase Phase
	// Header and Trailer are what the backend sent, without the keys that belong to its connection; nil if it sent none.
	Header, Trailer metadata.MD
	// Duration runs from the director's answer until the end of the backend's work.
	Duration time.Duration
	// FirstResponse runs from the director's answer until the first response message; zero if there was none.
	FirstResponse time.Duration
	// RequestMessages and RequestBytes were handed to the backend's stream, ResponseMessages and ResponseBytes came
	// from it. Bytes are those of the messages after decompression, without framing.
	RequestMessages, ResponseMessages int64
	RequestBytes, ResponseBytes       int64
}
