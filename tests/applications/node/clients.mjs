// Clients: ioredis and its scripts, iovalkey, node-redis and its scripts, @fastify/redis.
import assert from "node:assert/strict";
import { HOST, PORT, TASKS, TIMES, URL, address, client, connect, inTasks, run } from "./shared.mjs";

async function basics(make) {
  const clients = await inTasks(make);
  await Promise.all(clients.map(async (one) => { for (let at = 0; at < TIMES; at++) await one.incr("n"); }));
  assert.equal(Number(await clients[0].get("n")), TASKS * TIMES);
  const stored = await Promise.all(clients.map((one, number) => one.setnx?.("one", number) ?? one.setNX("one", `${number}`)));
  assert.equal(stored.filter(Boolean).length, 1);
  return clients;
}

await run({
  async ioredis() {
    const [one, other] = await basics(() => connect());
    await one.watch("t");
    await other.set("t", 5);
    assert.equal(await one.multi().incr("t").exec(), null);
    const subscriber = connect();
    await subscriber.subscribe("news");
    const received = new Promise((resolve) => subscriber.on("message", (channel, message) => resolve(message)));
    await one.publish("news", "hello");
    assert.equal(await received, "hello");
  },

  async ioredis_scripts() {
    const clients = await inTasks(() => connect({ scripts: { add: { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" } } }));
    await Promise.all(clients.map(async (one) => { for (let at = 0; at < TIMES; at++) await one.add("n", 2); }));
    assert.equal(await client.get("n"), String(TASKS * TIMES * 2));
    const [one] = clients;
    one.defineCommand("both", { numberOfKeys: 2, lua: "return {KEYS[1], KEYS[2], ARGV[1], #ARGV}" });
    assert.deepEqual(await one.both("a", "b", "c", "d"), ["a", "b", "c", 2]);
    assert.deepEqual(await one.bothBuffer("a", "b", "c"), [Buffer.from("a"), Buffer.from("b"), Buffer.from("c"), 1]);
    await client.script("FLUSH");
    assert.equal(await one.add("n", 1), TASKS * TIMES * 2 + 1);
    assert.deepEqual(await one.pipeline().add("p", 1).add("p", 2).exec(), [[null, 1], [null, 3]]);
    assert.deepEqual(await one.multi().add("p", 1).get("p").exec(), [[null, 4], [null, "4"]]);
    one.defineCommand("fails", { numberOfKeys: 0, lua: "return redis.error_reply('MINE of my own')" });
    await assert.rejects(one.fails(), /MINE of my own/);
  },

  async iovalkey() {
    const { default: Valkey } = await import("iovalkey");
    const clients = await basics(() => new Valkey(address));
    clients[0].defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    assert.equal(await clients[0].add("n", 2), TASKS * TIMES + 2);
    clients.forEach((one) => one.disconnect());
  },

  async redis() {
    const { createClient } = await import("redis");
    const clients = await basics(() => createClient({ url: URL }).connect());
    const subscriber = await clients[0].duplicate().connect();
    const received = new Promise((resolve) => subscriber.subscribe("news", resolve));
    await client.pubsub("NUMSUB", "news");
    while ((await client.pubsub("NUMSUB", "news"))[1] === 0);
    await clients[0].publish("news", "hello");
    assert.equal(await received, "hello");
    [subscriber, ...clients].forEach((one) => one.destroy());
  },

  async redis_scripts() {
    const { createClient, defineScript } = await import("redis");
    const add = defineScript({
      NUMBER_OF_KEYS: 1,
      SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
      parseCommand(parser, key, by) { parser.pushKey(key); parser.push(`${by}`); },
      transformReply: undefined,
    });
    for (const RESP of [2, 3]) {
      await client.flushall();
      const clients = await inTasks(() => createClient({ url: URL, RESP, scripts: { add } }).connect());
      await Promise.all(clients.map(async (one) => { for (let at = 0; at < TIMES; at++) await one.add("n", 2); }));
      assert.equal(await client.get("n"), String(TASKS * TIMES * 2));
      assert.deepEqual(await clients[0].multi().add("m", 1).get("m").exec(), [1, "1"]);
      assert.deepEqual(await clients[0].eval("return {KEYS[1], ARGV[1]}", { keys: ["k"], arguments: ["a"] }), ["k", "a"]);
      clients.forEach((one) => one.destroy());
    }
  },

  async fastify_redis() {
    const { default: fastify } = await import("fastify");
    const { default: plugin } = await import("@fastify/redis");
    const application = fastify();
    await application.register(plugin, { host: HOST, port: PORT });
    application.get("/visit", async () => application.redis.incr("visits"));
    const replies = await inTasks(async () => (await application.inject("/visit")).json());
    assert.deepEqual(replies.sort(), [1, 2, 3, 4]);
    await application.close();
  },
});
