// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// merging plays events such as "a3" (source a has a value of key 3), "b9'" (another of this key) and "a." (source
// a ends), and returns what each releases: parts between bars.
func merging(m *Merge[byte, string], events string) string {
	var out []string
	for e := range strings.FieldsSeq(events) {
		source := int(e[0] - 'a')
		if e[1] == '.' {
			out = append(out, strings.Join(m.End(source), " "))
		} else {
			out = append(out, strings.Join(m.Push(source, e[1], 1, e), " "))
		}
	}
	return strings.Join(out, "|")
}

func TestMerge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                   string
		sources, window, bytes int
		events, want           string
		late, held             int
	}{
		{"one source", 1, 0, 0, "a1 a2 a.", "a1|a2|", 0, 0},
		{"waits for the silent one", 2, 0, 0, "a1 a2 b3 b.", "||a1 a2|", 0, 1},
		{"until it ends", 2, 0, 0, "a1 a2 b. a.", "||a1 a2|", 0, 0},
		{"equal keys by source", 2, 0, 0, "b1 b2 a1 a. b.", "||a1|b1 b2|", 0, 0},
		{"all ended", 3, 0, 0, "c1 a3 b2 b. a. c.", "||c1|||b2 a3", 0, 0},
		{"window", 2, 2, 0, "a1 a2 a3 a4 b2 b.", "||a1|a2|b2|a3 a4", 0, 0},
		{"late for the window", 2, 1, 0, "a4 a5 b3 b. a.", "|a4|b3|a5|", 1, 0},
		{"bytes", 2, 0, 2, "a1 a2 a3 a4 b2 b.", "||a1|a2|b2|a3 a4", 0, 0},
		{"a source out of its order keeps it", 2, 0, 0, "b5 b2 a1 a6 b. a.", "||a1|b5 b2|a6|", 1, 0},
		{"ends twice", 2, 0, 0, "a. a. b1", "||b1", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := NewMerge[byte, string](tt.sources, tt.window, tt.bytes)
			if got := merging(m, tt.events); got != tt.want || m.Late() != tt.late || m.Held() != tt.held {
				t.Errorf("got %s, %d late, %d held; want %s, %d, %d", got, m.Late(), m.Held(), tt.want, tt.late, tt.held)
			}
		})
	}
}

// TestMergeOrderOfArrival interleaves three ordered sources in every way: the result is always the same.
func TestMergeOrderOfArrival(t *testing.T) {
	t.Parallel()
	sources := [][]int{{1, 4, 4}, {2, 4}, {3, 9, 9}}
	want := "[0:1 1:2 2:3 0:4 0:4 1:4 2:9 2:9]"
	n := 0
	var play func(history []int, left []int)
	play = func(history, left []int) {
		over := true
		for i := range left {
			if left[i] >= 0 { // the values and the end of this source are to come
				over = false
				next := slices.Clone(left)
				next[i]--
				play(append(slices.Clip(history), i), next)
			}
		}
		if over {
			n++
			if got := fmt.Sprint(replay(sources, history)); got != want {
				t.Fatalf("%v: %s, want %s", history, got, want)
			}
		}
	}
	play(nil, []int{3, 2, 3})
	if n != 11550 { // 11! / (4! 3! 4!)
		t.Errorf("%d interleavings", n)
	}
}

func replay(sources [][]int, history []int) (out []string) {
	m := NewMerge[int, string](len(sources), 0, 0)
	at := make([]int, len(sources))
	for _, i := range history {
		if at[i] == len(sources[i]) {
			out = append(out, m.End(i)...)
			continue
		}
		key := sources[i][at[i]]
		out = append(out, m.Push(i, key, 1, fmt.Sprint(i, ":", key))...)
		at[i]++
	}
	return out
}

// FuzzMerge checks that nothing is lost or doubled, that the window holds, and that each source keeps its order.
func FuzzMerge(f *testing.F) {
	f.Add(uint8(3), []byte{1, 2, 3, 0x81, 0x12, 0x82})
	f.Fuzz(func(t *testing.T, window uint8, events []byte) {
		m := NewMerge[byte, [2]int](3, int(window), 0)
		limit := int(window)
		if limit == 0 {
			limit = DefaultMergeWindow
		}
		var pushed, got [3]int
		var ended [3]bool
		take := func(out [][2]int) {
			for _, v := range out {
				if v[1] != got[v[0]] {
					t.Fatalf("source %d: value %d, want %d", v[0], v[1], got[v[0]])
				}
				got[v[0]]++
			}
			if m.Held() > limit {
				t.Fatalf("%d held, window %d", m.Held(), limit)
			}
		}
		for _, e := range events {
			source := int(e>>4) % 3
			if e&0x80 != 0 {
				ended[source] = true
				take(m.End(source))
			} else if !ended[source] {
				take(m.Push(source, e&0xf, 1, [2]int{source, pushed[source]}))
				pushed[source]++
			}
		}
		for source := range 3 {
			take(m.End(source))
		}
		if got != pushed || m.Held() != 0 {
			t.Fatalf("got %v of %v, %d held", got, pushed, m.Held())
		}
	})
}

// Keys of numbers sort as the numbers do.
func TestNumberKey(t *testing.T) {
	t.Parallel()
	numbers := []int64{math.MinInt64, -256, -1, 0, 1, 255, 256, math.MaxInt64}
	for i, n := range numbers[1:] {
		if a, b := NumberKey(numbers[i]), NumberKey(n); a >= b {
			t.Errorf("key of %d: %x, of %d: %x", numbers[i], a, n, b)
		}
	}
}

// What a merge holds comes out in order, and it holds nothing then.
func TestMergeDrain(t *testing.T) {
	t.Parallel()
	m := NewMerge[byte, string](3, 0, 0)
	merging(m, "b2 a1 a3")
	if got := strings.Join(m.Drain(), " "); got != "a1 b2 a3" || m.Held() != 0 {
		t.Errorf("got %s, and %d held", got, m.Held())
	}
}
