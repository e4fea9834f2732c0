// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
)

// srvScheme is that of targets that are names of SRV records: srv:///_grpc._tcp.example.com.
const srvScheme = "srv"

// lookup is what is needed of a net.Resolver.
type lookup interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
}

var _ lookup = (*net.Resolver)(nil)

// srvBuilder makes resolvers of SRV records (RFC 2782): the addresses of all hosts of the lowest priority, with
// their ports, and the weights of the records. grpc-go's own resolver of dns has no SRV but for a balancer of old.
type srvBuilder struct{ dns lookup }

var _ resolver.Builder = srvBuilder{}

// Scheme returns "srv".
func (srvBuilder) Scheme() string { return srvScheme }

// Build starts a resolver.
func (s srvBuilder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	r := &srvResolver{dns: s.dns, name: target.Endpoint(), cc: cc, wanted: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.running.Go(func() { r.run(ctx) }) // ends with Close

	return r, nil
}

// srvResolver looks up one name.
type srvResolver struct {
	dns     lookup
	name    string
	cc      resolver.ClientConn
	wanted  chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup
}

// ResolveNow has the name looked up again, but not before srvPause after the last time.
func (r *srvResolver) ResolveNow(resolver.ResolveNowOptions) { poke(r.wanted) }

// Close ends the resolver, and returns when nothing of it runs.
func (r *srvResolver) Close() {
	r.stop()
	r.running.Wait()
}

const (
	// srvPause is the least time between two look-ups, as that of grpc-go's dns.
	srvPause = 30 * time.Second
	// srvRetry is the time to the next one after a failure.
	srvRetry = 5 * time.Second
	// srvTimeout bounds one.
	srvTimeout = 10 * time.Second
)

// run looks the name up at once and whenever it is wanted.
func (r *srvResolver) run(ctx context.Context) {
	for ctx.Err() == nil {
		addrs, err := r.lookup(ctx)
		if err == nil {
			err = r.cc.UpdateState(resolver.State{Addresses: addrs})
		} else if ctx.Err() == nil {
			r.cc.ReportError(err)
		}
		if err != nil {
			sleep(ctx, srvRetry)
			continue
		}
		sleep(ctx, srvPause)
		select {
		case <-ctx.Done():
		case <-r.wanted:
		}
	}
}

// weightKey is the attribute of an address that has the weight of its record.
type weightKey struct{}

// lookup returns the addresses.
func (r *srvResolver) lookup(ctx context.Context) ([]resolver.Address, error) {
	ctx, cancel := context.WithTimeout(ctx, srvTimeout)
	defer cancel()
	_, records, err := r.dns.LookupSRV(ctx, "", "", r.name)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("no SRV record of %s", r.name)
	}
	lowest := records[0].Priority
	for _, record := range records {
		lowest = min(lowest, record.Priority)
	}
	var addrs []resolver.Address
	var missing error
	for _, record := range records {
		if record.Priority != lowest {
			continue
		}
		hosts, err := r.dns.LookupHost(ctx, record.Target)
		if none, ok := errors.AsType[*net.DNSError](err); ok && none.IsNotFound {
			missing = err // a host that is gone is no reason to do without the others
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, host := range hosts {
			addrs = append(addrs, resolver.Address{
				Addr:       net.JoinHostPort(host, strconv.Itoa(int(record.Port))),
				ServerName: strings.TrimSuffix(record.Target, "."),
				// RFC 2782: a weight of 0 is for where there is nothing to choose, else a very small one.
				Attributes: attributes.New(weightKey{}, max(int(record.Weight), 1)),
			})
		}
	}

	if len(addrs) == 0 && missing != nil {
		return nil, missing
	}

	return addrs, nil
}
