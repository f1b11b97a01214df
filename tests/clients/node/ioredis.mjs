// ioredis speaks with the server on PORT of 127.0.0.1; an assertion that fails ends it with a status other than 0.
import assert from "node:assert/strict";
import Redis from "ioredis";

const address = { host: "127.0.0.1", port: Number(process.env.PORT), maxRetriesPerRequest: 1 };
const client = new Redis(address);
client.on("error", (error) => { throw error; });

// Strings, and values that are bytes.
assert.equal(await client.set("greeting", "hello", "EX", 100), "OK");
assert.equal(await client.get("greeting"), "hello");
assert.equal(await client.set("greeting", "other", "NX"), null);
assert.equal(await client.ttl("greeting"), 100);
const bytes = Buffer.from([0, 255, 13, 10]);
await client.set("bytes", bytes);
assert.deepEqual(await client.getBuffer("bytes"), bytes);
assert.deepEqual(await client.mget("greeting", "nothing"), ["hello", null]);
assert.equal(await client.incrby("n", 41), 41);
assert.equal(await client.incr("n"), 42);
assert.equal(await client.incrbyfloat("f", 0.5), "0.5");
await assert.rejects(client.incr("greeting"), /not an integer/);
assert.equal(await client.del("greeting", "bytes", "nothing"), 2);

// A pipeline, and a transaction with WATCH.
const many = client.pipeline();
for (let i = 0; i < 1000; i++) many.set(`key:${i}`, i);
assert.ok((await many.exec()).every(([error, reply]) => error === null && reply === "OK"));
assert.deepEqual(await client.multi().set("t", 1).incr("t").exec(), [[null, "OK"], [null, 2]]);
const other = client.duplicate();
await client.watch("t");
await other.set("t", 5);
assert.equal(await client.multi().incr("t").exec(), null);

// Iteration.
const found = new Set();
for await (const keys of client.scanStream({ match: "key:*", count: 100 })) keys.forEach((key) => found.add(key));
assert.equal(found.size, 1000);

// Channels.
const subscriber = client.duplicate();
const heard = new Promise((resolve) => subscriber.on("pmessage", (...message) => resolve(message)));
assert.equal(await subscriber.psubscribe("news:*"), 1);
assert.equal(await client.publish("news:1", "hi"), 1);
assert.deepEqual(await heard, ["news:*", "news:1", "hi"]);
await subscriber.punsubscribe();

// Another keyspace, and a name.
const second = new Redis({ ...address, db: 2, connectionName: "second" });
assert.equal(await second.dbsize(), 0);
assert.equal(await second.client("GETNAME"), "second");
assert.equal((await client.info("server")).includes("redis_version"), true);

await Promise.all([client, other, subscriber, second].map((each) => each.quit()));
