// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/methodkind"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

// fanRoute sends the calls of a route to many targets.
type fanRoute struct {
	// Immutable.
	cfg              *config.FanOut
	layout           splice.Layout
	unary, streaming *relay.FanOut
	upstreams        []*upstream.Backend // one, whose endpoints are the targets; or the targets
	guard            fanout.Guard
	streams          func(fullMethod string) bool // nil: the reflector knows
	reflector        *reflector

	targets atomic.Pointer[targetSet]
}

// targetSet is the targets there are, made of the endpoints of one moment. It does not change.
type targetSet struct {
	each    []upstream.Single
	targets []relay.Target
	names   []string
	index   map[string]int
}

// newFanRoute returns a route of r to the upstreams.
func newFanRoute(r *routePlan, upstreams []*upstream.Backend, guard fanout.Guard) (*fanRoute, error) {
	f := &fanRoute{cfg: r.FanOut, layout: r.layout, upstreams: upstreams, guard: guard, streams: r.streams}
	f.unary = fanOutOf(r.FanOut)
	f.streaming = fanOutOf(r.FanOut)
	f.streaming.Streaming = true
	if _, err := f.current(); err != nil {
		return nil, err
	}

	return f, nil
}

// fanOutOf returns the configuration in the engine's terms; zero is the default in both.
func fanOutOf(c *config.FanOut) *relay.FanOut {
	f := &relay.FanOut{
		Policy:         c.Policy.Rule(),
		Envelope:       c.Carrier == config.Envelope,
		Summary:        c.Summary,
		Report:         fanout.ReportLimits{MaxBytes: int(c.SummaryBytes), Metadata: c.SummaryMetadata},
		ByArrival:      c.Order == config.ByArrival,
		ConnectTimeout: time.Duration(c.ConnectTimeout),
		IdleTimeout:    time.Duration(c.IdleTimeout),
		TotalTimeout:   time.Duration(c.TotalTimeout),
		Reserve:        time.Duration(c.Reserve),
		Hedge:          int(c.Hedge),
		HedgeDelay:     time.Duration(c.HedgeDelay),
		LetFinish:      time.Duration(c.LetFinish),
		OrderWindow:    int(c.OrderWindow),
		OrderBytes:     int(c.OrderBytes),
		Limits: relay.FanLimits{
			Targets:       int(c.MaxTargets),
			TargetBytes:   int(c.MaxTargetBytes),
			MergedBytes:   int(c.MaxMergedBytes),
			MetadataBytes: int(c.MaxMetadataBytes),
			QueuedBytes:   int(c.MaxQueuedBytes),
			DropSlow:      c.Overflow == config.Drop,
			StallTimeout:  time.Duration(c.StallTimeout),
		},
	}
	if len(c.OrderBy) > 0 {
		f.OrderKey, _ = fanout.FieldKey(c.OrderBy...) // the parser lets no other paths through
	}
	if c.FailureCode == config.MostSevere {
		f.CodeRule = fanout.MostSevere
	}

	return f
}

// current returns the targets of now. Its error is about names that no layout can hold.
func (f *fanRoute) current() (*targetSet, error) {
	known := f.targets.Load()
	each := f.each(known)
	if known != nil && same(known.each, each) {
		return known, nil
	}
	set := &targetSet{each: each, index: make(map[string]int, len(each))}
	for i, e := range each {
		t, err := f.target(e)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", e.Name, err)
		}
		set.targets, set.names = append(set.targets, t), append(set.names, e.Name)
		set.index[e.Name] = i
	}
	f.targets.Store(set)

	return set, nil
}

// target returns a target of a call.
func (f *fanRoute) target(e upstream.Single) (relay.Target, error) {
	t := relay.Target{Name: e.Name, Backend: e.Relay}
	if f.layout == (splice.Layout{}) {
		return t, nil
	}
	annotator, err := splice.New(f.layout, e.Name)
	if err == nil {
		t.Annotator = annotator
	}

	return t, err
}

// each returns what the targets are made of.
func (f *fanRoute) each(known *targetSet) []upstream.Single {
	switch {
	case f.cfg.Backend != "":
		return f.upstreams[0].Each()
	case known != nil:
		return known.each // backends stay the same
	}
	var each []upstream.Single
	for _, b := range f.upstreams {
		each = append(each, upstream.Single{Name: b.Name(), Relay: b.Relay()})
	}

	return each
}

// same reports whether two slices of Each are of one moment.
func same(a, b []upstream.Single) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// begin finds the targets of a call, before its headers are changed. It rejects the call and returns false if there
// are none for it.
func (f *fanRoute) begin(c *relay.Call) ([]relay.Target, bool) {
	via, err := f.guard.Enter(metadataOf(c, fanout.ViaKey))
	if err == nil {
		c.SetHeader(fanout.ViaKey, via)
		var targets []relay.Target
		if targets, err = f.choose(c); err == nil {
			if f.cfg.Select != "" {
				c.DelHeader(f.cfg.Select) // targets that know the key would choose once more
			}
			return targets, true
		}
	}
	reason := reasonTargets
	if status.Code(err) == codes.Unavailable {
		reason = relay.ReasonNoEndpoint
	}
	rejectWith(c, status.Convert(err), reason)

	return nil, false
}

// reasonTargets is the reason of calls whose targets were refused.
const reasonTargets = "FAN_OUT_TARGETS"

// choose returns the targets that the caller asks for.
func (f *fanRoute) choose(c *relay.Call) ([]relay.Target, error) {
	set, err := f.current()
	if err != nil {
		return nil, err
	}
	switch {
	case len(set.targets) == 0 && len(f.cfg.SelectPatterns) == 0: // no name is known, so that none can be refused
		return nil, status.Error(codes.Unavailable, f.upstreams[0].Unavailable().Error())
	case f.cfg.Select == "":
		return set.targets, nil
	}
	selection := fanout.Selection{
		Key: f.cfg.Select, Known: set.names, Patterns: f.cfg.SelectPatterns, MaxTargets: int(f.cfg.MaxTargets),
		Required: f.cfg.SelectRequired, Repeated: f.cfg.SelectRepeating,
	}
	names, err := selection.Select(metadataOf(c, f.cfg.Select))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 { // all of none
		return nil, status.Error(codes.Unavailable, f.upstreams[0].Unavailable().Error())
	}
	targets := make([]relay.Target, len(names))
	for i, name := range names {
		if at, known := set.index[name]; known {
			targets[i] = set.targets[at]
		} else if targets[i], err = f.named(name); err != nil {
			return nil, err
		}
	}

	return targets, nil
}

// named returns the target at an address that a pattern lets callers name.
func (f *fanRoute) named(address string) (relay.Target, error) {
	e, err := f.upstreams[0].Named(address)
	switch {
	case errors.Is(err, upstream.ErrTooManyExtras):
		return relay.Target{}, status.Errorf(codes.ResourceExhausted, "target %.64q: %v", address, err)
	case errors.Is(err, upstream.ErrClosed):
		return relay.Target{}, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return relay.Target{}, status.Errorf(codes.InvalidArgument, "target %.64q: %v", address, err)
	}
	t, err := f.target(e)
	if err != nil {
		return t, status.Errorf(codes.InvalidArgument, "target %.64q: %v", address, err)
	}

	return t, nil
}

// metadataOf returns one key of a call's metadata.
func metadataOf(c *relay.Call, key string) metadata.MD {
	var md metadata.MD
	for name, value := range c.Headers() {
		if name == key {
			if md == nil {
				md = metadata.MD{}
			}
			md[key] = append(md[key], value)
		}
	}

	return md
}

// send sends the call to the targets, at once or when it is known whether its method streams.
func (f *fanRoute) send(c *relay.Call, targets []relay.Target) {
	if f.streams != nil {
		f.sendAs(c, targets, f.streams(c.Path()))
		return
	}
	f.reflector.ask(c.Service(), c.Path(), func(streams bool) { f.sendAs(c, targets, streams) })
}

func (f *fanRoute) sendAs(c *relay.Call, targets []relay.Target, streams bool) {
	if streams {
		c.FanOut(f.streaming, targets)
	} else {
		c.FanOut(f.unary, targets)
	}
}

// kinds returns what the file says of the kinds of a route's methods; nil: nothing.
func kinds(f *config.FanOut) (func(fullMethod string) bool, error) {
	if f.Lists() {
		return f.Streams, nil
	}
	if f.Carrier == config.Envelope {
		return func(string) bool { return true }, nil // no matter
	}
	if f.Descriptors == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(string(f.Descriptors))
	if err != nil {
		return nil, err
	}
	set, err := methodkind.Read(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Descriptors, err)
	}

	return func(fullMethod string) bool { return streamsBy(set, fullMethod) }, nil
}
