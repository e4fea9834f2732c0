// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"strconv"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// The rules for messages of RFC 9113 sections 8.1 to 8.3. Breaking one makes a message malformed:
// a stream error of type PROTOCOL_ERROR (section 8.1.1).

func malformed(id uint32, reason, detail string) *frame.Error {
	return &frame.Error{Code: frame.ProtocolError, StreamID: id, Reason: reason, Detail: detail}
}

func lengthError(id uint32) *frame.Error {
	return malformed(id, "content_length", "octets of DATA differ from content-length")
}

// Which pseudo-header fields were seen.
const (
	sawMethod = 1 << iota
	sawScheme
	sawPath
	sawAuthority
	sawStatus
)

func pseudoBit(name string) int {
	switch name {
	case ":method":
		return sawMethod
	case ":scheme":
		return sawScheme
	case ":path":
		return sawPath
	case ":authority":
		return sawAuthority
	case ":status":
		return sawStatus
	}
	return 0
}

// checkRequest checks a request's fields (sections 8.3.1, 8.5).
func checkRequest(fields []hpack.Field, id uint32) *frame.Error {
	saw, connect, ferr := checkFields(fields, id, sawMethod|sawScheme|sawPath|sawAuthority)
	if ferr != nil {
		return ferr
	}
	want := sawMethod | sawScheme | sawPath
	if connect {
		if saw&(sawScheme|sawPath) != 0 || saw&sawAuthority == 0 {
			return malformed(id, "connect_pseudo", "CONNECT takes :authority only")
		}
		return nil
	}
	if saw&want != want {
		return malformed(id, "missing_pseudo", "request without :method, :scheme or :path")
	}
	return nil
}

// checkResponse checks a response's fields (section 8.3.2) and reports whether it is interim.
func checkResponse(fields []hpack.Field, id uint32) (interim bool, ferr *frame.Error) {
	saw, _, ferr := checkFields(fields, id, sawStatus)
	if ferr != nil {
		return false, ferr
	}
	if saw == 0 {
		return false, malformed(id, "missing_status", "response without :status")
	}
	status, err := strconv.Atoi(fields[0].Value)
	if err != nil || len(fields[0].Value) != 3 || status < 100 {
		return false, malformed(id, "bad_status", ":status is not a number of three digits")
	}
	if status == 101 {
		return false, malformed(id, "bad_status", "status 101, which HTTP/2 does not have") // section 8.6
	}
	return status < 200, nil
}

// checkTrailers checks trailers (section 8.1): no pseudo-header fields.
func checkTrailers(fields []hpack.Field, id uint32) *frame.Error {
	_, _, ferr := checkFields(fields, id, 0)
	return ferr
}

// checkFields checks each field; allowed are the pseudo-header fields which may come,
// once each and before all others (section 8.3).
func checkFields(fields []hpack.Field, id uint32, allowed int) (saw int, connect bool, ferr *frame.Error) {
	regular := false
	for i := range fields {
		f := &fields[i]
		if len(f.Name) > 0 && f.Name[0] == ':' {
			bit := pseudoBit(f.Name)
			if bit&allowed == 0 || bit&saw != 0 || regular {
				return 0, false, malformed(id, "pseudo_field", "pseudo-header field "+strconv.Quote(f.Name)+" unknown, repeated or out of place")
			}
			saw |= bit
			if f.Value == "" && bit == sawPath {
				return 0, false, malformed(id, "empty_path", "empty :path")
			}
			if outerSpace(f.Value) {
				return 0, false, malformed(id, "field_value", "field "+strconv.Quote(f.Name)+" has a value with outer space")
			}
			connect = connect || bit == sawMethod && f.Value == "CONNECT"
		} else {
			regular = true
			if ferr := checkField(f, id); ferr != nil {
				return 0, false, ferr
			}
		}
		if !validValue(f.Value) {
			return 0, false, malformed(id, "field_value", "field "+strconv.Quote(f.Name)+" has a value with NUL, CR or LF")
		}
	}
	return saw, connect, nil
}

// checkField checks the name of a regular field, and those that HTTP/2 forbids (section 8.2).
func checkField(f *hpack.Field, id uint32) *frame.Error {
	if !validName(f.Name) {
		return malformed(id, "field_name", "field name "+strconv.Quote(f.Name)+" is empty, has upper case or other octets that names must not have")
	}
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return malformed(id, "connection_field", "field "+strconv.Quote(f.Name)+" belongs to a connection of HTTP/1.1")
	case "te":
		if f.Value != "trailers" {
			return malformed(id, "te", "field \"te\" is other than \"trailers\"")
		}
	}
	return nil
}

// nameOctet tells which octets a field name may have: the token characters of
// RFC 9110 section 5.6.2 without upper case (RFC 9113 section 8.2.1).
var nameOctet = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

func validName(s string) bool {
	for i := range len(s) {
		if !nameOctet[s[i]] {
			return false
		}
	}
	return s != ""
}

// validValue applies section 8.2.1: no NUL, LF, CR. The same section forbids space and tab at either
// end. gRPC libraries send such values all the same (a grpc-message that ends in a space), and take
// them from each other, so regular fields are passed on as they are.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == 0 || c == '\n' || c == '\r' {
			return false
		}
	}
	return true
}

// outerSpace reports whether s starts or ends with a space or tab.
func outerSpace(s string) bool { return s != "" && (isSpace(s[0]) || isSpace(s[len(s)-1])) }

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// contentLength returns the declared length of the content, or -1. What is no number, or two
// different ones, cannot equal the octets that come (RFC 9113 section 8.1.1).
func contentLength(fields []hpack.Field, id uint32) (int64, *frame.Error) {
	length := int64(-1)
	for i := range fields {
		if fields[i].Name != "content-length" {
			continue
		}
		n, err := strconv.ParseUint(fields[i].Value, 10, 63)
		if err != nil || length >= 0 && int64(n) != length {
			return 0, malformed(id, "content_length", "content-length is no number, or comes with two values")
		}
		length = int64(n)
	}
	return length, nil
}

// contentOf returns the length of the content that a checked header block promises, or -1.
func contentOf(head Head, id uint32) (int64, *frame.Error) {
	if head.TooLarge != nil {
		return -1, nil // what came of the fields may be anything
	}
	n, ferr := contentLength(head.Fields, id)
	if ferr == nil {
		ferr = head.checkLength(n, id)
	}
	return n, ferr
}

// checkLength holds the content that a header block promises against its being all of the message.
func (h *Head) checkLength(n int64, id uint32) *frame.Error {
	if h.EndStream && n > 0 {
		return lengthError(id)
	}
	return nil
}
