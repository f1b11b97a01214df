// node-redis speaks with the server on PORT of 127.0.0.1, over RESP2 or RESP3 as RESP says; an assertion that fails
// ends it with a status other than 0.
import assert from "node:assert/strict";
import { createClient } from "redis";

const address = { host: "127.0.0.1", port: Number(process.env.PORT) };
const RESP = Number(process.env.RESP);
const connected = async (options = {}) => {
  const client = createClient({ RESP, socket: { ...address, reconnectStrategy: false }, ...options });
  client.on("error", (error) => { throw error; });
  return client.connect();
};
const client = await connected();

// Strings.
assert.equal(await client.set("greeting", "hello", { EX: 100 }), "OK");
assert.equal(await client.get("greeting"), "hello");
assert.equal(await client.set("greeting", "other", { NX: true }), null);
assert.equal(await client.ttl("greeting"), 100);
assert.deepEqual(await client.mGet(["greeting", "nothing"]), ["hello", null]);
assert.equal(await client.incrBy("n", 42), 42);
await assert.rejects(client.incr("greeting"), /not an integer/);
assert.equal(await client.getDel("greeting"), "hello");
assert.equal(await client.exists("greeting"), 0);

// What is asked in one turn leaves in one write; then a transaction, and one that WATCH ends.
const many = await Promise.all(Array.from({ length: 1000 }, (_, i) => client.set(`key:${i}`, `${i}`)));
assert.ok(many.every((reply) => reply === "OK"));
assert.deepEqual(await client.multi().set("t", "1").incr("t").exec(), ["OK", 2]);
const other = await connected();
await client.watch("t");
await other.set("t", "5");
await assert.rejects(client.multi().incr("t").exec(), /watched keys/i);

// Iteration.
const found = new Set();
for await (const keys of client.scanIterator({ MATCH: "key:*", COUNT: 100 })) {
  for (const key of [keys].flat()) found.add(key);
}
assert.equal(found.size, 1000);

// Channels.
const subscriber = await connected();
const heard = new Promise((resolve) => subscriber.pSubscribe("news:*", (...message) => resolve(message)).then(async () => {
  assert.equal(await client.publish("news:1", "hi"), 1);
}));
assert.deepEqual(await heard, ["hi", "news:1"]);
await subscriber.pUnsubscribe();

// Another keyspace, and a name.
const second = await connected({ database: 2, name: "second" });
assert.equal(await second.dbSize(), 0);
assert.equal(await second.clientGetName(), "second");
assert.ok((await client.info("server")).includes("redis_version"));

await Promise.all([client, other, subscriber, second].map((each) => each.close()));
