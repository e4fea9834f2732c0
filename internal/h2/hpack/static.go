// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// staticLen is the number of entries of the static table; dynamic indexes
// follow on it.
const staticLen = 61

// static is the static table, with hashes. Index 0 is not in use.
var static = newStatic()

func newStatic() *[staticLen + 1]Field {
	t := new([staticLen + 1]Field)
	for i, f := range appendixA {
		t[i] = Prepare(f.Name, f.Value)
	}
	return t
}

// appendixA is the static table of RFC 7541 appendix A.
var appendixA = [staticLen + 1]Field{
	1:  {Name: ":authority"},
	2:  {Name: ":method", Value: "GET"},
	3:  {Name: ":method", Value: "POST"},
	4:  {Name: ":path", Value: "/"},
	5:  {Name: ":path", Value: "/index.html"},
	6:  {Name: ":scheme", Value: "http"},
	7:  {Name: ":scheme", Value: "https"},
	8:  {Name: ":status", Value: "200"},
	9:  {Name: ":status", Value: "204"},
	10: {Name: ":status", Value: "206"},
	11: {Name: ":status", Value: "304"},
	12: {Name: ":status", Value: "400"},
	13: {Name: ":status", Value: "404"},
	14: {Name: ":status", Value: "500"},
	15: {Name: "accept-charset"},
	16: {Name: "accept-encoding", Value: "gzip, deflate"},
	17: {Name: "accept-language"},
	18: {Name: "accept-ranges"},
	19: {Name: "accept"},
	20: {Name: "access-control-allow-origin"},
	21: {Name: "age"},
	22: {Name: "allow"},
	23: {Name: "authorization"},
	24: {Name: "cache-control"},
	25: {Name: "content-disposition"},
	26: {Name: "content-encoding"},
	27: {Name: "content-language"},
	28: {Name: "content-length"},
	29: {Name: "content-location"},
	30: {Name: "content-range"},
	31: {Name: "content-type"},
	32: {Name: "cookie"},
	33: {Name: "date"},
	34: {Name: "etag"},
	35: {Name: "expect"},
	36: {Name: "expires"},
	37: {Name: "from"},
	38: {Name: "host"},
	39: {Name: "if-match"},
	40: {Name: "if-modified-since"},
	41: {Name: "if-none-match"},
	42: {Name: "if-range"},
	43: {Name: "if-unmodified-since"},
	44: {Name: "last-modified"},
	45: {Name: "link"},
	46: {Name: "location"},
	47: {Name: "max-forwards"},
	48: {Name: "proxy-authenticate"},
	49: {Name: "proxy-authorization"},
	50: {Name: "range"},
	51: {Name: "referer"},
	52: {Name: "refresh"},
	53: {Name: "retry-after"},
	54: {Name: "server"},
	55: {Name: "set-cookie"},
	56: {Name: "strict-transport-security"},
	57: {Name: "transfer-encoding"},
	58: {Name: "user-agent"},
	59: {Name: "vary"},
	60: {Name: "via"},
	61: {Name: "www-authenticate"},
}

// staticSlots is the size of the hash tables over the static table: sparse, so
// that a field that is not in it mostly meets an empty slot.
const staticSlots = 256

// staticPairs and staticNames hold indexes of the static table by the hash of
// the pair and, for the first entry of each name, of the name. Collisions go to
// the next slot; 0 is an empty one.
var staticPairs, staticNames = newStaticSlots()

func newStaticSlots() (pairs, names *[staticSlots]uint8) {
	pairs, names = new([staticSlots]uint8), new([staticSlots]uint8)
	put := func(t *[staticSlots]uint8, h uint32, i int) {
		for t[h%staticSlots] != 0 {
			h++
		}
		t[h%staticSlots] = uint8(i)
	}
	for i := 1; i <= staticLen; i++ {
		put(pairs, static[i].hash, i)
		if name := static[i].Name; name != static[i-1].Name {
			put(names, nameHash(name), i)
		}
	}
	return pairs, names
}

// staticPair returns the static index of a field with its hash, or 0.
func staticPair(hash uint32, f *Field) uint32 {
	for h := hash; ; h++ {
		i := staticPairs[h%staticSlots]
		if i == 0 {
			return 0
		}
		if s := &static[i]; s.hash == hash && s.Value == f.Value && s.Name == f.Name {
			return uint32(i)
		}
	}
}

// staticName returns the first static index with the name, or 0.
func staticName(hash uint32, name string) uint32 {
	for h := hash; ; h++ {
		i := staticNames[h%staticSlots]
		if i == 0 || static[i].Name == name {
			return uint32(i)
		}
	}
}
