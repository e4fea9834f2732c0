// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotLeft   = 430 // where the first axis begins; titles are left of it
	plotWidth  = 260 // of each axis
	plotGap    = 30  // between two
	plotTop    = 90  // legend and the axes' figures are above it
	plotRow    = 34
	plotMargin = 20
)

// colours are those of the proxies, in their order. They are told apart by colour-blind
// people too (the palette of Okabe and Ito).
var colours = [...]string{"#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// Plot returns an SVG: for each load a row, and on it three axes, for cost, throughput and
// p99. Each has a dot for each proxy, where the figure is in terms of the TCP
// forwarder's, with a line from the least to the most of the rounds. The axes are logarithmic.
func (r *Run) Plot() string {
	p := &plot{run: r, height: plotTop + plotRow*len(r.Scenarios) + plotMargin}
	for i, a := range []axis{
		{title: "cost", figure: func(s Scenario) func(Sample) float64 { return s.cost() }},
		{title: "throughput", figure: func(s Scenario) func(Sample) float64 { return when(s.closed(), rate) }},
		{title: "p99", figure: func(s Scenario) func(Sample) float64 { return when(s.calls(), p99) }},
	} {
		a.left = plotLeft + float64(i)*(plotWidth+plotGap)
		p.axes = append(p.axes, p.fit(a))
	}
	p.frame()
	p.legend()
	y := float64(plotTop + plotRow/2)
	for _, s := range r.Scenarios {
		p.row(s, y)
		y += plotRow
	}
	p.text.WriteString("</svg>\n")
	return p.text.String()
}

type plot struct {
	run    *Run
	text   strings.Builder
	axes   []axis
	height int
}

// axis is a figure for each load; nil where it has none.
type axis struct {
	title     string
	figure    func(Scenario) func(Sample) float64
	left      float64
	low, high float64 // its ends: powers of two
}

func when(is bool, figure func(Sample) float64) func(Sample) float64 {
	if !is {
		return nil
	}
	return figure
}

// fit makes all dots be on the axis.
func (p *plot) fit(a axis) axis {
	a.low, a.high = 0.5, 2
	for _, s := range p.run.Scenarios {
		for _, c := range s.Cells {
			if v, ok := p.relative(a, s, c); ok {
				a.low = min(a.low, math.Exp2(math.Floor(math.Log2(v.Min))))
				a.high = max(a.high, math.Exp2(math.Ceil(math.Log2(v.Max))))
			}
		}
	}
	return a
}

func (a axis) x(v float64) float64 {
	return a.left + plotWidth*math.Log2(v/a.low)/math.Log2(a.high/a.low)
}

// base is the cell that others are drawn in terms of: the forwarder's or, if that was not
// measured or is next to nothing, the first proxy's.
func (p *plot) base(s Scenario) Cell {
	first, _ := s.Cells[0].median(s.cost())
	if floor, ok := p.run.floor(s); ok {
		if m, ok := floor.median(s.cost()); ok && m*maxApart > first {
			return floor
		}
	}
	return s.Cells[0]
}

// maxApart is how far apart figures of an axis may be without most of it being empty.
const maxApart = 64

// relative is a cell's figure in terms of the base's.
func (p *plot) relative(a axis, s Scenario, c Cell) (Spread, bool) {
	figure := a.figure(s)
	if figure == nil {
		return Spread{}, false
	}
	v, ok := ratio(c, p.base(s), figure)
	return v, ok && v.Min > 0
}

func (p *plot) frame() {
	last := p.axes[len(p.axes)-1]
	width := int(last.left) + plotWidth + 2*plotMargin
	fmt.Fprintf(&p.text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, p.height, width, p.height)
	fmt.Fprintf(&p.text, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, p.height)
	base := p.run.Proxies[0].Name
	for _, proxy := range p.run.Proxies {
		if proxy.Floor {
			base = proxy.Name
		}
	}
	fmt.Fprintf(&p.text, `<text x="%d" y="18" font-size="14" font-weight="bold">Cost, throughput and p99 of each proxy, %s = 1</text>`+"\n", plotMargin, html.EscapeString(base))
	for _, a := range p.axes {
		p.scale(a)
	}
}

// scale draws an axis' lines and figures, of which there is room for about eight.
func (p *plot) scale(a axis) {
	fmt.Fprintf(&p.text, `<text x="%.1f" y="60" font-weight="bold" text-anchor="middle">%s</text>`+"\n", a.left+plotWidth/2, a.title)
	step := math.Exp2(math.Ceil(math.Log2(a.high/a.low) / 8))
	for v := 1.0; v >= a.low; v /= step {
		p.line(a, v)
	}
	for v := step; v <= a.high; v *= step {
		p.line(a, v)
	}
}

func (p *plot) line(a axis, v float64) {
	colour := "#dddddd"
	if v == 1 {
		colour = "#888888"
	}
	fmt.Fprintf(&p.text, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>`+"\n", a.x(v), a.x(v), plotTop-4, p.height-plotMargin, colour)
	fmt.Fprintf(&p.text, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%s</text>`+"\n", a.x(v), plotTop-10, power(v))
}

// power is a power of two as people read it.
func power(v float64) string {
	if v < 1 {
		return fmt.Sprintf("1/%.0f", 1/v)
	}
	return fmt.Sprintf("%.0f", v)
}

func (p *plot) legend() {
	x := plotMargin
	for i, proxy := range p.run.Proxies {
		fmt.Fprintf(&p.text, `<circle cx="%d" cy="36" r="5" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", x+5, colours[i%len(colours)], x+15, html.EscapeString(proxy.Name))
		x += 30 + 8*len(proxy.Name)
	}
}

// row draws a load's title and dots.
func (p *plot) row(s Scenario, y float64) {
	right := p.axes[len(p.axes)-1].left + plotWidth
	fmt.Fprintf(&p.text, `<line x1="%d" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#eeeeee"/>`+"\n", plotMargin, right, y+plotRow/2, y+plotRow/2)
	title := s.Title
	switch s.Cost {
	case CostIdle, CostWaiting:
		title += " (memory)"
	case CostOthers:
		title += " (rise of p99)"
	}
	if floor, ok := p.run.floor(s); ok && p.base(s).Proxy != floor.Proxy {
		title += " (" + p.base(s).Proxy + " = 1)"
	}
	fmt.Fprintf(&p.text, `<text x="%d" y="%.1f" text-anchor="end" font-size="11">%s</text>`+"\n", plotLeft-12, y+4, html.EscapeString(title))
	for _, a := range p.axes {
		p.dots(a, s, y)
	}
}

// dots draws those of an axis. Each proxy has a height of its own within the row, so that
// dots and lines do not hide each other.
func (p *plot) dots(a axis, s Scenario, y float64) {
	step := float64(plotRow-10) / float64(max(1, len(s.Cells)-1))
	for i, c := range s.Cells {
		v, ok := p.relative(a, s, c)
		if !ok {
			continue
		}
		at := y - float64(plotRow-10)/2 + step*float64(i)
		colour := colours[i%len(colours)]
		fmt.Fprintf(&p.text, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-opacity="0.5"/>`, a.x(v.Min), a.x(v.Max), at, at, colour)
		fmt.Fprintf(&p.text, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s, %s: %.2f</title></circle>`+"\n", a.x(v.Median), at, colour, html.EscapeString(c.Proxy), a.title, v.Median)
	}
}
