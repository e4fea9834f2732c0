// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package splice writes the source of an answer, or the error in place of one,
// into protobuf messages whose Go types it does not know.
//
// A one-to-many call has one answer to give for many backends. Where the API
// follows a layout, that works by concatenation: the reply of a unary method
// holds its answers in a repeated field, so the bytes of several replies put
// one after another are again a valid reply. What the caller then misses is
// which answer came from where, and which backend failed. Both go into a
// metadata message inside each element:
//
//	message Reply {                 // what a unary method returns
//	  repeated Element elements = 1;    // Layout.Element
//	}
//	message Element {               // what a streaming method sends
//	  Metadata metadata = 99;           // Layout.Metadata
//	  ...                               // the answer proper
//	}
//	message Metadata {
//	  string hostname = 99;             // Layout.Hostname
//	  string error = 100;               // Layout.Error
//	  google.rpc.Status status = 101;   // Layout.Status
//	}
//
// A [Layout] gives the field numbers; nothing else has to be known about the
// messages. [TestserviceLayout] and [TalosLayout] are two that exist in the
// field. An [Annotator] applies a layout for one source. It has the methods
// AppendInfo, BuildError and String of a proxy.Backend, so a backend gets them
// by embedding it.
//
// Metadata is appended to an element and never replaces what is there: by the
// rules of protobuf a later value of a singular string field wins and messages
// are merged. An answer that another proxy has annotated already keeps that
// proxy's error and gets this one's hostname.
//
// The package is pure: no I/O, no goroutine, no state between calls. It reads
// an answer once to check it and a reply once more to copy it, into one
// allocation of the exact size, and never descends below the fields of an
// element.
package splice
