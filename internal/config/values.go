// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// File is the path of a file. A relative one is relative to the directory of the
// configuration file, which the parser has put before it.
type File string

// Time is a time above 0, such as 5s.
type Time time.Duration

// OrNever is a time above 0, or negative for never.
type OrNever time.Duration

// Size is a number of bytes above 0, such as 4MiB.
type Size int64

// Count is a number above 0.
type Count int

// Ratio is a share from 0 to 1.
type Ratio float64

// Balance is how a call finds its endpoint.
type Balance string

// Values of Balance.
const (
	RoundRobin   Balance = "round_robin"
	LeastRequest Balance = "least_request"
	RingHash     Balance = "ring_hash"
)

// Deny is the code that a route answers with; empty for none.
type Deny string

// Values of Deny.
const (
	Unimplemented    Deny = "unimplemented"
	PermissionDenied Deny = "permission_denied"
)

// Endpoints are the endpoints of a backend, in their order.
type Endpoints []NamedEndpoint

// NamedEndpoint is an endpoint with a name, its address if the file gives no other.
type NamedEndpoint struct {
	Name string
	address.Endpoint
}

// Targets are the backends of a route: one, or several with weights.
type Targets []Target

// A scalar says how the text of a value is read into one type.
type scalar struct {
	parse    func(text string) (any, error)
	expected string   // completes "expected "
	pattern  string   // for the schema: a regular expression, empty for any text
	enum     []string // for the schema: all texts there are
}

// scalars is all types whose values are one text in the file, but for strings and numbers.
var scalars = map[reflect.Type]scalar{
	reflect.TypeFor[Time](): {
		parse:    func(s string) (any, error) { d, err := parseTime(s); return Time(d), err },
		expected: "a time above 0 such as 500ms, 5s or 1h30m", pattern: timePattern,
	},
	reflect.TypeFor[OrNever](): {
		parse:    func(s string) (any, error) { d, err := parseOrNever(s); return OrNever(d), err },
		expected: "a time above 0 such as 500ms, 5s or 1h30m, or never", pattern: timePattern + "|^never$",
	},
	reflect.TypeFor[Size](): {
		parse:    func(s string) (any, error) { return parseSize(s) },
		expected: "a number of bytes above 0 such as 65536, 64KiB or 4MiB", pattern: `^[0-9]+([KMG]iB|[kMG]?B)?$`,
	},
	reflect.TypeFor[Count](): {
		parse:    func(s string) (any, error) { return parseCount(s) },
		expected: "a whole number from 1 to 2147483647",
	},
	reflect.TypeFor[Ratio](): {
		parse:    func(s string) (any, error) { return parseRatio(s) },
		expected: "a share from 0 to 1 such as 0.01",
	},
	reflect.TypeFor[Percent](): {
		parse:    func(s string) (any, error) { return parsePercent(s) },
		expected: "a number above 0, at most 100, such as 10 or 0.5",
	},
	reflect.TypeFor[Balance](): {
		parse:    func(s string) (any, error) { return parseBalance(s) },
		expected: "round_robin, least_request or ring_hash", enum: []string{string(RoundRobin), string(LeastRequest), string(RingHash)},
	},
	reflect.TypeFor[Code](): {
		parse:    func(s string) (any, error) { return parseCode(s) },
		expected: "the name of a gRPC code such as UNAVAILABLE", enum: codeNames,
	},
	reflect.TypeFor[Mode](): {
		parse:    func(s string) (any, error) { return parseMode(s) },
		expected: `an octal mode from 0001 to 0777 such as "0660"`, pattern: `^0?[0-7]{3}$`,
	},
	reflect.TypeFor[Peer](): {
		parse:    func(s string) (any, error) { return parsePeer(s) },
		expected: "a network such as 10.0.0.0/8, an address, or unix",
	},
	reflect.TypeFor[Deny](): {
		parse:    func(s string) (any, error) { return parseDeny(s) },
		expected: "true, permission_denied or unimplemented", enum: []string{string(PermissionDenied), string(Unimplemented)},
	},
	reflect.TypeFor[Policy](): {
		parse: func(s string) (any, error) {
			if _, err := fanout.ParsePolicy(s); err != nil {
				return nil, errUnknown
			}
			return Policy(s), nil
		},
		expected: "all, any, quorum(k), primary(name) or best-effort", pattern: policyPattern,
	},
	reflect.TypeFor[Carrier](): {
		parse:    func(s string) (any, error) { return oneOf(Carrier(s), Concat, Envelope) },
		expected: "concat or envelope", enum: []string{string(Concat), string(Envelope)},
	},
	reflect.TypeFor[FailureCode](): {
		parse:    func(s string) (any, error) { return oneOf(FailureCode(s), MostFrequent, MostSevere) },
		expected: "most_frequent or most_severe", enum: []string{string(MostFrequent), string(MostSevere)},
	},
	reflect.TypeFor[Order](): {
		parse:    func(s string) (any, error) { return oneOf(Order(s), ByTarget, ByArrival) },
		expected: "target or arrival", enum: []string{string(ByTarget), string(ByArrival)},
	},
	reflect.TypeFor[Overflow](): {
		parse:    func(s string) (any, error) { return oneOf(Overflow(s), Wait, Drop) },
		expected: "wait or drop", enum: []string{string(Wait), string(Drop)},
	},
	reflect.TypeFor[LogLevel]():  wordOf[LogLevel](logLevels),
	reflect.TypeFor[LogFormat](): wordOf[LogFormat](logFormats),
	// The errors of package address say what they expected.
	reflect.TypeFor[address.Address](): {
		parse:    func(s string) (any, error) { return address.ParseListen(s) },
		expected: "host:port, :port, unix:///absolute/path, unix:relative/path or systemd:name",
	},
	reflect.TypeFor[address.Endpoint](): {
		parse:    func(s string) (any, error) { return address.ParseEndpoint(s) },
		expected: "host:port, https://host:port, unix:///absolute/path or unix:relative/path",
	},
}

// policyPattern is what fanout.ParsePolicy takes.
const policyPattern = `^(all|any|best-effort|quorum\([1-9][0-9]*\)|primary\(.+\))$`

// timePattern is what time.ParseDuration takes, without a sign.
const timePattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

var (
	errNotPositive = errors.New("not above 0")
	errUnknown     = errors.New("unknown value")
)

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, errors.New("not a time")
	case d <= 0:
		return 0, errNotPositive
	default:
		return d, nil
	}
}

func parseOrNever(text string) (time.Duration, error) {
	if text == "never" {
		return -1, nil
	}

	return parseTime(text)
}

// units of sizes: those of IEC 80000-13 and the powers of ten. The longer come first.
var units = []struct {
	name string
	size int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// maxSize is more than anyone can mean.
const maxSize = 1 << 40

func parseSize(text string) (Size, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		switch {
		case err != nil && !errors.Is(err, strconv.ErrRange):
			return 0, errors.New("not a size")
		case n <= 0:
			return 0, errNotPositive
		case err != nil || n > maxSize/u.size:
			return 0, errors.New("too large")
		default:
			return Size(n * u.size), nil
		}
	}
	panic("unreachable: the last unit is a suffix of every text")
}

func parseCount(text string) (Count, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, errors.New("not such a number")
	}
	if n == 0 {
		return 0, errNotPositive
	}

	return Count(n), nil
}

func parseRatio(text string) (Ratio, error) {
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil:
		return 0, errors.New("not a number")
	case !(f >= 0 && f <= 1): // not a number, NaN, too
		return 0, errors.New("out of range")
	}

	return Ratio(f), nil
}

// oneOf returns v if it is one of values.
func oneOf[T comparable](v T, values ...T) (T, error) {
	if slices.Contains(values, v) {
		return v, nil
	}
	var none T

	return none, errUnknown
}

func parseBalance(text string) (Balance, error) {
	if b := Balance(text); b == RoundRobin || b == LeastRequest || b == RingHash {
		return b, nil
	}

	return "", errUnknown
}

func parseDeny(text string) (Deny, error) {
	switch d := Deny(text); d {
	case "true":
		return PermissionDenied, nil
	case Unimplemented, PermissionDenied:
		return d, nil
	default:
		return "", errUnknown
	}
}

func number(n int) protowire.Number {
	// The parser lets nothing through that is no field number; beyond is as wrong as at the bound.
	return protowire.Number(min(n, math.MaxInt32))
}

// lists reports whether one of the names is that of a method, "/service/method".
func lists(names []string, fullMethod string) bool {
	method := fullMethod[strings.LastIndexByte(fullMethod, '/')+1:]

	return slices.Contains(names, fullMethod) || slices.Contains(names, method)
}

// layouts are those with a name; see package splice.
var layouts = map[string]Layout{
	"testservice": layoutOf(splice.TestserviceLayout()),
	"talos":       layoutOf(splice.TalosLayout()),
}

func layoutOf(l splice.Layout) Layout {
	return Layout{
		Element: int(l.Element), Metadata: int(l.Metadata), Hostname: int(l.Hostname),
		Error: int(l.Error), Status: int(l.Status), KeepEmpty: l.KeepEmpty,
	}
}
