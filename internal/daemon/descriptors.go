// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/manifold-grpc/manifold/internal/metrics"
)

// readDescriptors adds the methods in a file with a FileDescriptorSet.
func readDescriptors(name string, methods metrics.Methods) error {
	raw, err := os.ReadFile(name) //nolint:gosec // named by the configuration
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		return fmt.Errorf("file %q: %w, expected a FileDescriptorSet", name, err)
	}
	for _, file := range set.GetFile() {
		for _, s := range file.GetService() {
			service := s.GetName()
			if p := file.GetPackage(); p != "" {
				service = p + "." + service
			}
			for _, m := range s.GetMethod() {
				methods["/"+service+"/"+m.GetName()] = kindOf(m)
			}
		}
	}

	return nil
}

func kindOf(m *descriptorpb.MethodDescriptorProto) metrics.Kind {
	switch {
	case m.GetClientStreaming() && m.GetServerStreaming():
		return metrics.BidiStream
	case m.GetClientStreaming():
		return metrics.ClientStream
	case m.GetServerStreaming():
		return metrics.ServerStream
	}

	return metrics.Unary
}
