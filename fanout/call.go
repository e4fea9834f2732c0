// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// State is how far a call is decided.
type State int

const (
	// Pending means that the targets that still run decide.
	Pending State = iota
	// Met means that the policy is met: the call is OK whatever the others do.
	Met
	// Doomed means that nothing can meet the policy any more.
	Doomed
)

// String returns the name in lower case.
func (s State) String() string { return [...]string{"pending", "met", "doomed"}[s] }

// End is how one target ended.
type End struct {
	// Status is the target's, or what was made of its failure; nil is OK.
	Status *status.Status
	// InAnswer says that the answer tells the caller of the failure, as a message that
	// a hook made of it. It matters to [BestEffort] alone.
	InAnswer bool
	// Veto says that a hook wants the call to fail because of this failure. It
	// matters to [BestEffort] alone.
	Veto bool
	// Cancelled says that the target was stopped because the call no longer needed it,
	// so that its status says nothing of it.
	Cancelled bool
}

// Decision is what is known after an event.
type Decision struct {
	State State
	// Final says that no later event changes [Call.Status].
	//
	// A call that is met is final. One that is doomed is so, under most policies, only
	// when all targets have ended, because its status names all that failed: who
	// does not wait for that lets the order of arrival into the status.
	Final bool
	// Cancel lists the targets that still run although the call is decided, in their
	// order. Those of a final decision are no longer of use to the caller. It is nil
	// while the call is pending.
	Cancel []int
}

// Call decides one call. Its owner reports the end of each target with [Call.End]. It must
// be made by [NewCall], and used by one goroutine at a time.
type Call struct {
	policy  Policy
	rule    CodeRule
	targets []string
	primary int // index, or -1

	ends []targetEnd // as many as targets
	few  [8]targetEnd

	// ok + failed + cancelled is the number of those that have ended.
	ok, failed, cancelled int

	vetoed bool // a failed target's hook wants the call to fail
	untold bool // there is a failure that the answer does not tell of
}

// targetEnd is what is known of one target.
type targetEnd struct {
	End
	ended bool
}

// NewCall begins a call to targets, by their names. It keeps the slice, which must not change. The error
// is that of [Policy.Check].
func NewCall(policy Policy, rule CodeRule, targets []string) (*Call, error) {
	if err := policy.Check(targets); err != nil {
		return nil, err
	}
	c := &Call{policy: policy, rule: rule, targets: targets, primary: policy.primaryIndex(targets)}
	if n := len(targets); n <= len(c.few) {
		c.ends = c.few[:n]
	} else {
		c.ends = make([]targetEnd, n)
	}
	return c, nil
}

// End takes the end of the target at index and returns what is now decided. The first
// end of a target counts; later ones change nothing.
func (c *Call) End(index int, e End) Decision {
	if !c.ends[index].ended {
		c.ends[index] = targetEnd{End: e, ended: true}
		switch {
		case e.Cancelled:
			c.cancelled++
		case e.Status.Code() == codes.OK:
			c.ok++
		default:
			c.failed++
			c.vetoed = c.vetoed || e.Veto
			c.untold = c.untold || !e.InAnswer
		}
	}
	return c.Decision()
}

// Decision returns what is decided by now.
func (c *Call) Decision() Decision {
	d := Decision{State: c.state()}
	if d.State == Pending {
		return d
	}
	for i := range c.ends {
		if !c.ends[i].ended {
			d.Cancel = append(d.Cancel, i)
		}
	}
	d.Final = d.State == Met || c.policy.kind == policyPrimary || len(d.Cancel) == 0
	return d
}

func (c *Call) state() State {
	switch c.policy.kind {
	case policyPrimary:
		return c.primaryState()
	case policyBestEffort:
		return c.bestEffortState()
	}
	need := c.policy.need(len(c.targets))
	switch {
	case c.ok >= need:
		return Met
	case c.failed+c.cancelled > len(c.targets)-need:
		return Doomed
	}
	return Pending
}

func (c *Call) primaryState() State {
	e := c.ends[c.primary]
	switch {
	case !e.ended:
		return Pending
	case e.Cancelled || e.Status.Code() != codes.OK:
		return Doomed
	}
	return Met
}

func (c *Call) bestEffortState() State {
	switch {
	case c.vetoed:
		return Doomed
	case c.ok+c.failed+c.cancelled < len(c.targets):
		return Pending
	case c.ok > 0, c.failed > 0 && !c.untold:
		return Met
	}
	return Doomed
}

// Status returns the status of the call if it ends now. It is never nil, and OK only if the
// policy is met.
//
// The code follows from those of the failed targets by the call's [CodeRule]; the
// message is one line of about 2 KiB at most that names the policy and at most 10 failed targets, and the
// details are those of the failed targets' statuses as far as 4 KiB, less beside a long message, take them, both in the order of
// the targets. Under [Primary] the primary alone counts. The status of a call to a
// single target is that target's.
func (c *Call) Status() *status.Status {
	if c.state() == Met {
		return met
	}
	failures := c.failures()
	switch {
	case len(failures) == 0:
		return status.Newf(codes.Canceled, "fanout: policy %v: the call ended before it was decided", c.policy)
	case len(c.targets) == 1:
		return failures[0].status
	}
	return verdict(c.policy, c.rule, failures, len(c.targets), c.cancelled+c.running())
}

// met is the status of all calls whose policy is met: it cannot be changed.
var met = status.New(codes.OK, "")

// Counts returns how many targets ended in OK, in another status, and not on their own.
func (c *Call) Counts() (ok, failed, cancelled int) { return c.ok, c.failed, c.cancelled }

func (c *Call) running() int { return len(c.targets) - c.ok - c.failed - c.cancelled }

// failures returns the failed targets that decide the call's status.
func (c *Call) failures() []failure {
	var found []failure
	for i, e := range c.ends {
		if e.ended && !e.Cancelled && e.Status.Code() != codes.OK {
			found = append(found, failure{c.targets[i], e.Status})
		}
	}
	if c.primary < 0 {
		return found
	}
	e := c.ends[c.primary]
	if !e.ended || e.Cancelled {
		return nil
	}
	return []failure{{c.targets[c.primary], e.Status}}
}
