// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strconv"
)

// Mirror is where copies of a route's calls go.
type Mirror struct {
	Backend string  `yaml:"backend,required" doc:"The name of the backend that gets the copies."`
	Percent Percent `yaml:"percent" doc:"Share of the calls that are copied." default:"100"`
}

// Percent is a share in hundredths, above 0 up to 100; 0 is none said.
type Percent float64

// All is the share of all calls.
const All Percent = 100

// Share returns the share, of all calls where none is said.
func (m *Mirror) Share() Percent {
	if m.Percent == 0 {
		return All
	}

	return m.Percent
}

func parsePercent(text string) (Percent, error) {
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil:
		return 0, errors.New("not a number")
	case !(f > 0 && f <= float64(All)): // not a number, NaN, too
		return 0, errors.New("out of range")
	}

	return Percent(f), nil
}

// mirror checks the mirror of a route.
func (c *checker) mirror(r *Route, path string) {
	m := r.Mirror
	if m == nil {
		return
	}
	switch {
	case r.FanOut != nil:
		c.fail(path, "mirror on a route with fan_out, expected it beside backend")
	case r.Deny != "":
		c.fail(path, "mirror on a route with deny, expected it beside backend")
	}
	if m.Backend != "" && !c.broken[path] {
		c.reference(m.Backend, path+".backend")
	}
}

// effect returns what it does, for explain.
func (m *Mirror) effect() string {
	if m.Share() == All {
		return fmt.Sprintf("is copied to backend %s", m.Backend)
	}

	return fmt.Sprintf("is copied to backend %s, %g %% of the calls", m.Backend, float64(m.Share()))
}
