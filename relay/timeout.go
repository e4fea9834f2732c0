// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"math"
	"strconv"
	"time"
)

// timeoutUnits are the units of grpc-timeout (gRPC over HTTP/2, "Requests").
var timeoutUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second,
	'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// parseTimeout reads a grpc-timeout: 1 to 8 digits and a unit.
func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	unit, ok := timeoutUnits[s[len(s)-1]]
	if !ok {
		return 0, false
	}
	var n int64
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if n > math.MaxInt64/int64(unit) {
		return math.MaxInt64, true
	}
	return time.Duration(n) * unit, true
}

// formatTimeout writes a grpc-timeout of at most 8 digits, rounded up so that a
// time left never becomes none.
func formatTimeout(d time.Duration) string {
	if d <= 0 {
		return "0n"
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{
		{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"},
		{time.Second, "S"}, {time.Minute, "M"},
	} {
		n := int64(d / u.unit)
		if d%u.unit > 0 {
			n++
		}
		if n < 1e8 {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Hour)+1, 10) + "H"
}

// SetTimeout bounds the call to d from its start, on either side, as a grpc-timeout of the caller's would. The
// caller's own stays if it is shorter. A d that is not above 0 changes nothing.
func (c *Call) SetTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 || c.stage == stageDone || c.timeout > 0 && c.timeout <= d {
		return
	}
	c.timeout = d
	c.SetHeader("grpc-timeout", formatTimeout(d))
	c.startTimer()
}
