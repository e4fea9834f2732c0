// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/manifold-grpc/manifold/internal/status"
)

// none is shown where there is no number.
const none = "–"

// short writes a count in at most six places.
func short(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2fG", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.2fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", n/1e3)
	}

	return strconv.FormatFloat(n, 'f', 0, 64)
}

// rate writes something per second.
func rate(n status.Number) string {
	v := float64(n)
	switch {
	case !n.Known():
		return none
	case v == 0:
		return "0"
	case v >= 100:
		return short(v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}

	return fmt.Sprintf("%.2f", v)
}

// percent writes a share.
func percent(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < 0.001:
		return "<0.1"
	case x >= 0.9995:
		return "100"
	}

	return fmt.Sprintf("%.1f", 100*x)
}

// share returns the part of errors among calls.
func share(errors, calls status.Number) float64 {
	if !errors.Known() || !calls.Known() || calls <= 0 {
		return 0
	}

	return min(1, float64(errors/calls))
}

// seconds writes a latency.
func seconds(n status.Number) string {
	v := float64(n)
	switch {
	case !n.Known():
		return none
	case v < 1e-3:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case v < 0.01:
		return fmt.Sprintf("%.2f ms", v*1e3)
	case v < 0.1:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case v < 10:
		return fmt.Sprintf("%.2f s", v)
	}

	return fmt.Sprintf("%.1f s", v)
}

// size writes octets.
func size(n float64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if math.IsNaN(n) {
		return none
	}
	if n < 1024 {
		return fmt.Sprintf("%.0f B", n)
	}
	unit := -1
	for unit+1 < len(units) && (unit < 0 || n >= 1024) {
		n, unit = n/1024, unit+1
	}

	return fmt.Sprintf("%.1f %s", n, units[unit])
}

// span writes a time to its two largest units.
func span(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s >= 86400:
		return fmt.Sprintf("%d d %d h", s/86400, s/3600%24)
	case s >= 3600:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	case s >= 60:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	}

	return fmt.Sprintf("%d s", s)
}

// spark draws the last values in width places, one a place, the newest at the right. The highest that is drawn is as high as a
// place; what is not 0 is seen; NaN is a gap.
func spark(values []float64, width int) string {
	const levels = "▁▂▃▄▅▆▇█"
	ticks := []rune(levels)
	if width <= 0 {
		return ""
	}
	values = values[max(0, len(values)-width):]
	top := 0.0
	for _, v := range values {
		if v > top {
			top = v
		}
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		switch {
		case math.IsNaN(v):
			b.WriteByte(' ')
		case v <= 0:
			b.WriteRune(ticks[0])
		default:
			b.WriteRune(ticks[1+min(len(ticks)-2, int(v/top*float64(len(ticks)-1)))])
		}
	}

	return b.String()
}

// plain returns text without what a terminal would act on: names and errors come from others.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}

		return r
	}, text)
}

// shorten returns the beginning and the end of a text in n characters: of names, the ends tell them apart.
func shorten(text string, n int) string {
	r := []rune(text)
	if n <= 2 || len(r) <= n {
		return clip(text, n)
	}
	from := (n - 1) / 3

	return string(r[:from]) + "…" + string(r[len(r)-(n-1-from):])
}

// clip returns the first n characters, with an ellipsis where some are lost.
func clip(text string, n int) string {
	r := []rune(text)
	switch {
	case n <= 0:
		return ""
	case len(r) <= n:
		return text
	}

	return string(r[:n-1]) + "…"
}
