// Caches and sessions: keyv, cacheable, cache-manager, cache-manager-ioredis-yet, unstorage, connect-redis.
import assert from "node:assert/strict";
import { HOST, PORT, TASKS, URL, client, inTasks, run } from "./shared.mjs";

await run({
  async keyv() {
    const { default: Keyv } = await import("keyv");
    const { default: KeyvRedis } = await import("@keyv/redis");
    const cache = new Keyv({ store: new KeyvRedis(URL), namespace: "app" });
    await inTasks((number) => cache.set(`k${number}`, { number }, 100_000));
    assert.deepEqual(await cache.get("k1"), { number: 1 });
    assert.deepEqual(await cache.get(["k0", "nothing"]), [{ number: 0 }, undefined]);
    assert.equal(await cache.has("k2"), true);
    assert.equal(await cache.delete("k2"), true);
    assert.equal(await cache.has("k2"), false);
    await client.set("other", "stays");
    await cache.clear();
    assert.deepEqual(await client.keys("*"), ["other"]);
    await cache.disconnect();
  },

  async cacheable() {
    const { Cacheable } = await import("cacheable");
    const { default: KeyvRedis } = await import("@keyv/redis");
    const [one, other] = [new Cacheable({ secondary: new KeyvRedis(URL) }), new Cacheable({ secondary: new KeyvRedis(URL) })];
    assert.equal(await one.set("k", { any: "object" }, "1h"), true);
    assert.deepEqual(await other.get("k"), { any: "object" });
    await one.setMany([{ key: "a", value: 1 }, { key: "b", value: 2 }]);
    assert.deepEqual(await other.getMany(["a", "b"]), [1, 2]);
    let made = 0;
    const slow = one.wrap(async (n) => { made++; return n * 2; }, { ttl: "1h", keyPrefix: "slow" });
    assert.deepEqual([await slow(4), await slow(4)], [8, 8]);
    assert.equal(made, 1);
    await one.delete("k");
    await one.disconnect();
    await other.disconnect();
  },

  async cache_manager() {
    const { createCache } = await import("cache-manager");
    const { default: Keyv } = await import("keyv");
    const { default: KeyvRedis } = await import("@keyv/redis");
    const cache = createCache({ stores: [new Keyv({ store: new KeyvRedis(URL) })], ttl: 100_000 });
    let made = 0;
    const values = await inTasks(() => cache.wrap("k", async () => { made++; return "made"; }));
    assert.deepEqual(values, Array(TASKS).fill("made"));
    assert.equal(made, 1);
    await cache.mset([{ key: "a", value: 1 }, { key: "b", value: 2 }]);
    assert.deepEqual(await cache.mget(["a", "b"]), [1, 2]);
    await cache.del("a");
    assert.equal((await cache.get("a")) ?? null, null);
    await cache.clear();
    await cache.disconnect();
  },

  async cache_manager_ioredis() {
    const { redisStore } = await import("cache-manager-ioredis-yet");
    const store = await redisStore({ host: HOST, port: PORT, ttl: 100_000 });
    await inTasks((number) => store.set(`k${number}`, { number }));
    assert.deepEqual(await store.get("k1"), { number: 1 });
    await store.mset([["a", 1], ["b", 2]]);
    assert.deepEqual(await store.mget("a", "b"), [1, 2]);
    assert.ok((await store.ttl("a")) > 0);
    assert.equal((await store.keys("k*")).length, TASKS);
    await store.del("a");
    await store.reset();
    assert.deepEqual(await client.keys("*"), []);
    store.client.disconnect();
  },

  async unstorage() {
    const { createStorage } = await import("unstorage");
    const { default: driver } = await import("unstorage/drivers/redis");
    const storage = createStorage({ driver: driver({ base: "app", host: HOST, port: PORT, ttl: 100 }) });
    await inTasks((number) => storage.setItem(`k:${number}`, { number }));
    assert.deepEqual(await storage.getItem("k:1"), { number: 1 });
    assert.equal((await storage.getKeys("k")).length, TASKS);
    await storage.removeItem("k:1");
    assert.equal(await storage.hasItem("k:1"), false);
    await storage.clear();
    await storage.dispose();
  },

  async connect_redis() {
    const { default: express } = await import("express");
    const { default: session } = await import("express-session");
    const { RedisStore } = await import("connect-redis");
    const { createClient } = await import("redis");
    const connected = await createClient({ url: URL }).connect();
    const application = express();
    const store = new RedisStore({ client: connected, prefix: "app:" });
    application.use(session({ store, secret: "tests only", resave: false, saveUninitialized: false }));
    application.get("/visit", (request, response) => {
      request.session.visits = (request.session.visits ?? 0) + 1;
      response.json(request.session.visits);
    });
    application.get("/leave", (request, response) => request.session.destroy(() => response.json("left")));
    const server = application.listen(0, HOST);
    await new Promise((resolve) => server.once("listening", resolve));
    const base = `http://${HOST}:${server.address().port}`;
    await inTasks(async () => {
      const first = await fetch(`${base}/visit`);
      const headers = { cookie: first.headers.get("set-cookie").split(";")[0] };
      const visit = async () => (await fetch(`${base}/visit`, { headers })).json();
      assert.deepEqual([await first.json(), await visit(), await visit()], [1, 2, 3]);
      await (await fetch(`${base}/leave`, { headers })).json();
      assert.equal(await visit(), 1);
    });
    const length = await new Promise((resolve) => store.length((error, n) => resolve(n)));
    assert.equal(length, TASKS);
    server.close();
    connected.destroy();
  },
});
