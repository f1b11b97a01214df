// Locks and semaphores: redlock, @sesamecare-oss/redlock, redis-semaphore.
import assert from "node:assert/strict";
import { TASKS, addOne, assertCount, assertNoLockLeft, client, connect, inTasks, run } from "./shared.mjs";

async function redlock(Redlock) {
  const settings = { retryCount: -1, retryDelay: 5, retryJitter: 5 };
  await inTasks(async () => {
    const manager = new Redlock([connect()], settings);
    for (let at = 0; at < 5; at++) {
      const lock = await manager.acquire(["lock"], 60_000);
      await addOne();
      await lock.release();
    }
  });
  await assertCount(TASKS * 5);
  await assertNoLockLeft();
  const manager = new Redlock([connect()], { retryCount: 0 });
  let lock = await manager.acquire(["a", "b"], 5_000);
  await assert.rejects(new Redlock([connect()], { retryCount: 0 }).acquire(["b"], 5_000));
  lock = await lock.extend(60_000);
  assert.ok((await client.pttl("a")) > 5_000);
  await client.set("a", "another owner");
  await lock.release().catch(() => {});
  assert.equal(await client.get("a"), "another owner");
}

await run({
  redlock: async () => redlock((await import("redlock")).default),
  sesamecare_redlock: async () => redlock((await import("@sesamecare-oss/redlock")).Redlock),

  async redis_semaphore() {
    const { Mutex } = await import("redis-semaphore");
    const settings = { lockTimeout: 60_000, acquireTimeout: 60_000, retryInterval: 2 };
    await inTasks(async () => {
      const connected = connect();
      for (let at = 0; at < 5; at++) {
        const mutex = new Mutex(connected, "lock", settings);
        await mutex.acquire();
        await addOne();
        await mutex.release();
      }
    });
    await assertCount(TASKS * 5);
    await assertNoLockLeft();
    const held = new Mutex(client, "held", settings);
    await held.acquire();
    assert.equal(await new Mutex(client, "held", { ...settings, acquireAttemptsLimit: 1 }).tryAcquire(), false);
    await held.release();
    await assertNoLockLeft();
  },
});
