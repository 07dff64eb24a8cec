// PubNub's JavaScript client, unchanged: reads one channel, prints what it hands over as JSON lines, until stdin ends.
// Arguments: origin, subscriber key, channel.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const PubNub = require("pubnub");

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const [origin, subscribeKey, channel] = process.argv.slice(2);

const pubnub = new PubNub({ origin, ssl: false, subscribeKey, userId: "me" });
pubnub.addListener({
  status: ({ category }) => say({ status: category }),
  message: ({ message, timetoken }) => say({ message, timetoken }),
});
pubnub.subscribe({ channels: [channel] });

process.stdin.on("end", () => process.exit(0)).resume();
