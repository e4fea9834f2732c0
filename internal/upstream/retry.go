// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// retryPolicy is a policy of gRFC A6.
type retryPolicy struct {
	attempts   int
	codes      uint32 // a bit for each code
	first, top time.Duration
}

// policyOf returns the policy with its defaults, nil for none.
func policyOf(r *config.Retry) *retryPolicy {
	if r == nil {
		return nil
	}
	p := &retryPolicy{
		attempts: int(or(r.MaxAttempts, 3)),
		first:    or(time.Duration(r.InitialBackoff), 50*time.Millisecond),
		top:      or(time.Duration(r.MaxBackoff), time.Second),
	}
	for _, code := range r.Codes {
		p.codes |= 1 << code
	}
	if len(r.Codes) == 0 {
		p.codes = 1 << codes.Unavailable
	}

	return p
}

// has reports whether the code is one to retry.
func (p *retryPolicy) has(code codes.Code) bool { return code < 32 && p.codes&(1<<code) != 0 }

// pause returns the pause after a number of retries; jitter is from 0 to 1.
func (p *retryPolicy) pause(retries int, jitter float64) time.Duration {
	d := min(p.first<<min(retries, 20), p.top)

	return time.Duration(float64(d) * (0.8 + 0.4*jitter))
}

// budget is the tokens of gRFC A6's retry throttling, in hundredths. The zero value is off.
type budget struct {
	tokens, most, ratio atomic.Int64
}

// set makes the budget that of r, and fills it.
func (t *budget) set(r *config.Retry) {
	if r == nil {
		t.most.Store(0)
		return
	}
	most := int64(or(r.Budget.MaxTokens, 10)) * 100
	t.ratio.Store(int64(or(r.Budget.TokenRatio, 10)))
	t.tokens.Store(most)
	t.most.Store(most)
}

// success gives back a little.
func (t *budget) success() {
	for {
		most, now := t.most.Load(), t.tokens.Load()
		if now >= most || t.tokens.CompareAndSwap(now, min(now+t.ratio.Load(), most)) {
			return
		}
	}
}

// failure takes a token, and reports whether there are enough to retry.
func (t *budget) failure() bool {
	for {
		now := t.tokens.Load()
		left := max(now-100, 0)
		if t.tokens.CompareAndSwap(now, left) {
			return left > t.most.Load()/2
		}
	}
}

// retry is relay.Backend's.
func (b *Backend) retry(_ *relay.Call, a relay.FailedAttempt) (time.Duration, bool) {
	p := b.policy.Load()
	if p == nil || !p.has(a.Code) && a.Pushback >= 0 {
		return 0, false
	}
	affordable := b.budget.failure()
	if a.Pushback < 0 || !p.has(a.Code) || a.Retries+1 >= p.attempts {
		return 0, false
	}
	told := b.deps.Hooks.Retried
	if !affordable {
		told = b.deps.Hooks.Exhausted
	}
	if told != nil {
		told(b.name, a.Code)
	}
	if a.Pushback > 0 {
		return a.Pushback, affordable
	}

	return p.pause(a.Retries, rand.Float64()), affordable
}
