// RingCentral's TypeScript client, unchanged, with a callback that counts. It keeps nothing.
const fs = require("node:fs");
const RingCentral = require("@rc-ex/core").default;
const WebSocketExtension = require("@rc-ex/ws").default;

const [server, clientId, clientSecret, jwt, report, count] = process.argv.slice(2);
let seen = 0;
let firstAt = 0;

const onEvent = () => {
  if (seen === 0) firstAt = performance.now();
  seen += 1;
  if (seen === Number(count)) {
    fs.writeFileSync(report + ".tmp", JSON.stringify({ seconds: (performance.now() - firstAt) / 1000 }));
    fs.renameSync(report + ".tmp", report);
  }
};

(async () => {
  const rc = new RingCentral({ server, clientId, clientSecret });
  await rc.authorize({ jwt });
  const gateway = new WebSocketExtension();
  await rc.installExtension(gateway);
  await gateway.subscribe(["/team-messaging/v1/posts"], onEvent);
})();
