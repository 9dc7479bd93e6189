// usage: node.js [--ca FILE] [--cert FILE --key FILE] URL...
'use strict';

const fs = require('node:fs');
const { parseArgs } = require('node:util');
const mqtt = require('mqtt');
const roundTrip = require('./round_trip.js');

const file = { type: 'string' };
const { values, positionals } = parseArgs({ options: { ca: file, cert: file, key: file }, allowPositionals: true });
const tls = Object.fromEntries(Object.entries(values).map(([name, path]) => [name, fs.readFileSync(path)]));

async function main() {
  for (const url of positionals) {
    // Given a certificate, mqtt.js speaks TLS even where the address says mqtt.
    const secure = /^(mqtts|wss):/.test(url) ? tls : {};
    for (const protocolVersion of [4, 5]) {
      await roundTrip(mqtt, url, { protocolVersion, ...secure });
      console.log(`round trip done: ${url}, version ${protocolVersion}`);
    }
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
