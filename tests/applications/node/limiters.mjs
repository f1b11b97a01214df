// Rate limiters: rate-limiter-flexible, rate-limit-redis, @fastify/rate-limit, @nest-lab/throttler-storage-redis.
import assert from "node:assert/strict";
import { HOST, TASKS, TIMES, client, connect, inTasks, run, statuses } from "./shared.mjs";

const LIMIT = 30;
const DAY = 24 * 3600;
const EXPECTED = { 200: LIMIT, 429: TASKS * TIMES - LIMIT };

await run({
  async rate_limiter_flexible() {
    const { RateLimiterRedis, BurstyRateLimiter } = await import("rate-limiter-flexible");
    let allowed = 0;
    await inTasks(async () => {
      const limiter = new RateLimiterRedis({ storeClient: connect(), points: LIMIT, duration: DAY, keyPrefix: "app" });
      for (let at = 0; at < TIMES; at++) {
        await limiter.consume("user").then(() => allowed++, (refused) => {
          if (refused instanceof Error) throw refused;
          assert.ok(refused.msBeforeNext > 0);
        });
      }
    });
    assert.equal(allowed, LIMIT);
    const limiter = new RateLimiterRedis({ storeClient: client, points: 5, duration: DAY, blockDuration: 100, keyPrefix: "b" });
    assert.equal((await limiter.consume("user", 2)).remainingPoints, 3);
    assert.equal((await limiter.penalty("user", 1)).consumedPoints, 3);
    assert.equal((await limiter.reward("user", 1)).consumedPoints, 2);
    assert.equal((await limiter.get("user")).remainingPoints, 3);
    assert.equal(await limiter.delete("user"), true);
    await limiter.block("user", 50);
    await assert.rejects(limiter.consume("user").catch((refused) => { throw new Error(`blocked ${refused.msBeforeNext > 0}`); }), /blocked true/);
    assert.ok(BurstyRateLimiter);
  },

  async rate_limit_redis() {
    const { default: express } = await import("express");
    const { rateLimit } = await import("express-rate-limit");
    const { RedisStore } = await import("rate-limit-redis");
    const application = express();
    const store = new RedisStore({ sendCommand: (command, ...rest) => client.call(command, ...rest) });
    application.use(rateLimit({ windowMs: DAY * 1000, limit: LIMIT, standardHeaders: "draft-7", store }));
    application.get("/", (request, response) => response.send("served"));
    const server = application.listen(0, HOST);
    await new Promise((resolve) => server.once("listening", resolve));
    assert.deepEqual(await statuses(`http://${HOST}:${server.address().port}/`), EXPECTED);
    server.close();
  },

  async fastify_rate_limit() {
    const { default: fastify } = await import("fastify");
    const { default: limit } = await import("@fastify/rate-limit");
    const application = fastify();
    await application.register(limit, { max: LIMIT, timeWindow: DAY * 1000, redis: client });
    application.get("/", async () => "served");
    const url = await application.listen({ host: HOST, port: 0 });
    assert.deepEqual(await statuses(url), EXPECTED);
    await application.close();
  },

  async nest_throttler() {
    await import("reflect-metadata");
    const { ThrottlerStorageRedisService } = await import("@nest-lab/throttler-storage-redis");
    const storages = await inTasks(() => new ThrottlerStorageRedisService(connect()));
    let allowed = 0;
    await Promise.all(storages.map(async (storage) => {
      for (let at = 0; at < TIMES; at++) {
        const record = await storage.increment("user", DAY * 1000, LIMIT, DAY * 1000, "default");
        if (!record.isBlocked) allowed++;
      }
    }));
    assert.equal(allowed, LIMIT);
  },
});
