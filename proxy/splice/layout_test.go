// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import "testing"

func TestNewRejects(t *testing.T) {
	const numbers = ", expected a field number from 1 to 536870911 outside 19000 to 19999"
	tests := []struct {
		name   string
		layout Layout
		source string
		want   string
	}{
		{"negative element", Layout{Element: -1}, "a", "splice: Layout.Element is -1" + numbers},
		{"metadata too large", Layout{Metadata: 1 << 29}, "a", "splice: Layout.Metadata is 536870912" + numbers},
		{"first reserved", Layout{Hostname: 19000}, "a", "splice: Layout.Hostname is 19000" + numbers},
		{"last reserved", Layout{Error: 19999}, "a", "splice: Layout.Error is 19999" + numbers},
		{"negative status", Layout{Status: -3}, "a", "splice: Layout.Status is -3" + numbers},
		{"hostname is error", Layout{Hostname: 2, Error: 2}, "a", "splice: Layout.Hostname and Layout.Error are both 2, expected different field numbers"},
		{"error is status", Layout{Hostname: 1, Error: 2, Status: 2}, "a", "splice: Layout.Error and Layout.Status are both 2, expected different field numbers"},
		{"no name", TalosLayout(), "", "splice: the name of the source is empty"},
		{"name not UTF-8", TalosLayout(), "n\xff", "splice: the name of the source is not valid UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := New(tt.layout, tt.source)
			if err == nil || err.Error() != tt.want || a != nil {
				t.Errorf("New = %v, %v\nwant error %s", a, err, tt.want)
			}
		})
	}
}

func TestNewAccepts(t *testing.T) {
	tests := []struct {
		name   string
		layout Layout
		want   Layout
	}{
		{"zero gets defaults", Layout{}, Layout{Element: 1, Metadata: 99}},
		{"element and metadata may share numbers with the rest", Layout{Element: 2, Metadata: 2, Hostname: 2, Error: 3},
			Layout{Element: 2, Metadata: 2, Hostname: 2, Error: 3}},
		{"the limits", Layout{Element: 1<<29 - 1, Metadata: 18999, Hostname: 20000}, Layout{Element: 1<<29 - 1, Metadata: 18999, Hostname: 20000}},
		{"test service", TestserviceLayout(), Layout{Element: 1, Metadata: 99, Hostname: 99, Error: 100}},
		{"Talos", TalosLayout(), Layout{Element: 1, Metadata: 1, Hostname: 1, Error: 2, Status: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := mustNew(t, tt.layout, "n")
			if a.layout != tt.want {
				t.Errorf("layout is %+v, want %+v", a.layout, tt.want)
			}
			if a.String() != "n" {
				t.Errorf("String() = %q, want %q", a, "n")
			}
		})
	}
}
