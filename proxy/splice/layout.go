// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Defaults of the two fields that every layout has.
const (
	defaultElement  protowire.Number = 1
	defaultMetadata protowire.Number = 99
)

// Layout says by field numbers where in an answer its source and error go.
//
// The zero value is usable and writes nothing: answers stay as they are and an
// error is left to fail the call.
type Layout struct {
	// Element is the repeated message field of a unary reply that holds the
	// answers. 0 means 1. Messages of a stream are elements themselves.
	Element protowire.Number

	// Metadata is the message field of an element that holds the fields
	// below. 0 means 99.
	Metadata protowire.Number

	// Hostname is the string field for the name of the source.
	// 0 leaves it out, and with it any annotation of good answers.
	Hostname protowire.Number

	// Error is the string field for the text of an error, the same text that
	// error's Error method returns. 0 leaves it out.
	Error protowire.Number

	// Status is the google.rpc.Status field for an error's code, message and
	// details. 0 leaves it out.
	//
	// With neither Error nor Status there is no place for an error, so
	// BuildError returns nil, which makes the proxy fail the whole call.
	Status protowire.Number

	// KeepEmpty leaves a unary reply without elements as it is. By default
	// it gets one element with the metadata only, so that a caller can tell
	// a source that had nothing to say from a source that never answered.
	// Set it for replies whose elements are items of a list.
	KeepEmpty bool
}

// TestserviceLayout returns the layout of the test service that
// github.com/siderolabs/grpc-proxy ships with: in field 99 of each element
// ResponseMetadata{hostname = 99, upstream_error = 100}.
func TestserviceLayout() Layout {
	return Layout{Element: 1, Metadata: 99, Hostname: 99, Error: 100}
}

// TalosLayout returns the layout of the Talos Linux API: each of the repeated
// messages = 1 has in field 1 common.Metadata{hostname = 1, error = 2, status = 3}.
func TalosLayout() Layout {
	return Layout{Element: 1, Metadata: 1, Hostname: 1, Error: 2, Status: 3}
}

// withDefaults returns l with the numbers that may not be zero filled in.
func (l Layout) withDefaults() Layout {
	if l.Element == 0 {
		l.Element = defaultElement
	}
	if l.Metadata == 0 {
		l.Metadata = defaultMetadata
	}
	return l
}

// validate reports the first field number that protobuf does not allow, and
// two fields of the metadata under one number. It expects defaults filled in.
func (l Layout) validate() error {
	fields := []struct {
		name string
		num  protowire.Number
	}{
		{"Element", l.Element},
		{"Metadata", l.Metadata},
		{"Hostname", l.Hostname},
		{"Error", l.Error},
		{"Status", l.Status},
	}
	for i, f := range fields {
		if f.num == 0 {
			continue
		}
		if !usable(f.num) {
			return fmt.Errorf("splice: Layout.%s is %d, expected a field number from 1 to %d outside %d to %d",
				f.name, f.num, protowire.MaxValidNumber, protowire.FirstReservedNumber, protowire.LastReservedNumber)
		}
		// Element and Metadata are in messages of their own and clash with nothing.
		for j := 2; j < i; j++ {
			if fields[j].num == f.num {
				return fmt.Errorf("splice: Layout.%s and Layout.%s are both %d, expected different field numbers",
					fields[j].name, f.name, f.num)
			}
		}
	}
	return nil
}

// usable reports whether a message may declare a field numbered n. The range
// from 19000 to 19999 belongs to implementations of protobuf.
func usable(n protowire.Number) bool {
	reserved := n >= protowire.FirstReservedNumber && n <= protowire.LastReservedNumber
	return n.IsValid() && !reserved
}
