// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/manifold-grpc/manifold/internal/status"
)

// View is how it is looked at.
type View struct {
	// Width is the columns there are; below 40 it counts as 40, and lines are cut off.
	Width int
	// Height is the lines there are. 0: all that is needed, and no footer.
	Height int
	// Colour is whether renditions are used.
	Colour bool
	Sort   Sort
	// Scroll is how many lines of the tables are passed over. Too many are as many as there are.
	Scroll int
	// Err is why the daemon does not tell any more; nil: it does.
	Err error
}

// Render returns the lines, without line ends, and how far they are scrolled. The model knows a status.
func Render(m *Model, v View) (lines []string, scrolled int) {
	width := max(v.Width, 40)
	top := header(m, v, width)
	body := tables(m, v, newColumns(width, m.Status))
	if v.Height > 0 {
		room := max(1, v.Height-len(top)-1)
		scrolled = min(max(0, v.Scroll), max(0, len(body)-room))
		rest := max(0, len(body)-room-scrolled)
		body = body[scrolled:min(len(body), scrolled+room)]
		for len(body) < room {
			body = append(body, line{})
		}
		body = append(body, footer(v, scrolled, rest))
	}
	for _, l := range append(top, body...) {
		lines = append(lines, l.string(max(1, v.Width), v.Colour))
	}
	if v.Height > 0 {
		lines = lines[:min(len(lines), v.Height)]
	}

	return lines, scrolled
}

// header returns what is always seen.
func header(m *Model, v View, width int) []line {
	s := m.Status
	var first line
	first.add(bold, "Manifold")
	first.add(normal, " "+s.Version+"  ")
	if s.State == "serving" {
		first.add(green, s.State)
	} else {
		first.add(yellow, s.State)
	}
	clock := s.Now.Format(time.TimeOnly)
	for _, text := range []string{
		"up " + span(s.Now.Sub(s.Started)), fmt.Sprintf("pid %d", s.Process.PID), fmt.Sprintf("%.2f cores", s.Process.CPU), size(float64(s.Process.Memory)),
	} {
		if first.len()+2+len(text)+2+len(clock) <= width {
			first.add(dim, "  "+text)
		}
	}
	first.right(dim, "  "+clock, width)

	lines := append([]line{first, totals(s, width)}, plots(m, width)...)
	lines = append(lines, alerts(s, v.Err)...)

	return append(lines, line{})
}

// totals returns the figures of all calls; those that do not fit are left out.
func totals(s *status.Status, width int) line {
	var l line
	add := func(st style, value, what string) {
		if l.len()+len([]rune(value+what))+4 > width {
			return
		}
		if len(l.spans) > 0 {
			l.add(normal, "   ")
		}
		l.add(st, value)
		l.add(dim, " "+what)
	}
	t := &s.Total
	e := share(t.ErrorRate, t.Rate)
	add(bold, rate(t.Rate), "calls/s")
	add(blame(e, bold), percent(e)+" %", "errors")
	add(bold, short(float64(t.InFlight)), "in flight")
	add(bold, seconds(t.P50), "p50")
	add(bold, seconds(t.P90), "p90")
	add(bold, seconds(t.P99), "p99")
	add(normal, size(float64(t.BytesIn))+"/s", "in")
	add(normal, size(float64(t.BytesOut))+"/s", "out")

	return l
}

// blame returns the style of a share of errors, st without any.
func blame(share float64, st style) style {
	switch {
	case share > 0.05:
		return red
	case share > 0:
		return yellow
	}

	return st
}

// plots returns the histories of all calls.
func plots(m *Model, width int) []line {
	const label, peak = 9, 14
	h := m.histories[""]
	room := min(width-label-peak, keep)
	var lines []line
	add := func(name string, st style, values []float64, highest func(float64) string) {
		values = values[max(0, len(values)-room):]
		top := 0.0
		for _, v := range values {
			top = max(top, orZero(v))
		}
		var l line
		l.left(dim, name, label)
		l.add(st, spark(values, room))
		l.right(dim, "max "+highest(top), width)
		lines = append(lines, l)
	}
	errors := pick(h, func(p status.Point) float32 { return p.Errors })
	add("calls/s", cyan, m.rates(""), func(v float64) string { return rate(status.Number(v)) })
	add("errors/s", red, errors, func(v float64) string { return rate(status.Number(v)) })
	add("p99", yellow, pick(h, func(p status.Point) float32 { return p.P99 }), func(v float64) string { return seconds(status.Number(v)) })

	return lines
}

func orZero(v float64) float64 {
	if v > 0 { // not NaN
		return v
	}

	return 0
}

// alerts returns what somebody should see to.
func alerts(s *status.Status, err error) (lines []line) {
	add := func(st style, text string) {
		var l line
		l.add(st, "! "+text)
		lines = append(lines, l)
	}
	if err != nil {
		add(red, "not reachable since "+s.Now.Format(time.TimeOnly)+": "+err.Error())
	}
	if s.State == "draining" {
		add(yellow, "The daemon is draining: it takes no new connections.")
	}
	if !s.Reload.OK {
		first, more, _ := strings.Cut(strings.TrimSpace(s.Reload.Error), "\n")
		if more != "" {
			first += fmt.Sprintf(" (and %d more)", strings.Count(more, "\n")+1)
		}
		add(red, "The last reload failed, what was there goes on: "+first)
	}
	for _, b := range s.Backends {
		if !b.Ready {
			add(red, "Backend "+b.Name+" has no endpoint that takes calls.")
		}
	}
	for _, c := range s.Certificates {
		switch days := left(s, c.NotAfter); {
		case days == 0:
			add(red, "Certificate "+c.Subject+" of frontend "+c.Frontend+" has expired.")
		case days < 7*24*time.Hour:
			add(red, "Certificate "+c.Subject+" of frontend "+c.Frontend+" expires in "+span(days)+".")
		}
	}
	const most = 5 // so that the tables are seen
	if len(lines) > most {
		var l line
		l.add(red, fmt.Sprintf("! %d more", len(lines)-most+1))
		lines = append(lines[:most-1], l)
	}

	return lines
}

// footer returns the keys.
func footer(v View, above, below int) line {
	l := line{fill: head}
	l.add(normal, " q quit   sort")
	for _, s := range []struct {
		by          Sort
		name, after string
	}{{ByOrder, "o", "rder"}, {ByName, "n", "ame"}, {ByRate, "r", "ate"}, {ByErrors, "e", "rrors"}, {ByLatency, "l", "atency"}, {ByInFlight, "f", "light"}} {
		text := " " + s.name + "·" + s.after
		if s.by == v.Sort {
			text = " [" + s.name + s.after + "]"
		}
		l.add(normal, text)
	}
	if above+below > 0 {
		l.add(normal, fmt.Sprintf("   ↑↓ scroll (%d above, %d below)", above, below))
	}

	return l
}

// columns are the places of a row: a name, a state, numbers at the right, and a plot.
type columns struct {
	name, state int
	numbers     []column
	trend       int // 0: no plot
}

// column is a number.
type column struct {
	title string
	width int
	of    func(*row) (style, string)
}

// numbers are all columns, those that are left out first at the right.
var numbers = []column{
	{"CALLS/S", 9, func(r *row) (style, string) { return normal, rate(r.rate) }},
	{"ERRORS", 8, func(r *row) (style, string) { return blame(r.errors, dim), percent(r.errors) + " %" }},
	{"FLIGHT", 8, func(r *row) (style, string) { return quiet(r.inFlight == 0), short(float64(r.inFlight)) }},
	{"P50", 9, func(r *row) (style, string) { return normal, r.p50 }},
	{"P99", 9, func(r *row) (style, string) { return normal, r.p99 }},
	{"CONNS", 7, func(r *row) (style, string) { return normal, r.connections }},
}

// newColumns returns what fits into a width: names, states and the rate always, the other numbers as there is room, and then longer
// texts and a plot.
func newColumns(width int, s *status.Status) columns {
	const leastTrend, mostTrend = 10, 60
	leastText := min(width-numbers[0].width, max(34, width*2/5))
	c := columns{}
	room := width - leastText
	for i, one := range numbers {
		if i > 0 && one.width > room {
			break
		}
		c.numbers, room = append(c.numbers, one), room-one.width
	}
	name, state := texts(s)
	spare := room - leastTrend - 2
	text := leastText
	if spare >= 0 {
		text += min(spare, max(0, name+state-leastText))
		c.trend = min(mostTrend, room+leastText-text-2)
	} else {
		text += max(0, room)
	}
	c.state = min(state, text*9/20)
	c.name = text - c.state

	return c
}

// texts returns the widths that the longest name and state want, a space after each included.
func texts(s *status.Status) (name, state int) {
	const mostState = 40
	want := func(n, st string) {
		name, state = max(name, utf8.RuneCountInString(n)+1), max(state, min(mostState, utf8.RuneCountInString(st))+1)
	}
	for i := range s.Frontends {
		want(s.Frontends[i].Name, frontendState(&s.Frontends[i]))
	}
	for i := range s.Routes {
		want(s.Routes[i].Match, "→ "+s.Routes[i].To)
	}
	for i := range s.Backends {
		b := &s.Backends[i]
		want(b.Name, backendState(b, len(b.Endpoints)))
		for j := range b.Endpoints {
			want(endpointName(&b.Endpoints[j]), "ready, healthy")
		}
	}

	return name, state
}

func quiet(yes bool) style {
	if yes {
		return dim
	}

	return normal
}

// row is a line of a table.
type row struct {
	name, state      string
	nameStyle, style style
	rate             status.Number
	errors           float64 // share
	inFlight         int64
	p50, p99         string
	connections      string
	trend            []float64
}

// line returns the row in its columns.
func (c *columns) line(r *row) line {
	var l line
	l.left(r.nameStyle, shorten(plain(r.name), c.name-1), c.name-1)
	l.add(normal, " ")
	l.left(r.style, r.state, c.state-1)
	l.add(normal, " ")
	end := c.name + c.state
	for _, n := range c.numbers {
		end += n.width
		st, text := n.of(r)
		l.right(st, text, end)
	}
	if c.trend > 0 && len(r.trend) > 0 {
		l.add(normal, "  ")
		l.add(cyan, spark(r.trend, c.trend))
	}

	return l
}

// title returns the head of a table.
func (c *columns) title(name, state string) line {
	l := line{fill: head}
	l.left(normal, name, c.name)
	l.left(normal, state, c.state)
	end := c.name + c.state
	for _, n := range c.numbers {
		end += n.width
		l.right(normal, n.title, end)
	}
	if c.trend > 0 {
		l.add(normal, "  "+clip(fmt.Sprintf("LAST %d S", c.trend), c.trend))
	}

	return l
}

// rowOf returns the row of an activity.
func rowOf(a *status.Activity) row {
	return row{rate: a.Rate, errors: share(a.ErrorRate, a.Rate), inFlight: a.InFlight, p50: seconds(a.P50), p99: seconds(a.P99), nameStyle: bold}
}

// tables returns what can be scrolled.
func tables(m *Model, v View, c columns) []line {
	s := m.Status
	lines := []line{c.title("BACKENDS", "STATE")}
	for _, b := range sorted(s.Backends, v.Sort, func(b *status.Backend) sortKey { return keyOf(b.Name, &b.Activity) }) {
		lines = append(lines, backendLines(m, v, c, &b)...)
	}
	lines = append(lines, line{}, c.title("FRONTENDS", "ADDRESS"))
	for _, f := range sorted(s.Frontends, v.Sort, func(f *status.Frontend) sortKey { return keyOf(f.Name, &f.Activity) }) {
		r := rowOf(&f.Activity)
		r.name, r.state, r.connections, r.trend = f.Name, frontendState(&f), short(float64(f.Connections)), m.rates(frontendKey+f.Name)
		lines = append(lines, c.line(&r))
	}
	lines = append(lines, line{}, c.title("ROUTES", "TO"))
	for _, one := range sorted(s.Routes, v.Sort, func(r *status.Route) sortKey { return keyOf(r.Match, &r.Activity) }) {
		r := rowOf(&one.Activity)
		r.name, r.nameStyle, r.state, r.trend = one.Match, normal, "→ "+one.To, m.rates(routeKey+one.Name)
		lines = append(lines, c.line(&r))
	}

	return lines
}

func frontendState(f *status.Frontend) string {
	if f.TLS {
		return f.Address + " TLS"
	}

	return f.Address
}

// backendLines returns a backend and its endpoints.
func backendLines(m *Model, v View, c columns, b *status.Backend) []line {
	up, connections := 0, 0
	for i := range b.Endpoints {
		if b.Endpoints[i].Usable {
			up++
		}
		connections += b.Endpoints[i].Connections
	}
	r := rowOf(&b.Activity)
	r.name, r.trend, r.connections = b.Name, m.rates(backendKey+b.Name), short(float64(connections))
	r.state, r.style = backendState(b, up), yellow
	switch {
	case !b.Ready:
		r.style = red
	case up == len(b.Endpoints):
		r.style = green
	}
	lines := []line{c.line(&r)}
	list := sorted(b.Endpoints, v.Sort, func(e *status.Endpoint) sortKey {
		return sortKey{name: e.Name, rate: float64(e.Rate), errors: float64(e.FailureRate), inFlight: float64(e.InFlight)}
	})
	for i := range list {
		lines = append(lines, endpointLines(m.Status, c, &list[i])...)
	}

	return lines
}

func backendState(b *status.Backend, up int) string {
	text := fmt.Sprintf("%d of %d ready", up, len(b.Endpoints))
	if b.Balance != "round_robin" {
		text += ", " + b.Balance
	}

	return text
}

// endpointLines returns an endpoint, and below it why it takes no calls.
func endpointLines(s *status.Status, c columns, e *status.Endpoint) []line {
	word, st := stateOf(s, e)
	name := endpointName(e)
	if utf8.RuneCountInString(name) >= c.name {
		name = "  " + e.Name // the address is the less telling part
	}
	r := row{
		name: name, state: word, style: st, rate: e.Rate, errors: share(e.FailureRate, e.Rate), inFlight: int64(e.InFlight),
		connections: short(float64(e.Connections)),
	}
	lines := []line{c.line(&r)}
	why := cmp.Or(e.Error, e.HealthReason)
	if e.State == "ready" {
		why = e.HealthReason
	}
	if !e.Usable && why != "" {
		var l line
		l.add(dim, "    "+why)
		lines = append(lines, l)
	}

	return lines
}

func endpointName(e *status.Endpoint) string {
	if e.Name == e.Address {
		return "  " + e.Name
	}

	return "  " + e.Name + " " + e.Address
}

// stateOf returns the state of an endpoint in a few words.
func stateOf(s *status.Status, e *status.Endpoint) (string, style) {
	switch {
	case e.Usable && e.Weight == 0:
		return "weight 0", dim
	case e.Usable && e.Health == "serving":
		return "ready, healthy", green
	case e.Usable:
		return e.State, green
	case e.State == "ready" && e.Health == "not serving":
		return e.Health, red
	case !e.Ejected.IsZero():
		return "ejected, " + span(left(s, e.Ejected)), red
	case e.State == "connecting":
		return e.State, yellow
	}

	return e.State, red
}
