// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import "strconv"

// Distinct returns the names without repetitions, in the order in which they come
// first.
func Distinct(names []string) []string {
	seen := make(map[string]bool, len(names))
	var distinct []string
	for _, name := range names {
		if !seen[name] {
			seen[name] = true
			distinct = append(distinct, name)
		}
	}
	return distinct
}

// Label returns the names with a mark on each repetition, so that all differ: "a", "a",
// "b" become "a", "a#2", "b". A label that is itself one of the names is passed over.
func Label(names []string) []string {
	taken := make(map[string]bool, len(names))
	for _, name := range names {
		taken[name] = true
	}
	labels := make([]string, len(names))
	times := make(map[string]int, len(names))
	for i, name := range names {
		times[name]++
		labels[i] = name
		for times[name] > 1 && taken[labels[i]] {
			labels[i] = name + "#" + strconv.Itoa(times[name])
			if taken[labels[i]] {
				times[name]++
			}
		}
		taken[labels[i]] = true
	}
	return labels
}
