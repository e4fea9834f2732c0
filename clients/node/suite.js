// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Calls of every kind by @grpc/grpc-js through a running proxy, with what belongs
// to them. The environment says where the proxy is; see README.md one directory up.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const backends = process.env.MANIFOLD_BACKENDS.split(',');
const proto = process.env.MANIFOLD_SAMPLE_PROTO;
const patience = 20_000; // ms
const maxMessage = 32 << 20;

const { EchoService, FleetService } = grpc.loadPackageDefinition(
  protoLoader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true }),
).manifold.sample.v1;
// For google.rpc.Status in a trailer, whose layout this message has.
const Status = new protobuf.Root().loadSync(proto, { keepCase: true }).lookupType('manifold.sample.v1.Status');

function credentials() {
  const ca = process.env.MANIFOLD_CA;
  return ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
}

const clients = [];

// open returns clients over one connection of their own.
function open(options = {}) {
  options = {
    'grpc.max_receive_message_length': maxMessage,
    'grpc.max_send_message_length': maxMessage,
    'grpc.use_local_subchannel_pool': 1,
    ...options,
  };
  const echo = new EchoService(process.env.MANIFOLD_TARGET, credentials(), options);
  const fleet = new FleetService(process.env.MANIFOLD_TARGET, credentials(), { ...options, channelOverride: echo.getChannel() });
  clients.push(echo, fleet);
  return { echo, fleet };
}

const { echo, fleet } = open();
test.after(() => clients.forEach((client) => client.close()));

const within = (ms) => ({ deadline: Date.now() + ms });

function metadata(...pairs) {
  const md = new grpc.Metadata();
  for (const [key, value] of pairs) md.add(key, value);
  return md;
}

// unary makes a call with one answer and returns all there is to know of it.
function unary(client, method, request, { md = metadata(), options = within(patience) } = {}) {
  return new Promise((resolve) => {
    const result = {};
    const call = client[method](request, md, options, (error, response) => {
      Object.assign(result, { error, response });
      if (result.status) resolve(result);
    });
    call.on('metadata', (header) => { result.header = header; });
    call.on('status', (status) => {
      result.status = status;
      if ('response' in result || 'error' in result) resolve(result);
    });
  });
}

// answer is the answer of a unary call that is to end well.
async function answer(client, method, request, extra) {
  const { error, response } = await unary(client, method, request, extra);
  if (error) throw error;
  return response;
}

// drain reads a stream to its end and returns all there is to know of it.
function drain(call) {
  return new Promise((resolve) => {
    const result = { messages: [] };
    call.on('metadata', (header) => { result.header = header; });
    call.on('data', (message) => result.messages.push(message));
    // The status says the same, but an error that nobody takes ends the process.
    call.on('error', () => {});
    let ended = false;
    const settle = () => { if (ended && result.status) resolve(result); };
    call.on('end', () => { ended = true; settle(); });
    call.on('status', (status) => { result.status = status; settle(); });
  });
}

// counts sums up a counter over all backends.
async function counts(field) {
  const byBackend = new Map();
  while (byBackend.size < backends.length) {
    const { nodes: [node] } = await answer(fleet, 'Describe', {});
    byBackend.set(node.backend, node[field]);
  }
  return [...byBackend.values()].reduce((a, b) => a + b);
}

async function awaitCount(field, least) {
  for (const end = Date.now() + patience; (await counts(field)) < least;) {
    assert.ok(Date.now() < end, `${field} does not get to ${least}`);
    await sleep(10);
  }
}

const minute = { seconds: 60 };
const failure = { code: grpc.status.DATA_LOSS, message: 'löst\n100% 世界' };

function assertFailed(status) {
  assert.equal(status.code, failure.code);
  assert.equal(status.details, failure.message);
}

// The four kinds.

test('unary', async () => {
  const payload = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const response = await answer(echo, 'Echo', { text: 'grüße 世界', payload });
  assert.equal(response.text, 'grüße 世界');
  assert.deepEqual(response.payload, payload);
  assert.ok(backends.includes(response.backend));
});

test('server stream', async () => {
  const { messages, status } = await drain(echo.Expand({ text: 'x', count: 5 }, within(patience)));
  assert.equal(status.code, grpc.status.OK);
  assert.deepEqual(messages.map((m) => m.sequence), [1, 2, 3, 4, 5]);
  assert.equal(new Set(messages.map((m) => m.backend)).size, 1);
});

test('server stream without messages', async () => {
  const { messages, status } = await drain(echo.Expand({}, within(patience)));
  assert.equal(status.code, grpc.status.OK);
  assert.deepEqual(messages, []);
});

for (const count of [100, 0]) {
  test(`client stream of ${count} messages`, async () => {
    const texts = Array.from({ length: count }, (_, i) => String(i));
    const response = await new Promise((resolve, reject) => {
      const call = echo.Collect(within(patience), (error, value) => (error ? reject(error) : resolve(value)));
      for (const text of texts) call.write({ text, payload: Buffer.alloc(5) });
      call.end();
    });
    assert.deepEqual(response.texts, texts);
    assert.equal(response.payload_bytes, 5 * count);
  });
}

test('bidi stream, each request after the answer to the one before', async () => {
  const call = echo.Chat(within(patience));
  const ended = drain(call);
  for (let i = 0; i < 10; i++) {
    call.write({ text: String(i) });
    const [message] = await once(call, 'data');
    assert.equal(message.text, String(i));
    assert.equal(message.sequence, i + 1);
  }
  call.end();
  assert.equal((await ended).status.code, grpc.status.OK);
});

// What belongs to a call.

test('calls of one connection go to the backends in turn', async () => {
  const seen = [];
  for (let i = 0; i < 2 * backends.length; i++) seen.push((await answer(echo, 'Echo', {})).backend);
  assert.deepEqual(seen.sort(), [...backends, ...backends].sort());
});

test('metadata', async () => {
  const binary = Buffer.from([0x00, 0xff, 0x80]);
  const { response, header, status } = await unary(echo, 'Echo', { want_metadata: true }, {
    md: metadata(
      ['sample-header-a', '1'], ['sample-header-a', '2'], ['sample-header-b-bin', binary],
      ['sample-trailer-c', 'three'], ['sample-trailer-d-bin', Buffer.alloc(0)], ['other', 'value with spaces'],
    ),
  });

  assert.equal(status.code, grpc.status.OK);
  // grpc-js joins the values of a key as HTTP allows.
  assert.equal(header.get('sample-header-a').join(', '), '1, 2');
  assert.deepEqual(header.get('sample-header-b-bin'), [binary]);
  assert.deepEqual(header.get('sample-backend'), [response.backend]);
  assert.deepEqual(status.metadata.get('sample-trailer-c'), ['three']);
  assert.deepEqual(status.metadata.get('sample-trailer-d-bin'), [Buffer.alloc(0)]);

  const received = Object.fromEntries(response.metadata.map(({ key, values }) => [key, values.map(String)]));
  assert.equal(received['sample-header-a'].join(', '), '1, 2');
  assert.deepEqual(received.other, ['value with spaces']);
  assert.deepEqual(response.metadata.find(({ key }) => key === 'sample-header-b-bin').values, [binary]);
});

test('headers of a stream come before any message', async () => {
  const call = echo.Chat(metadata(['sample-header-a', '1'], ['sample-trailer-b', '2']), within(patience));
  const ended = drain(call);
  const [header] = await once(call, 'metadata');
  assert.deepEqual(header.get('sample-header-a'), ['1']);
  call.write({ text: 'x' });
  call.end();
  const { messages, status } = await ended;
  assert.deepEqual(messages.map((m) => m.text), ['x']);
  assert.deepEqual(status.metadata.get('sample-trailer-b'), ['2']);
});

test('big and empty messages', async () => {
  const payload = crypto.randomBytes(8 << 20);
  assert.ok((await answer(echo, 'Echo', { payload })).payload.equals(payload));
  assert.equal((await answer(echo, 'Echo', {})).payload.length, 0);
});

test('compression', async () => {
  const payload = Buffer.alloc(150_000, 'again and again ');
  const gzip = open({ 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip });
  assert.ok((await answer(gzip.echo, 'Echo', { payload })).payload.equals(payload));
});

test('many at once', async () => {
  const texts = Array.from({ length: 500 }, (_, i) => String(i));
  const responses = await Promise.all(texts.map((text) => answer(echo, 'Echo', { text })));
  assert.deepEqual(responses.map((r) => r.text), texts);
});

// Errors.

test('error with details', async () => {
  const detail = { type_url: 'type.googleapis.com/google.protobuf.StringValue', value: Buffer.from('\n\x03why') };
  const { status } = await unary(echo, 'Echo', { fail: { ...failure, details: [detail] } }, {
    md: metadata(['sample-trailer-a', '1']),
  });

  assertFailed(status);
  assert.deepEqual(status.metadata.get('sample-trailer-a'), ['1']);
  const [bytes] = status.metadata.get('grpc-status-details-bin');
  const decoded = Status.decode(bytes);
  assert.equal(decoded.code, failure.code);
  assert.equal(decoded.message, failure.message);
  assert.equal(decoded.details[0].type_url, detail.type_url);
  assert.ok(detail.value.equals(decoded.details[0].value));
});

test('error after messages', async () => {
  const { messages, status } = await drain(echo.Expand({ count: 3, fail: failure }, within(patience)));
  assertFailed(status);
  // grpc-js gives up messages that it reads together with the status of a failed
  // call, without a proxy too. The next test leaves it no occasion.
  assert.deepEqual(messages.map((m) => m.sequence), [1, 2, 3].slice(0, messages.length));
});

test('error while the client would still send', async () => {
  const call = echo.Chat(within(patience));
  const ended = drain(call);
  call.write({ text: 'good' });
  await once(call, 'data');
  call.write({ fail: failure });
  const { messages, status } = await ended;
  assert.deepEqual(messages.map((m) => m.text), ['good']);
  assertFailed(status);
});

test('unknown method', async () => {
  const identity = (x) => x;
  const status = await new Promise((resolve) => {
    echo.makeUnaryRequest('/manifold.sample.v1.EchoService/Nothing', identity, identity, Buffer.alloc(0), within(patience), resolve);
  });
  assert.equal(status.code, grpc.status.UNIMPLEMENTED);
});

// The end of a call before its time.

test('deadline reaches the backend', async () => {
  const { time_left: left } = await answer(echo, 'Echo', {}, { options: within(5000) });
  const ms = left.seconds * 1000 + left.nanos / 1e6;
  assert.ok(ms > 0 && ms <= 5000, `${ms} ms left`);
  assert.equal((await answer(echo, 'Echo', {}, { options: {} })).time_left, null);
});

test('deadline expires', async () => {
  const before = await counts('cancelled');
  const start = Date.now();
  const { status } = await unary(echo, 'Echo', { delay: minute }, { options: within(300) });
  // Not CANCELLED, which grpc-js makes of a server's RST_STREAM at the deadline.
  assert.equal(status.code, grpc.status.DEADLINE_EXCEEDED, status.details);
  const took = Date.now() - start;
  assert.ok(took >= 290 && took < 5000, `took ${took} ms`);
  await awaitCount('cancelled', before + 1);
});

test('deadline expires within a stream', async () => {
  const before = await counts('cancelled');
  const { messages, status } = await drain(echo.Expand({ count: 2, interval: minute }, within(1000)));
  assert.deepEqual(messages.map((m) => m.sequence), [1]);
  assert.equal(status.code, grpc.status.DEADLINE_EXCEEDED, status.details);
  await awaitCount('cancelled', before + 1);
});

test('cancel of a unary call', async () => {
  const before = await counts('cancelled');
  let call;
  const ended = new Promise((resolve) => {
    call = echo.Echo({ delay: minute }, within(patience), resolve);
  });
  // Only a call that is at a backend can be seen to be cancelled there.
  await awaitCount('in_flight', 1);
  call.cancel();
  assert.equal((await ended).code, grpc.status.CANCELLED);
  await awaitCount('cancelled', before + 1);
});

test('cancel of a stream', async () => {
  const before = await counts('cancelled');
  const call = echo.Expand({ count: 2, interval: minute }, within(patience));
  const ended = drain(call);
  await once(call, 'data');
  call.cancel();
  assert.equal((await ended).status.code, grpc.status.CANCELLED);
  await awaitCount('cancelled', before + 1);
});

// The proxy itself.

test('health', async () => {
  const identity = (x) => x;
  const response = await new Promise((resolve, reject) => {
    echo.makeUnaryRequest('/grpc.health.v1.Health/Check', identity, identity, Buffer.alloc(0), within(patience),
      (error, value) => (error ? reject(error) : resolve(value)));
  });
  assert.deepEqual(response, Buffer.from([8, 1])); // HealthCheckResponse{status: SERVING}
});
