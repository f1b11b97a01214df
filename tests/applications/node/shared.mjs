// The server's address, tasks that contend, and the command line of the programs beside this file.
import assert from "node:assert/strict";
import Redis from "ioredis";

export const HOST = process.env.HOST;
export const PORT = Number(process.env.PORT);
export const URL = `redis://${HOST}:${PORT}`;
export const TASKS = 4;
export const TIMES = 25;

export const address = { host: HOST, port: PORT, maxRetriesPerRequest: 1 };
const clients = [];

// Return a new client of ioredis, which is closed at the end.
export function connect(options = {}) {
  const client = new Redis({ ...address, ...options });
  clients.push(client);
  return client;
}

// The client by which programs look at keys.
export const client = connect();

// Call an asynchronous function several times at once, each with a number.
export function inTasks(work, tasks = TASKS) {
  return Promise.all(Array.from({ length: tasks }, (_, number) => work(number)));
}

// Add 1 by a read and a write, which loses additions unless a lock excludes others.
export async function addOne(key = "count") {
  const before = Number(await client.get(key));
  await client.ping();
  await client.set(key, before + 1);
}

export async function assertCount(expected, key = "count") {
  assert.equal(Number(await client.get(key)), expected);
}

export async function assertNoLockLeft() {
  assert.deepEqual((await client.keys("*")).filter((key) => key !== "count"), []);
}

// Run the use that the command line names. A use fails by an exception.
export async function run(uses) {
  try {
    await uses[process.argv[2]]();
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
  for (const one of clients) one.disconnect();
  process.exit(0);
}

// Send requests one after another, in several tasks. Return the number of each status.
export async function statuses(url, tasks = TASKS, requests = TIMES) {
  const counts = {};
  await inTasks(async () => {
    for (let at = 0; at < requests; at++) {
      const response = await fetch(url);
      await response.arrayBuffer();
      counts[response.status] = (counts[response.status] ?? 0) + 1;
    }
  }, tasks);
  return counts;
}

// Call a function until it returns a true value.
export async function until(condition) {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 10));
}
