// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package child

import (
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// configured is what the role of the tests gets, and says hello with.
type configured struct {
	Text    string
	Threads int
}

func TestMain(m *testing.M) {
	if Run(map[string]Role{"double": double, "refuse": refuse}) {
		return
	}
	goleak.VerifyTestMain(m)
}

// double doubles numbers, but not 13.
func double(text json.RawMessage, s *Session) error {
	var c configured
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	c.Threads = runtime.GOMAXPROCS(0)
	return s.Serve(c, func(request json.RawMessage) (any, error) {
		var n int
		if err := json.Unmarshal(request, &n); err != nil {
			return nil, err
		}
		if n == 13 {
			return nil, errors.New("not 13")
		}
		return 2 * n, nil
	})
}

func refuse(json.RawMessage, *Session) error { return errors.New("refused") }

func TestChild(t *testing.T) {
	var hello configured
	c, err := Start(t.Context(), "double", configured{Text: "a\nb"}, 3, &hello)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	if hello.Text != "a\nb" || hello.Threads != 3 {
		t.Errorf("hello %+v, expected the configuration and 3 threads", hello)
	}
	if c.PID() == os.Getpid() {
		t.Error("the child is this process")
	}
	for _, n := range []int{1, 13, 20} {
		var got int
		err := c.Ask(n, &got)
		if n == 13 {
			if err == nil || err.Error() != "not 13" {
				t.Errorf("error %v, expected the child's", err)
			}
			continue
		}
		if err != nil || got != 2*n {
			t.Errorf("Ask(%d) = %d, %v", n, got, err)
		}
	}
}

// A child that ends by itself is an error, not a hang.
func TestChildThatEnds(t *testing.T) {
	for _, role := range []string{"refuse", "unknown"} {
		if _, err := Start(t.Context(), role, nil, 1, nil); err == nil || !strings.Contains(err.Error(), "process ended") {
			t.Errorf("%s: error %v, expected that the process ended", role, err)
		}
	}
}
