# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

"""Calls of every kind by grpcio through a running proxy, with what belongs to them.

The environment says where the proxy is; see README.md one directory up. Messages
are generated from sample.proto by protoc alone: grpcio takes the methods by name.
"""

import concurrent.futures
import os
import threading
import time
import unittest

import grpc
import sample_pb2 as pb
from google.protobuf import any_pb2, wrappers_pb2

BACKENDS = os.environ["MANIFOLD_BACKENDS"].split(",")
ECHO = "/manifold.sample.v1.EchoService/"
FLEET = "/manifold.sample.v1.FleetService/"
TIMEOUT = 20
MAX_MESSAGE = 32 << 20


def open_channel(**kwargs):
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_send_message_length", MAX_MESSAGE),
        # Channels of one process share connections by default.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target, ca = os.environ["MANIFOLD_TARGET"], os.environ.get("MANIFOLD_CA")
    if not ca:
        return grpc.insecure_channel(target, options, **kwargs)
    with open(ca, "rb") as file:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(file.read()), options, **kwargs)


class Client:
    """The sample services' methods over one channel."""

    def __init__(self, channel):
        def method(kind, path, request, response):
            return kind(path, request.SerializeToString, response.FromString)

        self.echo = method(channel.unary_unary, ECHO + "Echo", pb.EchoRequest, pb.EchoResponse)
        self.expand = method(channel.unary_stream, ECHO + "Expand", pb.ExpandRequest, pb.EchoResponse)
        self.collect = method(channel.stream_unary, ECHO + "Collect", pb.EchoRequest, pb.CollectResponse)
        self.chat = method(channel.stream_stream, ECHO + "Chat", pb.EchoRequest, pb.EchoResponse)
        self.describe = method(channel.unary_unary, FLEET + "Describe", pb.DescribeRequest, pb.DescribeResponse)
        self.nothing = method(channel.unary_unary, ECHO + "Nothing", pb.EchoRequest, pb.EchoResponse)
        self.health = channel.unary_unary("/grpc.health.v1.Health/Check")

    def cancelled(self):
        """The number of calls that all backends together have seen cancelled."""
        counts = {}
        while len(counts) < len(BACKENDS):
            (node,) = self.describe(pb.DescribeRequest(), timeout=TIMEOUT).nodes
            counts[node.backend] = node.cancelled
        return sum(counts.values())


class Suite(unittest.TestCase):
    def setUp(self):
        self.channel = open_channel()
        self.addCleanup(self.channel.close)
        self.client = Client(self.channel)

    def await_cancelled(self, count):
        end = time.monotonic() + TIMEOUT
        while self.client.cancelled() < count:
            self.assertLess(time.monotonic(), end, "no backend has seen the call cancelled")
            time.sleep(0.01)

    def assert_status(self, error, code, details=None):
        self.assertEqual(error.code(), code, error)
        if details is not None:
            self.assertEqual(error.details(), details)

    # The four kinds.

    def test_unary(self):
        payload = bytes(range(256))
        resp = self.client.echo(pb.EchoRequest(text="grüße 世界", payload=payload), timeout=TIMEOUT)
        self.assertEqual(resp.text, "grüße 世界")
        self.assertEqual(resp.payload, payload)
        self.assertIn(resp.backend, BACKENDS)

    def test_server_stream(self):
        answers = list(self.client.expand(pb.ExpandRequest(text="x", count=5), timeout=TIMEOUT))
        self.assertEqual([a.sequence for a in answers], [1, 2, 3, 4, 5])
        self.assertEqual(len({a.backend for a in answers}), 1)

    def test_server_stream_without_messages(self):
        self.assertEqual(list(self.client.expand(pb.ExpandRequest(), timeout=TIMEOUT)), [])

    def test_client_stream(self):
        texts = [str(i) for i in range(100)]
        resp = self.client.collect((pb.EchoRequest(text=t, payload=b"12345") for t in texts), timeout=TIMEOUT)
        self.assertEqual(list(resp.texts), texts)
        self.assertEqual(resp.payload_bytes, 500)

    def test_client_stream_without_messages(self):
        self.assertEqual(list(self.client.collect(iter(()), timeout=TIMEOUT).texts), [])

    def test_bidi_stream(self):
        """Each request is sent after the answer to the one before has come."""
        turn = threading.Semaphore(1)

        def requests():
            for i in range(10):
                self.assertTrue(turn.acquire(timeout=TIMEOUT))
                yield pb.EchoRequest(text=str(i))

        got = []
        for answer in self.client.chat(requests(), timeout=TIMEOUT):
            got.append((answer.text, answer.sequence))
            turn.release()
        self.assertEqual(got, [(str(i), i + 1) for i in range(10)])

    # What belongs to a call.

    def test_balance_within_one_connection(self):
        backends = [self.client.echo(pb.EchoRequest(), timeout=TIMEOUT).backend for _ in range(2 * len(BACKENDS))]
        self.assertEqual(sorted(backends), sorted(2 * BACKENDS))

    def test_metadata(self):
        sent = (
            ("sample-header-a", "1"),
            ("sample-header-a", "2"),
            ("sample-header-b-bin", b"\x00\xff\x80"),
            ("sample-trailer-c", "three"),
            ("sample-trailer-d-bin", b""),
            ("other", "value with spaces"),
        )
        resp, call = self.client.echo.with_call(pb.EchoRequest(want_metadata=True), metadata=sent, timeout=TIMEOUT)

        header = [(k, v) for k, v in call.initial_metadata() if k.startswith("sample-header-")]
        self.assertEqual(sorted(header), sorted(sent[:3]))
        trailer = [(k, v) for k, v in call.trailing_metadata() if k.startswith("sample-trailer-")]
        self.assertEqual(sorted(trailer), sorted(sent[3:5]))
        self.assertEqual(dict(call.initial_metadata())["sample-backend"], resp.backend)

        received = {e.key: list(e.values) for e in resp.metadata}
        self.assertEqual(received["sample-header-a"], [b"1", b"2"])
        self.assertEqual(received["sample-header-b-bin"], [b"\x00\xff\x80"])
        self.assertEqual(received["other"], [b"value with spaces"])

    def test_metadata_of_streams(self):
        """Headers are there before the first request, trailers after the last answer."""
        done = threading.Event()

        def requests():
            done.wait(TIMEOUT)
            yield pb.EchoRequest(text="x")

        call = self.client.chat(requests(), metadata=(("sample-header-a", "1"), ("sample-trailer-b", "2")), timeout=TIMEOUT)
        self.assertIn(("sample-header-a", "1"), call.initial_metadata())
        done.set()
        self.assertEqual([a.text for a in call], ["x"])
        self.assertIn(("sample-trailer-b", "2"), call.trailing_metadata())

    def test_big_and_empty_messages(self):
        payload = os.urandom(8 << 20)
        self.assertEqual(self.client.echo(pb.EchoRequest(payload=payload), timeout=TIMEOUT).payload, payload)
        self.assertEqual(self.client.echo(pb.EchoRequest(), timeout=TIMEOUT).payload, b"")

    def test_compression(self):
        payload = b"again and again " * 10000
        with open_channel(compression=grpc.Compression.Gzip) as channel:
            self.assertEqual(Client(channel).echo(pb.EchoRequest(payload=payload), timeout=TIMEOUT).payload, payload)

    def test_many_at_once(self):
        def one(i):
            return self.client.echo(pb.EchoRequest(text=str(i)), timeout=TIMEOUT).text == str(i)

        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            self.assertTrue(all(pool.map(one, range(500))))

    # Errors.

    def failure(self, **kwargs):
        return pb.Status(code=grpc.StatusCode.DATA_LOSS.value[0], message="löst\n100% 世界", **kwargs)

    def assert_failed(self, error):
        self.assert_status(error, grpc.StatusCode.DATA_LOSS, "löst\n100% 世界")

    def test_error_with_details(self):
        detail = any_pb2.Any()
        detail.Pack(wrappers_pb2.StringValue(value="why"))
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.echo(
                pb.EchoRequest(fail=self.failure(details=[detail])),
                metadata=(("sample-trailer-a", "1"),),
                timeout=TIMEOUT,
            )

        self.assert_failed(caught.exception)
        trailer = dict(caught.exception.trailing_metadata())
        self.assertEqual(trailer["sample-trailer-a"], "1")
        status = pb.Status.FromString(trailer["grpc-status-details-bin"])
        self.assertEqual(status, self.failure(details=[detail]))
        why = wrappers_pb2.StringValue()
        self.assertTrue(status.details[0].Unpack(why))
        self.assertEqual(why.value, "why")

    def test_error_after_messages(self):
        call = self.client.expand(pb.ExpandRequest(count=3, fail=self.failure()), timeout=TIMEOUT)
        got = []
        with self.assertRaises(grpc.RpcError) as caught:
            for answer in call:
                got.append(answer.sequence)
        self.assertEqual(got, [1, 2, 3])
        self.assert_failed(caught.exception)

    def test_error_while_sending(self):
        """The backend ends the call while the client would still send."""
        end = threading.Event()

        def requests():
            yield pb.EchoRequest(text="good")
            yield pb.EchoRequest(fail=self.failure())
            end.wait(TIMEOUT)

        self.addCleanup(end.set)
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.client.chat(requests(), timeout=TIMEOUT))
        self.assert_failed(caught.exception)

    def test_unknown_method(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.nothing(pb.EchoRequest(), timeout=TIMEOUT)
        self.assert_status(caught.exception, grpc.StatusCode.UNIMPLEMENTED)

    # The end of a call before its time.

    def test_deadline_reaches_the_backend(self):
        left = self.client.echo(pb.EchoRequest(), timeout=5).time_left
        self.assertGreater(left.ToMilliseconds(), 0)
        # grpcio rounds what is left up to 10 ms: it writes 5010m, with or without a proxy.
        self.assertLessEqual(left.ToMilliseconds(), 5010)
        self.assertFalse(self.client.echo(pb.EchoRequest()).HasField("time_left"))

    def test_deadline_expires(self):
        before = self.client.cancelled()
        request = pb.EchoRequest()
        request.delay.FromSeconds(60)
        start = time.monotonic()
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.echo(request, timeout=0.3)
        self.assert_status(caught.exception, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - start, 5)
        self.await_cancelled(before + 1)

    def test_deadline_expires_within_a_stream(self):
        before = self.client.cancelled()
        request = pb.ExpandRequest(count=2)
        request.interval.FromSeconds(60)
        got = []
        with self.assertRaises(grpc.RpcError) as caught:
            for answer in self.client.expand(request, timeout=1):
                got.append(answer.sequence)
        self.assertEqual(got, [1])
        self.assert_status(caught.exception, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.await_cancelled(before + 1)

    def test_cancel_unary(self):
        before = self.client.cancelled()
        request = pb.EchoRequest()
        request.delay.FromSeconds(60)
        call = self.client.echo.future(request, timeout=TIMEOUT)
        # Only a call that is at a backend can be seen to be cancelled there.
        end = time.monotonic() + TIMEOUT
        while not self.in_flight():
            self.assertLess(time.monotonic(), end, "the call does not get to a backend")
            time.sleep(0.01)
        self.assertTrue(call.cancel())
        with self.assertRaises(grpc.FutureCancelledError):
            call.result(timeout=TIMEOUT)
        self.await_cancelled(before + 1)

    def in_flight(self):
        nodes = [self.client.describe(pb.DescribeRequest(), timeout=TIMEOUT).nodes[0] for _ in BACKENDS]
        return sum(node.in_flight for node in nodes)

    def test_cancel_stream(self):
        before = self.client.cancelled()
        request = pb.ExpandRequest(count=2)
        request.interval.FromSeconds(60)
        call = self.client.expand(request, timeout=TIMEOUT)
        self.assertEqual(next(call).sequence, 1)
        call.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            next(call)
        self.assert_status(caught.exception, grpc.StatusCode.CANCELLED)
        self.await_cancelled(before + 1)

    # The proxy itself.

    def test_health(self):
        # HealthCheckResponse{status: SERVING}
        self.assertEqual(self.client.health(b"", timeout=TIMEOUT), b"\x08\x01")


if __name__ == "__main__":
    unittest.main()
