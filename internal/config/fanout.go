// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// FanOut sends a call to many targets. It has exactly one of Backend and Backends.
type FanOut struct {
	Backend  string   `yaml:"backend" doc:"The name of a backend: each of its endpoints is a target."`
	Backends []string `yaml:"backends" doc:"Names of backends, in place of backend: each is a target, and picks one of its endpoints."`

	Select          string `yaml:"select" doc:"The metadata key by which callers choose targets: names, separated by commas or in several values, or * for all. It is not forwarded. Names that are not those of targets are refused with PERMISSION_DENIED." default:"callers do not choose"`
	SelectRequired  bool   `yaml:"select_required" doc:"Whether to refuse calls that choose nothing with INVALID_ARGUMENT." default:"they go to all targets"`
	SelectRepeating bool   `yaml:"select_repeating" doc:"Whether a name given twice is two targets." default:"it is one"`

	SelectPatterns []string `yaml:"select_patterns" doc:"Addresses that callers may choose besides, although they are no endpoints of backend. A * stands for letters, digits, - and _, never for a dot or a colon, and for digits alone in an IP address: 10.5.0.*:50000. They are connected as the backend's endpoints are, when they are first chosen." default:"none"`

	Policy      Policy      `yaml:"policy" doc:"When a call has succeeded: all, any, quorum(k), primary(name) or best-effort. The last is OK when one target is, or when the layout has put all failures into the answer." default:"best-effort"`
	FailureCode FailureCode `yaml:"failure_code" doc:"The code of a call that failed, of those of its failed targets." default:"most_frequent"`
	Carrier     Carrier     `yaml:"carrier" doc:"How answers come back: concat joins those of unary methods and interleaves messages of streams; envelope wraps each in a manifold.fanout.v1.FanoutMessage, as a stream." default:"concat"`
	Summary     bool        `yaml:"summary" doc:"Whether to tell the outcome of each target in the trailers manifold-fanout-bin and manifold-fanout." default:"false"`

	SummaryBytes    Size `yaml:"summary_bytes" doc:"Size of the report in manifold-fanout-bin, before its encoding as base64. Of a larger one, headers and trailers of targets go first, then details and texts of statuses." default:"4KiB"`
	SummaryMetadata bool `yaml:"summary_metadata" doc:"Whether the report has the headers and trailers of each target." default:"false"`

	Layout      Layout   `yaml:"layout" doc:"Where in an answer its source, or an error in its place, is written: testservice, talos, or field numbers." default:"nowhere; under best-effort an error of one target fails the call"`
	Order       Order    `yaml:"order" doc:"The order in which answers of unary methods are joined." default:"target"`
	OrderBy     []string `yaml:"order_by" doc:"Makes one order of the messages of streams: paths of field numbers, such as 2.1, to the fields by which each target sorts its own. A message waits until all targets that have not ended have sent a later one." default:"messages go out as they come"`
	OrderWindow Count    `yaml:"order_window" doc:"How many messages order_by holds; then the first goes out although a silent target may still send an earlier one." default:"1024"`
	OrderBytes  Size     `yaml:"order_bytes" doc:"The same for their size." default:"4MiB"`

	Unary       []string `yaml:"unary" doc:"The unary methods, as names or as /service/method; all others stream."`
	Streaming   []string `yaml:"streaming" doc:"The methods that stream their responses, in place of unary; all others are unary."`
	Descriptors File     `yaml:"descriptors" doc:"A FileDescriptorSet that tells which methods stream their responses, as protoc --descriptor_set_out writes it; in place of the lists. Methods that it does not have stream." default:"without lists the first endpoint that has server reflection is asked; unknown methods stream"`

	ConnectTimeout Time    `yaml:"connect_timeout" doc:"Time to a connection with room for the call, for each target." default:"5s"`
	IdleTimeout    Time    `yaml:"idle_timeout" doc:"Time without anything from a target." default:"no limit"`
	TotalTimeout   Time    `yaml:"total_timeout" doc:"Time for a target's part in a call." default:"no limit"`
	Reserve        OrNever `yaml:"reserve" doc:"Time before the caller's deadline at which targets that still run have failed, so that what the others answered arrives." default:"a tenth of the caller's time, at most 250ms"`
	Hedge          Count   `yaml:"hedge" doc:"How many targets a call starts with; one is added each hedge_delay and when one fails." default:"all"`
	HedgeDelay     Time    `yaml:"hedge_delay" doc:"See hedge." default:"100ms"`

	LetFinish Time `yaml:"let_finish" doc:"How long the targets that a decided call needs no more may go on after the caller has its answer, those that wait for a connection too; its deadline still holds." default:"they are cancelled"`

	MaxTargets       Count    `yaml:"max_targets" doc:"Targets of a call." default:"128"`
	MaxTargetBytes   Size     `yaml:"max_target_bytes" doc:"Size of one target's answer to a unary method, and of each message of a stream; more has the target fail with RESOURCE_EXHAUSTED." default:"16MiB"`
	MaxMergedBytes   Size     `yaml:"max_merged_bytes" doc:"Size of what is held of all targets of a call; more ends it with RESOURCE_EXHAUSTED." default:"64MiB"`
	MaxMetadataBytes Size     `yaml:"max_metadata_bytes" doc:"Size of the headers of targets that are passed on to the caller, and of their trailers; those of later targets are left out." default:"8KiB, of trailers less what the status and the summary take"`
	MaxQueuedBytes   Size     `yaml:"max_queued_bytes" doc:"Size of the requests that wait for one slow target." default:"256KiB"`
	Overflow         Overflow `yaml:"overflow" doc:"What happens beyond max_queued_bytes: the caller has to wait, or drop has the target fail with RESOURCE_EXHAUSTED." default:"wait"`
	StallTimeout     Time     `yaml:"stall_timeout" doc:"Time for which others wait for a target that takes no request at all; then it has failed." default:"10s"`
}

// Policy is what fanout.ParsePolicy reads; empty for best-effort.
type Policy string

// Rule returns the policy.
func (p Policy) Rule() fanout.Policy {
	if rule, err := fanout.ParsePolicy(string(p)); err == nil {
		return rule
	}

	return fanout.BestEffort() // empty: the parser lets nothing else through
}

// Carrier is how answers reach the caller.
type Carrier string

// Values of Carrier; empty is Concat.
const (
	Concat   Carrier = "concat"
	Envelope Carrier = "envelope"
)

// FailureCode is how the code of a failed call is chosen.
type FailureCode string

// Values of FailureCode; empty is MostFrequent.
const (
	MostFrequent FailureCode = "most_frequent"
	MostSevere   FailureCode = "most_severe"
)

// Order is the order of joined answers.
type Order string

// Values of Order; empty is ByTarget.
const (
	ByTarget  Order = "target"
	ByArrival Order = "arrival"
)

// Overflow is what happens when too much waits for a target.
type Overflow string

// Values of Overflow; empty is Wait.
const (
	Wait Overflow = "wait"
	Drop Overflow = "drop"
)

// Lists reports whether the file itself says which methods stream.
func (f *FanOut) Lists() bool { return len(f.Unary) > 0 || len(f.Streaming) > 0 }

// Streams reports what the lists say of a method, "/service/method".
func (f *FanOut) Streams(fullMethod string) bool {
	if len(f.Streaming) > 0 {
		return lists(f.Streaming, fullMethod)
	}

	return !lists(f.Unary, fullMethod)
}

func (c *checker) fanOut(f *FanOut, path string) {
	if !c.broken[path] {
		c.fanOutBackends(f, path)
	}
	if len(f.Unary) > 0 && len(f.Streaming) > 0 {
		c.fail(path+".streaming", "streaming beside unary, expected one of them: it says what all other methods are")
	}
	if f.Lists() && f.Descriptors != "" {
		c.fail(path+".descriptors", "descriptors beside a list of methods, expected one of them")
	}
	c.methods(f.Unary, path+".unary")
	c.methods(f.Streaming, path+".streaming")
	if _, err := splice.New(f.Layout.Splice(), "source"); err != nil {
		c.fail(path+".layout", "%v", err)
	}
	if f.Carrier == Envelope && f.Layout != (Layout{}) {
		c.fail(path+".layout", "layout with the carrier envelope, expected none: an envelope names the source itself")
	}
	if f.SummaryBytes > 0 && !f.Summary {
		c.fail(path+".summary_bytes", "summary_bytes without summary, expected both")
	}
	if f.SummaryMetadata && !f.Summary {
		c.fail(path+".summary_metadata", "summary_metadata without summary, expected both")
	}
	c.selection(f, path)
	c.order(f, path)
	c.fanUseless(f, path)
	if p := f.Policy.Rule(); f.LetFinish > 0 && (p == fanout.All() || p == fanout.BestEffort()) {
		c.fail(path+".let_finish", "let_finish with policy %v, expected any, quorum(k) or primary(name): the others wait for all targets", p)
	}
	if f.HedgeDelay > 0 && f.Hedge == 0 {
		c.fail(path+".hedge_delay", "hedge_delay without hedge, expected both")
	}
}

// fanOutBackends checks what the targets are, and that the policy can be met by them.
func (c *checker) fanOutBackends(f *FanOut, path string) {
	switch {
	case f.Backend != "" && len(f.Backends) > 0:
		c.fail(path+".backends", "backends beside backend, expected one of them")
	case f.Backend == "" && len(f.Backends) == 0:
		c.fail(path, "no targets, expected backend or backends")
	case f.Backend != "":
		c.reference(f.Backend, path+".backend")
	}
	for i, name := range f.Backends {
		at := fmt.Sprintf("%s.backends[%d]", path, i)
		c.reference(name, at)
		if slices.Contains(f.Backends[:i], name) {
			c.fail(at, "backend %q is given twice, expected it once", name)
		}
	}
	targets := c.targetNames(f)
	if len(targets) == 0 || c.broken["backends"] {
		return
	}
	c.enough(f, path, len(targets))
	if f.Policy == "" || len(f.SelectPatterns) > 0 || f.SelectRepeating {
		return // callers may have targets that the file does not name, or have one more than once
	}
	if err := f.Policy.Rule().Check(targets); err != nil {
		c.fail(path+".policy", "policy %s for %d targets, expected one that can be met: %s", f.Policy, len(targets), strings.Join(targets, ", "))
	}
}

// targetNames returns the names of the targets.
func (c *checker) targetNames(f *FanOut) []string {
	if f.Backend == "" {
		return f.Backends
	}
	var names []string
	for _, e := range c.config.Backends[f.Backend].Endpoints {
		names = append(names, e.Name)
	}

	return names
}

// selection checks the key by which callers choose, and what.
func (c *checker) selection(f *FanOut, path string) {
	c.patterns(f, path)
	switch {
	case f.Select == "" && f.SelectRequired:
		c.fail(path+".select_required", "select_required without select, expected both")
	case f.Select == "" && f.SelectRepeating:
		c.fail(path+".select_repeating", "select_repeating without select, expected both")
	case f.Select != "" && (!goodHeader(f.Select) || strings.HasPrefix(f.Select, "grpc-") || strings.HasSuffix(f.Select, "-bin") || slices.Contains(ownHeaders, f.Select)):
		c.fail(path+".select", "metadata key %q, expected a name in lower case that holds text and that gRPC does not use", f.Select)
	}
}

// patterns checks the addresses that callers may choose.
func (c *checker) patterns(f *FanOut, path string) {
	switch {
	case len(f.SelectPatterns) > 0 && f.Select == "":
		c.fail(path+".select_patterns", "select_patterns without select, expected both")
	case len(f.SelectPatterns) > 0 && f.Backend == "":
		c.fail(path+".select_patterns", "select_patterns with backends, expected backend: addresses are connected as its endpoints are")
	}
	for i, p := range f.SelectPatterns {
		if e, err := address.ParseEndpoint(strings.ReplaceAll(p, "*", "1")); err != nil || e.Network != "tcp" || strings.Contains(p, ",") {
			c.fail(fmt.Sprintf("%s.select_patterns[%d]", path, i), "pattern %q, expected an address in which * stands for letters and digits, such as 10.5.0.*:50000", p)
		}
	}
}

// order checks what sorts the messages of streams.
func (c *checker) order(f *FanOut, path string) {
	switch {
	case len(f.OrderBy) == 0 && f.OrderWindow > 0:
		c.fail(path+".order_window", "order_window without order_by, expected both")
	case len(f.OrderBy) == 0 && f.OrderBytes > 0:
		c.fail(path+".order_bytes", "order_bytes without order_by, expected both")
	case len(f.OrderBy) > 0 && f.Carrier == Envelope:
		c.fail(path+".order_by", "order_by with the carrier envelope, expected one of them")
	}
	for i, p := range f.OrderBy {
		if _, err := fanout.FieldKey(p); err != nil {
			c.fail(fmt.Sprintf("%s.order_by[%d]", path, i), "%q, expected field numbers such as 3 or 2.1", p)
		}
	}
}

func (c *checker) methods(methods []string, path string) {
	for i, m := range methods {
		service, method, full := strings.Cut(strings.TrimPrefix(m, "/"), "/")
		if full != strings.HasPrefix(m, "/") || service == "" || full && (method == "" || strings.Contains(method, "/")) {
			c.fail(fmt.Sprintf("%s[%d]", path, i), "method %q, expected a name such as List or /shop.v1.Catalog/List", m)
		}
	}
}

// effects returns what becomes of a call, for people.
func (f *FanOut) effects() []string {
	var effects []string
	switch {
	case f.Backend != "" && f.Select == "":
		effects = append(effects, "goes to all endpoints of backend "+f.Backend)
	case f.Backend != "":
		effects = append(effects, fmt.Sprintf("goes to the endpoints of backend %s that metadata %s names", f.Backend, f.Select))
		if len(f.SelectPatterns) > 0 {
			effects = append(effects, "and to other addresses like "+strings.Join(f.SelectPatterns, ", "))
		}
	case f.Select == "":
		effects = append(effects, "goes to the backends "+strings.Join(f.Backends, ", "))
	default:
		effects = append(effects, fmt.Sprintf("goes to those of the backends %s that metadata %s names", strings.Join(f.Backends, ", "), f.Select))
	}
	carrier := "joined"
	if f.Carrier == Envelope {
		carrier = "in envelopes"
	}

	return append(effects, fmt.Sprintf("answers come %s, by policy %v", carrier, f.Policy.Rule()))
}
