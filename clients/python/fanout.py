# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

"""Calls a method that a proxy fans out, and reads from the trailer what became of each target.

Needs nothing but grpcio: the summary is a line of text. MANIFOLD_TARGET is the
proxy, MANIFOLD_METHOD the method; its request is empty. One line of output
for the call, and one for each failed target.
"""

import os
import urllib.parse

import grpc

SUMMARY = "manifold-fanout"


def parse(line):
    """Returns the counts, and a list of (name, code) of the failed targets that are named."""
    counts, _, failures = line.partition("; failures=")
    numbers = {key: int(value) for key, value in (pair.split("=") for pair in counts.split())}
    named = []
    for element in filter(None, failures.split(",")):
        if element.startswith("+"):
            continue  # more than are named
        name, _, code = element.rpartition(":")
        named.append((urllib.parse.unquote(name), code))
    return numbers, named


def main():
    with grpc.insecure_channel(os.environ["MANIFOLD_TARGET"]) as channel:
        method = channel.unary_unary(
            os.environ["MANIFOLD_METHOD"],
            request_serializer=lambda message: message,
            response_deserializer=lambda message: message,
        )
        try:
            answer, call = method.with_call(b"", timeout=20)
            print("OK", len(answer) > 0)
        except grpc.RpcError as error:  # it is the call as well
            call = error
            print(error.code().name, error.details())
    for key, value in call.trailing_metadata():
        if key == SUMMARY:
            numbers, named = parse(value)
            print("targets", numbers["targets"], "ok", numbers["ok"], "failed", numbers["failed"], "cancelled", numbers["cancelled"])
            for name, code in named:
                print(name, code)


if __name__ == "__main__":
    main()
