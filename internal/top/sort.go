// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/internal/status"
)

// Sort is what comes first.
type Sort int

// Values of Sort. What is equal stays in the order of the configuration.
const (
	ByOrder    Sort = iota // that of the configuration
	ByName                 // A to Z
	ByRate                 // the most calls per second
	ByErrors               // the most errors per second
	ByLatency              // the highest 99th percentile; endpoints have none and stay
	ByInFlight             // the most calls in flight
)

var sortNames = [...]string{"order", "name", "rate", "errors", "latency", "in-flight"}

func (s Sort) String() string { return sortNames[s] }

// ParseSort returns the Sort of a name.
func ParseSort(name string) (Sort, error) {
	if i := slices.Index(sortNames[:], name); i >= 0 {
		return Sort(i), nil
	}

	return 0, fmt.Errorf("expected %s or %s", strings.Join(sortNames[:len(sortNames)-1], ", "), sortNames[len(sortNames)-1])
}

// sortKey is what is compared.
type sortKey struct {
	name                            string
	rate, errors, latency, inFlight float64
}

func keyOf(name string, a *status.Activity) sortKey {
	return sortKey{name, float64(a.Rate), float64(a.ErrorRate), float64(a.P99), float64(a.InFlight)}
}

// sorted returns a copy of list in the order of s.
func sorted[T any](list []T, s Sort, of func(*T) sortKey) []T {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y T) int {
		a, b := of(&x), of(&y)
		switch s {
		case ByName:
			return strings.Compare(a.name, b.name)
		case ByRate:
			return cmp.Compare(b.rate, a.rate)
		case ByErrors:
			return cmp.Compare(b.errors, a.errors)
		case ByLatency:
			return cmp.Compare(b.latency, a.latency) // NaN is below all numbers
		case ByInFlight:
			return cmp.Compare(b.inFlight, a.inFlight)
		}

		return 0
	})

	return list
}
