// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Policy says when a call with many targets has succeeded. The zero value is [All].
type Policy struct {
	kind    policyKind
	quorum  int    // of policyQuorum
	primary string // of policyPrimary
}

type policyKind int

const (
	policyAll policyKind = iota
	policyAny
	policyQuorum
	policyPrimary
	policyBestEffort
)

// All succeeds when every target does.
func All() Policy { return Policy{} }

// Any succeeds with the first target that does.
func Any() Policy { return Policy{kind: policyAny} }

// Quorum succeeds with the k-th target that does. A call with fewer than k targets
// is refused, as is one with k below 1.
func Quorum(k int) Policy { return Policy{kind: policyQuorum, quorum: k} }

// Primary ends as the target of this name does. A call that does not have exactly one
// target of this name is refused.
func Primary(name string) Policy { return Policy{kind: policyPrimary, primary: name} }

// BestEffort succeeds when all targets have ended and one of them in OK. Two things are
// as the library has always had them: a hook that makes no message of an error fails
// the call (see [End.Veto]), and a call all of whose targets failed is OK if its answer
// tells of every failure (see [End.InAnswer]).
func BestEffort() Policy { return Policy{kind: policyBestEffort} }

// String returns the form that [ParsePolicy] reads.
func (p Policy) String() string {
	switch p.kind {
	case policyAny:
		return "any"
	case policyQuorum:
		return fmt.Sprintf("quorum(%d)", p.quorum)
	case policyPrimary:
		return fmt.Sprintf("primary(%s)", p.primary)
	case policyBestEffort:
		return "best-effort"
	default:
		return "all"
	}
}

// ParsePolicy reads "all", "any", "quorum(2)", "primary(name)" or "best-effort".
func ParsePolicy(s string) (Policy, error) {
	for _, p := range []Policy{All(), Any(), BestEffort()} {
		if s == p.String() {
			return p, nil
		}
	}
	word, argument, _ := strings.Cut(s, "(")
	argument, closed := strings.CutSuffix(argument, ")")
	switch {
	case closed && word == "quorum":
		if k, err := strconv.Atoi(argument); err == nil && k > 0 && argument == strconv.Itoa(k) {
			return Quorum(k), nil
		}
		return Policy{}, fmt.Errorf("fanout: policy %q: expected a whole number from 1 in the parentheses", s)
	case closed && word == "primary" && argument != "":
		return Primary(argument), nil
	}
	return Policy{}, fmt.Errorf("fanout: policy %q: expected all, any, quorum(k), primary(name) or best-effort", s)
}

// Check tells whether the policy makes sense for these targets, by their names. The
// error is a gRPC status: codes.Unavailable without any target, else
// codes.FailedPrecondition.
func (p Policy) Check(targets []string) error {
	n := len(targets)
	switch {
	case n == 0:
		return status.Error(codes.Unavailable, "fanout: the call has no targets")
	case p.kind == policyQuorum && (p.quorum < 1 || p.quorum > n):
		return status.Errorf(codes.FailedPrecondition, "fanout: policy %v cannot be met: the call has %d targets", p, n)
	case p.kind == policyPrimary:
		if found := count(targets, p.primary); found != 1 {
			return status.Errorf(codes.FailedPrecondition, "fanout: policy %v needs one target of this name: the call has %d", p, found)
		}
	}
	return nil
}

func count(names []string, name string) (n int) {
	for _, s := range names {
		if s == name {
			n++
		}
	}
	return n
}

// need is how many targets must end in OK, for the policies that count.
func (p Policy) need(targets int) int {
	switch p.kind {
	case policyAny:
		return 1
	case policyQuorum:
		return p.quorum
	default:
		return targets
	}
}

// primaryIndex returns the place of the primary target, or -1.
func (p Policy) primaryIndex(targets []string) int {
	if p.kind != policyPrimary {
		return -1
	}
	return slices.Index(targets, p.primary)
}
