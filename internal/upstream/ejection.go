// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
)

// ejectionRules are those of gRFC A50 and one on failures in a row. They are pure: who holds them knows the time.
type ejectionRules struct {
	off         bool
	consecutive uint32
	interval    time.Duration
	base, top   time.Duration
	percent     int
	stdev       float64 // multiples of the standard deviation
	rate        enough
	threshold   float64 // percent
	percentage  enough
}

// enough is what a rate must be based on.
type enough struct {
	endpoints int
	volume    uint64
}

// rulesOf returns the rules with their defaults. Those of A50 hold, but that ejections are shorter, 5 s growing to
// 25 s in place of 30 s to 300 s: what has recovered is to be back within 30 s.
func rulesOf(e *config.Ejection) ejectionRules {
	return ejectionRules{
		off:         e.Disabled,
		consecutive: uint32(or(e.Consecutive, 5)),
		interval:    or(time.Duration(e.Interval), 10*time.Second),
		base:        or(time.Duration(e.BaseTime), 5*time.Second),
		top:         or(time.Duration(e.MaxTime), 25*time.Second),
		percent:     int(or(e.MaxPercent, 50)),
		stdev:       float64(or(e.SuccessRate.StdevFactor, 1900)) / 1000,
		rate:        enough{int(or(e.SuccessRate.MinEndpoints, 5)), uint64(or(e.SuccessRate.RequestVolume, 100))},
		threshold:   float64(or(e.FailureRate.Threshold, 85)),
		percentage:  enough{int(or(e.FailureRate.MinEndpoints, 5)), uint64(or(e.FailureRate.RequestVolume, 50))},
	}
}

// subject is an endpoint to the rules.
type subject struct {
	until time.Time // of the ejection; zero: not ejected
	times int       // ejections, less one for each interval without
	// What calls came to since the last sweep.
	successes, failures uint64
}

func (s *subject) ejected() bool { return !s.until.IsZero() }

// Causes of ejections, for Hooks.Ejected.
const (
	EjectConsecutive = "consecutive_failures"
	EjectSuccessRate = "success_rate"
	EjectPercentage  = "failure_percentage"
)

// room reports whether one more may be ejected: at most so many percent are, and one of two or more.
func (r *ejectionRules) room(all []*subject) bool {
	out := 0
	for _, s := range all {
		if s.ejected() {
			out++
		}
	}
	most := len(all) * r.percent / 100
	if len(all) > 1 {
		most = max(most, 1)
	}

	return out < most
}

// eject ejects s, if it may be.
func (r *ejectionRules) eject(now time.Time, s *subject, all []*subject) bool {
	if r.off || s.ejected() || !r.room(all) {
		return false
	}
	s.times++
	s.until = now.Add(min(r.base*time.Duration(s.times), max(r.base, r.top)))

	return true
}

// readmit ends the ejection of s if it is over.
func (r *ejectionRules) readmit(now time.Time, s *subject) bool {
	if !s.ejected() || now.Before(s.until) {
		return false
	}
	s.until = time.Time{}

	return true
}

// sweep looks at what calls came to since the last sweep, and begins a new count. It tells of each subject
// that it ejected.
func (r *ejectionRules) sweep(now time.Time, all []*subject, ejected func(i int, cause string)) {
	before := make([]bool, len(all))
	for i, s := range all {
		before[i] = s.ejected()
	}
	threshold, some := r.lowest(all)
	for i, s := range all {
		if some && s.volume() >= r.rate.volume && s.rate() < threshold && r.eject(now, s, all) {
			ejected(i, EjectSuccessRate)
		}
	}
	r.sweepPercentage(now, all, ejected)
	for i, s := range all {
		if !before[i] && !s.ejected() && s.times > 0 {
			s.times--
		}
		s.successes, s.failures = 0, 0
	}
}

// lowest returns the success rate below which subjects are ejected; ok is false where too few had enough calls.
func (r *ejectionRules) lowest(all []*subject) (threshold float64, ok bool) {
	var sum, squares float64
	n := 0
	for _, s := range all {
		if s.volume() >= r.rate.volume {
			n++
			sum += s.rate()
		}
	}
	if n == 0 || n < r.rate.endpoints {
		return 0, false
	}
	mean := sum / float64(n)
	for _, s := range all {
		if s.volume() >= r.rate.volume {
			squares += (s.rate() - mean) * (s.rate() - mean)
		}
	}

	return mean - r.stdev*math.Sqrt(squares/float64(n)), true
}

// sweepPercentage ejects those of whose calls too many failed.
func (r *ejectionRules) sweepPercentage(now time.Time, all []*subject, ejected func(i int, cause string)) {
	n := 0
	for _, s := range all {
		if s.volume() >= r.percentage.volume {
			n++
		}
	}
	if n < r.percentage.endpoints {
		return
	}
	for i, s := range all {
		if s.volume() >= r.percentage.volume && 100*(1-s.rate()) > r.threshold && r.eject(now, s, all) {
			ejected(i, EjectPercentage)
		}
	}
}

func (s *subject) volume() uint64 { return s.successes + s.failures }

// rate is the share of successes. There is a call.
func (s *subject) rate() float64 { return float64(s.successes) / float64(s.volume()) }
