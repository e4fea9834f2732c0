// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/internal/status"
)

// A source tells the state of a daemon, with the points of histories after number since.
type source func(ctx context.Context, since uint64) (*status.Status, error)

const (
	askTimeout = 5 * time.Second
	mostOctets = 256 << 20 // of an answer: ten thousand routes with five minutes of history are below
)

// BaseURL returns the URL of an admin endpoint that a person names as host:port, :port or a URL.
func BaseURL(admin string) (string, error) {
	if !strings.Contains(admin, "://") {
		host, port, err := net.SplitHostPort(admin)
		if err != nil || port == "" {
			return "", errors.New("expected host:port, :port or http://host:port")
		}
		if host == "" {
			host = "127.0.0.1"
		}
		admin = "http://" + net.JoinHostPort(host, port)
	}
	u, err := url.Parse(admin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("expected host:port, :port or http://host:port")
	}

	return strings.TrimSuffix(admin, "/"), nil
}

// newSource returns the source of an admin endpoint. close is to be called in the end.
func newSource(base string) (ask source, closeIdle func()) {
	transport := &http.Transport{Proxy: nil, DialContext: (&net.Dialer{Timeout: askTimeout}).DialContext} // a proxy has no way to the loopback of here
	client := &http.Client{Transport: transport, Timeout: askTimeout}

	return func(ctx context.Context, since uint64) (*status.Status, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/status.json?since=%d", base, since), nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, unreachable(base, err)
		}
		defer resp.Body.Close() //nolint:errcheck // it was read
		body, err := io.ReadAll(io.LimitReader(resp.Body, mostOctets))
		if err != nil {
			return nil, unreachable(base, err)
		}

		return parse(base, resp.StatusCode, body)
	}, transport.CloseIdleConnections
}

// unreachable says why there is no answer, and what to do about it.
func unreachable(base string, err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nothing listens on %s: expected a daemon with admin.listen in its file, or --admin", strings.TrimPrefix(base, "http://"))
	}

	return fmt.Errorf("%s: no answer: %w", base, err)
}

// parse reads an answer.
func parse(base string, code int, body []byte) (*status.Status, error) {
	if code != http.StatusOK {
		return nil, fmt.Errorf("%s: expected the admin endpoint of manifold, it answers %d %s", base, code, clip(plain(strings.TrimSpace(string(body))), 200))
	}
	var s status.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("%s: expected the admin endpoint of manifold, its answer is something else: %w", base, err)
	}
	if s.Started.IsZero() || s.State == "" {
		return nil, fmt.Errorf("%s: expected the admin endpoint of manifold, its answer is something else", base)
	}

	return &s, nil
}
