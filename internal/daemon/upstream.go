// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

const (
	// connectTimeout is how long one attempt to connect may take.
	connectTimeout = 5 * time.Second
	// maxBackoff is the longest wait between two attempts, hence about how long
	// a backend that is back stays unused. grpc-go would wait for two minutes.
	maxBackoff = 5 * time.Second
)

// upstream is one endpoint: the connection to it, and what package proxy knows it
// by, a backend that forwards the caller's metadata.
type upstream struct {
	proxy.Upstream
	endpoint Endpoint
	log      *slog.Logger
	conn     *grpc.ClientConn

	stop    context.CancelFunc // ends watch
	tried   chan struct{}      // closed when the first attempt to connect has ended
	watched chan struct{}      // closed when watch has returned
}

var _ proxy.StateBackend = (*upstream)(nil)

// openUpstream returns an upstream that is connecting. Its owner closes it.
func openUpstream(e Endpoint, cfg pathConfig) (*upstream, error) {
	annotator, err := splice.New(cfg.fanOut.Layout, e.String())
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(e.target(), dialOptions(e, cfg)...)
	if err != nil {
		return nil, err
	}

	ctx, stop := context.WithCancel(context.Background())
	u := &upstream{
		Upstream: proxy.Upstream{Channel: conn, Name: e.String(), Annotator: annotator},
		endpoint: e,
		log:      cfg.log,
		conn:     conn,
		stop:     stop,
		tried:    make(chan struct{}),
		watched:  make(chan struct{}),
	}
	conn.Connect()
	go u.watch(ctx) // until close

	return u, nil
}

// target returns the endpoint in grpc-go's words.
func (e Endpoint) target() string {
	if e.Network == "unix" {
		return "unix:" + e.Addr
	}

	return "dns:///" + e.Addr
}

func dialOptions(e Endpoint, cfg pathConfig) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if e.TLS {
		creds = credentials.NewTLS(cfg.clientTLS)
	}
	backoffs := backoff.DefaultConfig
	backoffs.MaxDelay = maxBackoff

	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffs, MinConnectTimeout: connectTimeout}),
		// A name may stand for several addresses: use them all, and stay
		// connected to them.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithIdleTimeout(0),
		// Where calls go is decided by the configuration alone, not by TXT
		// records or by $HTTPS_PROXY.
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
}

// watch logs when the endpoint is lost and found, until ctx ends.
func (u *upstream) watch(ctx context.Context) {
	defer close(u.watched)

	const none = connectivity.Idle // of the states that are logged
	last := none
	for state := u.conn.GetState(); ; state = u.conn.GetState() {
		if state != last && (state == connectivity.Ready || state == connectivity.TransientFailure) {
			u.logState(state)
			if last == none {
				close(u.tried)
			}
			last = state
		}
		if !u.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (u *upstream) logState(state connectivity.State) {
	if state == connectivity.Ready {
		u.log.Info("backend connected", "endpoint", u.endpoint)
	} else {
		u.log.Warn("backend not reachable", "endpoint", u.endpoint)
	}
}

func (u *upstream) close() {
	u.stop()
	<-u.watched
	_ = u.conn.Close() // fails only if it is closed already
}
