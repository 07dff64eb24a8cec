// RingCentral's TypeScript client, unchanged: logs in, subscribes, prints what happens as JSON lines, until stdin ends.
import { createRequire } from "node:module";

// Its ES modules lack `"type": "module"`, which Node refuses before 20.19; its CommonJS ones work everywhere.
const require = createRequire(import.meta.url);
const RingCentral = require("@rc-ex/core").default;
const { default: WebSocketExtension, Events } = require("@rc-ex/ws");

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");

const rc = new RingCentral({
  server: process.env.RC_SERVER_URL,
  clientId: process.env.RC_APP_CLIENT_ID,
  clientSecret: process.env.RC_APP_CLIENT_SECRET,
});
await rc.authorize({ jwt: process.env.RC_USER_JWT });

const gateway = new WebSocketExtension();
const { eventEmitter } = gateway;
// Without a listener of its own, Node ends the process where a connection is refused.
eventEmitter.on(Events.newWebSocketObject, (ws) => ws.addEventListener("error", () => {}));
eventEmitter.on(Events.autoRecoverSuccess, () => say({ recovery: gateway.connectionDetails.recoveryState }));
eventEmitter.on(Events.autoRecoverFailed, () => say({ recovery: gateway.connectionDetails.recoveryState }));
eventEmitter.on(Events.autoRecoverError, (error) => say({ refused: error.constructor.name }));
await rc.installExtension(gateway);
const subscription = await gateway.subscribe(process.argv.slice(2), (event) => say({ uuid: event.uuid }));
say({ subscription: subscription.subscriptionInfo.id });

process.stdin.on("end", () => process.exit(0)).resume();
