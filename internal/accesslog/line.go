// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/relay"
)

// Event says at which moment of a call a line was written.
type Event string

// Values of Event.
const (
	End      Event = "end"
	Progress Event = "progress" // of a call that goes on for long
)

// Where is what the call's place in the configuration is.
type Where struct{ Frontend, Route, Backend string }

// Logger makes lines of calls. Its methods are safe for concurrent use. It must not be copied after the first one.
type Logger struct {
	// Writer gets them.
	Writer *Writer
	// Headers names further request headers to log, in lower case.
	Headers []string
	// Trace, if set, returns the trace that a call is part of, as an id; empty: of none.
	Trace func(*relay.Call) string

	seconds seconds
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// Log writes a line. It is for relay.Hooks, hence reads of the call what its getters tell.
func (l *Logger) Log(e Event, c *relay.Call, s *relay.CallStats, where Where) {
	p := buffers.Get().(*[]byte)
	b := l.line((*p)[:0], e, c, s, where)
	l.Writer.add(b)
	*p = b
	buffers.Put(p)
}

func (l *Logger) line(b []byte, e Event, c *relay.Call, s *relay.CallStats, where Where) []byte {
	b = append(b, `{"start_time":"`...)
	b = l.seconds.append(b, s.Start)
	b = append(b, `","event":"`...)
	b = append(b, e...)
	b = append(b, `","duration":`...)
	b = appendMillis(b, s.Duration)
	if s.FirstResponse > 0 {
		b = append(b, `,"response_duration":`...)
		b = appendMillis(b, s.FirstResponse)
	}
	b = str(b, `,"frontend":"`, where.Frontend)
	b = str(b, `,"route":"`, where.Route)
	b = str(b, `,"backend":"`, where.Backend)
	b = str(b, `,"authority":"`, c.Host())
	b = str(b, `,"path":"`, c.Path())
	b = str(b, `,"grpc.service":"`, c.Service())
	b = str(b, `,"grpc.method":"`, c.Method())
	b = str(b, `,"downstream_remote_address":"`, c.Client())
	b = str(b, `,"upstream_host":"`, s.Endpoint)
	if e == End {
		b = outcome(b, s.Code, s.Reason)
	}
	if d, ok := c.Timeout(); ok {
		b = append(b, `,"deadline":`...)
		b = appendMillis(b, d)
	}
	b = num(b, `,"bytes_received":`, s.RequestBytes)
	b = num(b, `,"bytes_sent":`, s.ResponseBytes)
	b = num(b, `,"msgs_received":`, s.RequestMessages)
	b = num(b, `,"msgs_sent":`, s.ResponseMessages)
	b = num(b, `,"attempts":`, int64(s.Attempts))
	b = l.headers(b, c)
	b = targets(b, s.Targets)

	return append(b, '}', '\n')
}

// outcome appends the status and who gave it.
func outcome(b []byte, code codes.Code, reason string) []byte {
	if code == codes.OK && reason == "" { // nearly always
		return append(b, `,"grpc_status":"OK","grpc_status_number":0,"end_reason":"UPSTREAM_STATUS","response_flags":"-"`...)
	}
	b = append(b, `,"grpc_status":"`...)
	b = append(b, codeName(code)...)
	b = append(b, `","grpc_status_number":`...)
	b = strconv.AppendUint(b, uint64(code), 10)
	b = str(b, `,"end_reason":"`, or(reason, "UPSTREAM_STATUS"))

	return str(b, `,"response_flags":"`, flags(reason))
}

// headers appends what the request says of itself.
func (l *Logger) headers(b []byte, c *relay.Call) []byte {
	if v, ok := c.Header("user-agent"); ok {
		b = str(b, `,"user_agent":"`, v)
	}
	if v, ok := c.Header("x-request-id"); ok {
		b = str(b, `,"x_request_id":"`, v)
	}
	for _, name := range l.Headers {
		if v, ok := c.Header(name); ok {
			b = append(b, `,"request.`...)
			b = escaped(b, name)
			b = append(b, `":"`...)
			b = escaped(b, v)
			b = append(b, '"')
		}
	}
	if l.Trace != nil {
		b = str(b, `,"trace_id":"`, l.Trace(c))
	}

	return b
}

// targets appends what became of each target of a one-to-many call.
func targets(b []byte, list []relay.TargetStats) []byte {
	if list == nil {
		return b
	}
	b = append(b, `,"targets":[`...)
	for i := range list {
		t := &list[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":"`...)
		b = escaped(b, t.Name)
		b = append(b, `","grpc_status":"`...)
		b = append(b, codeName(t.Code())...)
		b = append(b, `","duration":`...)
		b = appendMillis(b, t.Total)
		b = str(b, `,"upstream_host":"`, t.Endpoint)
		b = num(b, `,"bytes_received":`, t.ResponseBytes)
		b = num(b, `,"bytes_sent":`, t.RequestBytes)
		b = num(b, `,"msgs_received":`, t.ResponseMessages)
		b = num(b, `,"msgs_sent":`, t.RequestMessages)
		b = num(b, `,"attempts":`, int64(t.Attempts))
		b = append(b, '}')
	}

	return append(b, ']')
}

func or(v, d string) string {
	if v == "" {
		return d
	}

	return v
}

// str appends a field, unless the value is empty. name is all that comes before the value.
func str(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, name...)
	b = escaped(b, value)

	return append(b, '"')
}

// num appends a field. name is all that comes before the value.
func num(b []byte, name string, v int64) []byte {
	b = append(b, name...)
	if 0 <= v && v < 10 {
		return append(b, byte('0'+v))
	}

	return strconv.AppendInt(b, v, 10)
}

// appendMillis appends a time in milliseconds, with three digits after the point.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d, 0).Microseconds()
	b = strconv.AppendInt(b, us/1000, 10)
	frac := us % 1000

	return append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
}

// seconds appends times, and remembers the text of the last second. It is safe for concurrent use.
type seconds struct{ last atomic.Pointer[second] }

// second is the text of a second, up to its fraction.
type second struct {
	unix int64
	text string
}

// append appends a time as RFC 3339 has it, in UTC, to the millisecond.
func (s *seconds) append(b []byte, t time.Time) []byte {
	last := s.last.Load()
	if unix := t.Unix(); last == nil || last.unix != unix {
		last = &second{unix, t.UTC().Format("2006-01-02T15:04:05.")}
		s.last.Store(last)
	}
	ms := t.Nanosecond() / 1e6

	return append(append(b, last.text...), byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

const hexDigits = "0123456789abcdef"

// plain is the octets that stand for themselves.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf
	}

	return t
}()

// escaped appends s as the inside of a JSON string (RFC 8259 section 7). What is not UTF-8 becomes U+FFFD.
func escaped(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			b = append(b, "\ufffd"...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}

	return append(b, s[start:]...)
}

// codeName is a code as Envoy's GRPC_STATUS command spells it.
func codeName(c codes.Code) string {
	if c > codes.Unauthenticated {
		return "InvalidCode"
	}

	return c.String()
}

// flags are Envoy's response flags for the relay's reasons, where Envoy has one.
func flags(reason string) string {
	switch reason {
	case "":
		return "-"
	case relay.ReasonNoRoute:
		return "NR"
	case relay.ReasonNoEndpoint:
		return "UH"
	case relay.ReasonConnect:
		return "UF"
	case relay.ReasonQueueFull:
		return "UO"
	case relay.ReasonUpstreamLost:
		return "UC"
	case relay.ReasonUpstreamReset:
		return "UR"
	case relay.ReasonUpstreamProtocol, relay.ReasonUpstreamHeaders, relay.ReasonUpstreamNotGRPC, relay.ReasonUpstreamNoStatus:
		return "UPE"
	case relay.ReasonDeadline:
		return "UT"
	case relay.ReasonIdle:
		return "SI"
	case relay.ReasonCanceled:
		return "DC"
	case relay.ReasonMalformedPath, relay.ReasonMalformedTimeout, relay.ReasonHeadersTooLarge:
		return "DPE"
	case relay.ReasonMemory, relay.ReasonBufferBudget:
		return "OM"
	}

	return "-"
}
