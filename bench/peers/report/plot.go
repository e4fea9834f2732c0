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
	plotLeft   = 310 // where the axis begins; titles are left of it
	plotWidth  = 560 // of the axis
	plotTop    = 70  // legend and the axis' figures are above it
	plotRow    = 34
	plotMargin = 20
)

// colours are those of the proxies, in their order. They are told apart by colour-blind
// people too (the palette of Okabe and Ito).
var colours = [...]string{"#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// Plot returns an SVG: for each load a row, and on it a dot for each proxy where
// its cost is, in terms of the TCP forwarder's, with a line from the least to
// the most of the rounds. The axis is logarithmic.
func (r *Run) Plot() string {
	p := newPlot(r)
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
	run       *Run
	text      strings.Builder
	low, high float64 // ends of the axis: powers of two
	height    int
}

// newPlot finds the axis that all dots are on.
func newPlot(r *Run) *plot {
	p := &plot{run: r, low: 0.5, high: 2, height: plotTop + plotRow*len(r.Scenarios) + plotMargin}
	for _, s := range r.Scenarios {
		for _, c := range s.Cells {
			if v, ok := p.relative(s, c); ok {
				p.low = min(p.low, math.Exp2(math.Floor(math.Log2(v.Min))))
				p.high = max(p.high, math.Exp2(math.Ceil(math.Log2(v.Max))))
			}
		}
	}
	return p
}

// relative is a cell's cost in terms of the forwarder's or, if that was not measured,
// of the first proxy's.
func (p *plot) relative(s Scenario, c Cell) (Spread, bool) {
	base, ok := p.run.floor(s)
	if !ok {
		base = s.Cells[0]
	}
	v, ok := ratio(c, base, s.cost())
	return v, ok && v.Min > 0
}

func (p *plot) base() string {
	for _, proxy := range p.run.Proxies {
		if proxy.Floor {
			return proxy.Name
		}
	}
	return p.run.Proxies[0].Name
}

func (p *plot) x(v float64) float64 {
	return plotLeft + plotWidth*math.Log2(v/p.low)/math.Log2(p.high/p.low)
}

func (p *plot) frame() {
	width := plotLeft + plotWidth + 2*plotMargin
	fmt.Fprintf(&p.text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, p.height, width, p.height)
	fmt.Fprintf(&p.text, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, p.height)
	fmt.Fprintf(&p.text, `<text x="%d" y="18" font-size="14" font-weight="bold">Cost of the proxy, %s = 1</text>`+"\n", plotMargin, html.EscapeString(p.base()))
	for v := p.low; v <= p.high; v *= 2 {
		colour := "#dddddd"
		if v == 1 {
			colour = "#888888"
		}
		fmt.Fprintf(&p.text, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>`+"\n", p.x(v), p.x(v), plotTop-4, p.height-plotMargin, colour)
		fmt.Fprintf(&p.text, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%g</text>`+"\n", p.x(v), plotTop-10, v)
	}
}

func (p *plot) legend() {
	x := plotMargin
	for i, proxy := range p.run.Proxies {
		fmt.Fprintf(&p.text, `<circle cx="%d" cy="36" r="5" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", x+5, colours[i%len(colours)], x+15, html.EscapeString(proxy.Name))
		x += 30 + 8*len(proxy.Name)
	}
}

// row draws a load's title and dots. Each proxy has a height of its own within the row,
// so that dots and lines do not hide each other.
func (p *plot) row(s Scenario, y float64) {
	fmt.Fprintf(&p.text, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#eeeeee"/>`+"\n", plotMargin, plotLeft+plotWidth, y+plotRow/2, y+plotRow/2)
	title := s.Title
	if s.Idle {
		title += " (memory)"
	}
	fmt.Fprintf(&p.text, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft-12, y+4, html.EscapeString(title))
	step := float64(plotRow-10) / float64(max(1, len(s.Cells)-1))
	for i, c := range s.Cells {
		v, ok := p.relative(s, c)
		if !ok {
			continue
		}
		at := y - float64(plotRow-10)/2 + step*float64(i)
		colour := colours[i%len(colours)]
		fmt.Fprintf(&p.text, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-opacity="0.5"/>`, p.x(v.Min), p.x(v.Max), at, at, colour)
		fmt.Fprintf(&p.text, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%s: %.2f</title></circle>`+"\n", p.x(v.Median), at, colour, html.EscapeString(c.Proxy), v.Median)
	}
}
