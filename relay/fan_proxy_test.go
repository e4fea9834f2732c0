// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

// For the semantics that the library has always had, the relay's answers are those of package proxy: the same octets, and the
// same code.
func TestFanLikeProxy(t *testing.T) {
	element := func(s string) string { return "\x0a" + string(rune(len(s))) + s } // field 1
	handlers := map[string]grpc.StreamHandler{
		"good":       answers(element("\x12\x01m") + element("\x12\x01n")),
		"empty":      answers(""),
		"no message": func(any, grpc.ServerStream) error { return nil },
		"failing":    fails(codes.NotFound),
		"half-way":   fails(codes.Aborted, element("\x12\x01h")),
		"no proto":   answers("\xff\xff"),
		"large":      answers(element("\x12\x01l") + "\x12\x80\x80\x04" + strings.Repeat("l", 1<<16)),
	}
	mixes := [][]string{
		{"good"}, {"good", "good"}, {"good", "empty", "large"}, {"no message"}, {"no message", "good"}, {"failing"},
		{"failing", "failing"}, {"good", "failing", "half-way", "no proto"}, {"large", "large"}, {"no proto", "failing"},
	}
	addrs := map[string]string{}
	for name, h := range handlers {
		addrs[name] = serve(t, h)
	}
	for _, layout := range []splice.Layout{splice.TestserviceLayout(), splice.TalosLayout(), {}} {
		for _, streaming := range []bool{false, true} {
			for _, mix := range mixes {
				t.Run(strings.Join(mix, ","), func(t *testing.T) {
					var list []string
					for _, name := range mix {
						list = append(list, addrs[name])
					}
					f := fan(t, &relay.FanOut{Policy: fanout.BestEffort(), Streaming: streaming}, rigConfig{}, list...)
					for i := range f.targets {
						f.targets[i].Annotator = must(splice.New(layout, f.targets[i].Name))(t)
					}
					relayed, st, _ := collect(within(t), t, dial(t, f.addr), "x")
					other, otherSt, _ := collect(within(t), t, dial(t, proxied(t, f.targets, layout, streaming, list)), "x")
					if streaming { // the order among targets is that of arrival
						relayed, other = sorted(relayed), sorted(other)
					}
					if strings.Join(relayed, "|") != strings.Join(other, "|") || st.Code() != otherSt.Code() {
						t.Errorf("relay %q, %v\nproxy %q, %v", relayed, st, other, otherSt)
					}
				})
			}
		}
	}
}

// proxied starts a server that does with package proxy what the relay does.
func proxied(t *testing.T, targets []relay.Target, layout splice.Layout, streaming bool, addrs []string) string {
	t.Helper()
	var backends []proxy.Backend
	for i, target := range targets {
		cc := must(grpc.NewClient("passthrough:///"+addrs[i], grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
		t.Cleanup(func() { cc.Close() })
		backends = append(backends, &proxy.Upstream{Channel: cc, Name: target.Name, Annotator: must(splice.New(layout, target.Name))(t)})
	}
	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}
	return serve(t, proxy.TransparentHandler(director, proxy.WithStreamedDetector(func(string) bool { return streaming })),
		grpc.ForceServerCodecV2(proxy.Codec()))
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
