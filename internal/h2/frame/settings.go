// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"iter"
	"strconv"
)

// settingLen is the size of one parameter of a SETTINGS frame.
const settingLen = 6

// SettingID names a parameter. Unknown ones are ignored (RFC 9113 section
// 6.5.2).
type SettingID uint16

// The parameters of RFC 9113 section 6.5.2, RFC 8441 and RFC 9218.
const (
	SettingHeaderTableSize       SettingID = 0x1
	SettingEnablePush            SettingID = 0x2
	SettingMaxConcurrentStreams  SettingID = 0x3
	SettingInitialWindowSize     SettingID = 0x4
	SettingMaxFrameSize          SettingID = 0x5
	SettingMaxHeaderListSize     SettingID = 0x6
	SettingEnableConnectProtocol SettingID = 0x8
	SettingNoRFC7540Priorities   SettingID = 0x9
)

var settingNames = [...]string{
	SettingHeaderTableSize:       "HEADER_TABLE_SIZE",
	SettingEnablePush:            "ENABLE_PUSH",
	SettingMaxConcurrentStreams:  "MAX_CONCURRENT_STREAMS",
	SettingInitialWindowSize:     "INITIAL_WINDOW_SIZE",
	SettingMaxFrameSize:          "MAX_FRAME_SIZE",
	SettingMaxHeaderListSize:     "MAX_HEADER_LIST_SIZE",
	SettingEnableConnectProtocol: "ENABLE_CONNECT_PROTOCOL",
	SettingNoRFC7540Priorities:   "NO_RFC7540_PRIORITIES",
}

// String returns the registered name without "SETTINGS_", or "UNKNOWN_0x1f".
func (id SettingID) String() string {
	if int(id) < len(settingNames) && settingNames[id] != "" {
		return settingNames[id]
	}
	return "UNKNOWN_0x" + strconv.FormatUint(uint64(id), 16)
}

// Setting is one parameter of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

// Settings yields the parameters of a SETTINGS payload in their order, which is
// the order in which they take effect (RFC 9113 section 6.5.3).
func Settings(p []byte) iter.Seq[Setting] {
	return func(yield func(Setting) bool) {
		for ; len(p) >= settingLen; p = p[settingLen:] {
			s := Setting{SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])}
			if !yield(s) {
				return
			}
		}
	}
}

// Check applies the bounds that the parameter's definition sets. A violation is
// always a connection error. That a server must not send ENABLE_PUSH 1 is for
// the connection to say, which knows its role.
func (s Setting) Check() *Error {
	switch s.ID {
	case SettingEnablePush, SettingEnableConnectProtocol, SettingNoRFC7540Priorities:
		if s.Value > 1 {
			return s.outOfRange(ProtocolError, "setting_not_boolean", "0 or 1")
		}
	case SettingInitialWindowSize:
		// Section 6.5.2 singles this one out: FLOW_CONTROL_ERROR.
		if s.Value > MaxWindow {
			return s.outOfRange(FlowControlError, "setting_initial_window_size", "at most 2147483647")
		}
	case SettingMaxFrameSize:
		if s.Value < MinMaxFrameSize || s.Value > MaxMaxFrameSize {
			return s.outOfRange(ProtocolError, "setting_max_frame_size", "16384 to 16777215")
		}
	}
	return nil
}

func (s Setting) outOfRange(c Code, reason, want string) *Error {
	return connError(c, reason, "SETTINGS_%s is %d, expected %s", s.ID, s.Value, want)
}
