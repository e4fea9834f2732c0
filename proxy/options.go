// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

// Option configures the handler that [TransparentHandler] and [RegisterService] make.
type Option func(*handlerOptions)

// handlerOptions is what the options of one handler say. It does not change once the handler is made.
type handlerOptions struct {
	serviceName      string // empty for a transparent handler
	methodNames      []string
	streamedDetector StreamedDetectorFunc // nil: the kind of a method is unknown until it shows
	mode             Mode
	modeFixed        bool // WithMode was given
	fanoutLimits     FanoutLimits
	fanout           *Fanout    // with its defaults; nil: as the library always had it
	forwarded        *Forwarded // nil: backends are not told
	interceptStatus  bool       // WithInterceptedStatus was given
}

// WithMethodNames lists the methods that [RegisterService] registers, by their names without service or slash.
func WithMethodNames(methodNames ...string) Option {
	return func(o *handlerOptions) {
		o.methodNames = append([]string(nil), methodNames...)
	}
}

// WithStreamedMethodNames lists the methods of the service of [RegisterService] that stream their responses. All
// the others are then taken for unary. It matters for [One2Many] only and has no meaning for [TransparentHandler], which
// has no service name: use [WithStreamedDetector] there.
func WithStreamedMethodNames(streamedMethodNames ...string) Option {
	return func(o *handlerOptions) {
		streamed := make(map[string]struct{}, len(streamedMethodNames))
		for _, name := range streamedMethodNames {
			streamed["/"+o.serviceName+"/"+name] = struct{}{}
		}

		o.streamedDetector = func(fullMethodName string) bool {
			_, found := streamed[fullMethodName]

			return found
		}
	}
}

// WithStreamedDetector sets the function that tells streaming methods from unary ones. It matters for [One2Many] only.
//
// Without it the kind of a method is unknown; see the section on one-to-many in the package documentation for what
// happens then.
func WithStreamedDetector(detector StreamedDetectorFunc) Option {
	return func(o *handlerOptions) {
		o.streamedDetector = detector
	}
}

// WithMode makes a handler that serves one mode. A director that answers with the other one ends its call in
// codes.Internal. Without this option each answer of the director decides for its call.
func WithMode(mode Mode) Option {
	return func(o *handlerOptions) {
		o.mode = mode
		o.modeFixed = true
	}
}

// WithInterceptedStatus lets the server's interceptors change the status, and add to the trailer, of every call.
//
// Without it that is so but for calls that end before the caller has half-closed, by a backend's doing or for want of a backend: their status is written by the
// handler, as grpc-go offers no other way to end the handler's wait for the caller's next message before it returns. Interceptors see
// the status, and cannot change it. With this option such a handler returns first, and its goroutine stays in RecvMsg of the
// caller's stream until the server has written the status: for as long as the interceptors still work after the handler. Their wrappers
// of the stream must bear that.
func WithInterceptedStatus() Option {
	return func(o *handlerOptions) {
		o.interceptStatus = true
	}
}
