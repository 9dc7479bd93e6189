// What mqtt.js does in Node and in a browser alike: sends messages to itself.
'use strict';

const PAYLOADS = [
  new Uint8Array(0),
  new TextEncoder().encode('hello'),
  Uint8Array.from({ length: 300_000 }, (_, index) => index % 256),
];
// Queued before the connection stands, they leave in few frames, larger than any packet may be.
const BURST = 700;
const BURST_BYTES = 2000;

function same(a, b) {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

// Resolves when all came back, rejects otherwise. `protocolVersion` is 4 or 5.
function roundTrip(mqtt, url, options) {
  return new Promise((resolve, reject) => {
    const topic = `round/trip/${Math.random()}`;
    const expected = [];
    const client = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: 15_000, ...options });
    const fail = (why) => {
      clearTimeout(timer);
      client.end(true);
      reject(new Error(`${url}: ${why}`));
    };
    const timer = setTimeout(() => fail(`${expected.length} messages still missing`), 20_000);
    const publish = (payload, qos) => {
      expected.push(payload);
      client.publish(topic, payload, { qos }, (error) => error && fail(`publish: ${error.message}`));
    };
    client.on('error', (error) => fail(error.message));
    client.on('close', () => fail('closed'));
    client.on('message', (_, payload) => {
      const wanted = expected.shift();
      if (!same(payload, wanted)) return fail(`${payload.length} bytes instead of ${wanted.length}, or others`);
      if (expected.length > 0) return;
      clearTimeout(timer);
      client.removeAllListeners('close');
      client.end(false, {}, () => resolve());
    });
    client.subscribe(topic, { qos: 0 }, (error, granted) => {
      if (error || granted[0].qos !== 0) return fail(`subscribe: ${error && error.message}`);
      for (let index = 0; index < BURST; index += 1) publish(new Uint8Array(BURST_BYTES).fill(index), 0);
      for (const qos of [0, 1, 2]) for (const payload of PAYLOADS) publish(payload, qos);
    });
  });
}

if (typeof module !== 'undefined') module.exports = roundTrip;
