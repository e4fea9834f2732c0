// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import "strings"

// A key is what a person asks for.
type key int

const (
	keyNone key = iota
	keyQuit
	keyUp
	keyDown
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keySort // and above: keySort + Sort
)

// sequences are what terminals send for keys without a character (xterm, VT220, Linux console).
var sequences = []struct {
	text string
	key  key
}{
	{"\x1b[A", keyUp}, {"\x1bOA", keyUp}, {"\x1b[B", keyDown}, {"\x1bOB", keyDown},
	{"\x1b[5~", keyPageUp}, {"\x1b[6~", keyPageDown},
	{"\x1b[H", keyHome}, {"\x1bOH", keyHome}, {"\x1b[1~", keyHome}, {"\x1b[F", keyEnd}, {"\x1bOF", keyEnd}, {"\x1b[4~", keyEnd},
}

var characters = map[byte]key{
	'q': keyQuit, 'Q': keyQuit, 3: keyQuit, 4: keyQuit, // also Ctrl-C and Ctrl-D, which raw mode makes characters
	'k': keyUp, 'j': keyDown, 'b': keyPageUp, ' ': keyPageDown, 'g': keyHome, 'G': keyEnd,
	'o': keySort + key(ByOrder), 'n': keySort + key(ByName), 'r': keySort + key(ByRate),
	'e': keySort + key(ByErrors), 'l': keySort + key(ByLatency), 'f': keySort + key(ByInFlight),
}

// parseKeys returns the keys of what was read at once. What is not known is passed over, a sequence as a whole.
func parseKeys(input string) (keys []key) {
	for input != "" {
		k, n := firstKey(input)
		input = input[n:]
		if k != keyNone {
			keys = append(keys, k)
		}
	}

	return keys
}

// firstKey returns the first key and how long it is.
func firstKey(input string) (key, int) {
	for _, s := range sequences {
		if strings.HasPrefix(input, s.text) {
			return s.key, len(s.text)
		}
	}
	if !strings.HasPrefix(input, "\x1b[") {
		return characters[input[0]], 1
	}
	for i := 2; i < len(input); i++ {
		if input[i] >= 0x40 && input[i] <= 0x7e { // the final byte of a control sequence (ECMA-48, 5.4)
			return keyNone, i + 1
		}
	}

	return keyNone, len(input)
}
