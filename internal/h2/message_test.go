// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"testing"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// The reasons for which header blocks are malformed, which the wire does not
// show: a request that is refused never reaches the owner.
func TestMessageReasons(t *testing.T) {
	t.Parallel()
	request := func(h Head) *frame.Error {
		if ferr := checkRequest(h.Fields, 7); ferr != nil {
			return ferr
		}
		_, ferr := contentOf(h, 7)
		return ferr
	}
	response := func(h Head) *frame.Error { _, ferr := checkResponse(h.Fields, 7); return ferr }
	trailers := func(h Head) *frame.Error { return checkTrailers(h.Fields, 7) }
	tests := []struct {
		check  func(h Head) *frame.Error
		fields string
		reason string // "" for none
	}{
		{request, "request", ""},
		{request, "request te=trailers content-length=5", ""},
		{request, ":method=CONNECT :authority=a", ""},
		{request, ":scheme=http :path=/", "missing_pseudo"},
		{request, ":method=GET :path=/", "missing_pseudo"},
		{request, ":method=GET :scheme=http", "missing_pseudo"},
		{request, ":method=GET :scheme=http :path=", "empty_path"},
		{request, ":method=CONNECT", "connect_pseudo"},
		{request, ":method=CONNECT :authority=a :path=/", "connect_pseudo"},
		{request, ":method=CONNECT :authority=a :scheme=http", "connect_pseudo"},
		{request, "request :status=200", "pseudo_field"},
		{request, "request :path=/", "pseudo_field"},
		{request, "a=b request", "pseudo_field"},
		{request, "request Upper=x", "field_name"},
		{request, `request ""=x`, "field_name"},
		{request, `request a="\x00"`, "field_value"},
		{request, `:method=GET :scheme=http :path=" /"`, "field_value"},
		{request, "request connection=x", "connection_field"},
		{request, "request te=gzip", "te"},
		{request, "request content-length=x", "content_length"},
		{response, "response", ""},
		{response, "a=b", "missing_status"},
		{response, ":status=2000", "bad_status"},
		{response, ":status=101", "bad_status"},
		{response, "response :path=/", "pseudo_field"},
		{response, "response upgrade=h2c", "connection_field"},
		{trailers, "grpc-status=0", ""},
		{trailers, "", ""},
		{trailers, ":status=200", "pseudo_field"},
		{trailers, "Upper=x", "field_name"},
	}
	for _, tt := range tests {
		ferr := tt.check(Head{Fields: own(parseLine(tt.fields).fields())})
		switch {
		case ferr == nil && tt.reason == "":
		case ferr == nil || ferr.Reason != tt.reason:
			t.Errorf("%s: %v, want reason %q", tt.fields, ferr, tt.reason)
		case ferr.StreamID != 7 || ferr.Code != frame.ProtocolError || ferr.Detail == "":
			t.Errorf("%s: %v, want PROTOCOL_ERROR of stream 7 with a detail", tt.fields, ferr)
		}
	}
}
