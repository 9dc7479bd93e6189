// mqtt.js in headless Chromium. Serves a page that does the round trip, and opens it.
// usage: browser.js CHROMIUM URL...
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');

const [chromium, ...urls] = process.argv.slice(2);
const page = `<!doctype html>
<script src="mqtt.min.js"></script>
<script src="round_trip.js"></script>
<script>
  const tell = (text) => fetch('/tell', { method: 'POST', body: text });
  (async () => {
    try {
      for (const url of ${JSON.stringify(urls)}) {
        for (const protocolVersion of [4, 5]) {
          await roundTrip(mqtt, url, { protocolVersion });
          await tell('round trip done: ' + url + ', version ' + protocolVersion);
        }
      }
      await tell('all done');
    } catch (error) {
      await tell('failed: ' + error.message);
    }
  })();
</script>
`;
const files = {
  '/': ['text/html', page],
  '/mqtt.min.js': ['text/javascript', fs.readFileSync(require.resolve('mqtt/dist/mqtt.min'))],
  '/round_trip.js': ['text/javascript', fs.readFileSync(path.join(__dirname, 'round_trip.js'))],
};

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'gatepost-chromium-'));
let browser;

function finish(code) {
  process.exitCode = code;
  server.close();
  server.closeAllConnections();
  // Closed when the last of its processes, which have its standard error too, writes no more into the profile.
  browser.once('close', () => fs.rmSync(profile, { recursive: true, force: true }));
  process.kill(-browser.pid, 'SIGKILL');
}

const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    let text = '';
    request.on('data', (part) => (text += part));
    request.on('end', () => {
      console.log(text);
      response.end();
      if (text === 'all done' || text.startsWith('failed')) finish(text === 'all done' ? 0 : 1);
    });
    return;
  }
  const [type, body] = files[request.url] || [];
  response.writeHead(body ? 200 : 404, { 'Content-Type': type || 'text/plain' }).end(body);
});

server.listen(0, '127.0.0.1', () => {
  const flags = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // The test's own authority is in no store; the other tests check certificates.
    '--ignore-certificate-errors', `--user-data-dir=${profile}`,
  ];
  const url = `http://127.0.0.1:${server.address().port}/`;
  browser = spawn(chromium, [...flags, url], {
    detached: true, // with a process group of its own
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  browser.stderr.on('data', (part) => (said = (said + part).slice(-4000)));
  browser.once('error', (error) => {
    console.error(`cannot start ${chromium}: ${error.message}`);
    process.exit(1);
  });
  browser.once('exit', (code) => {
    if (process.exitCode === undefined) {
      console.error(`${chromium} ended with ${code}: ${said}`);
      process.exit(1);
    }
  });
});
