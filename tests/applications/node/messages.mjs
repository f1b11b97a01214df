// Messages between servers: Socket.IO's adapter and emitter, graphql-redis-subscriptions.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { HOST, PORT, TASKS, client, connect, inTasks, run, until } from "./shared.mjs";

async function server(adapter) {
  const { Server } = await import("socket.io");
  const http = createServer();
  const io = new Server(http, { adapter });
  io.on("connection", (socket) => socket.join("room"));
  await new Promise((resolve) => http.listen(0, HOST, resolve));
  return { io, url: `http://${HOST}:${http.address().port}` };
}

async function browsers(servers) {
  const { io } = await import("socket.io-client");
  const sockets = servers.map(({ url }) => io(url, { transports: ["websocket"] }));
  await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once("connect", resolve))));
  return sockets;
}

const next = (socket, event) => new Promise((resolve) => socket.once(event, resolve));

await run({
  async socketio_adapter() {
    const { createAdapter } = await import("@socket.io/redis-adapter");
    const servers = await inTasks(() => server(createAdapter(connect(), connect())));
    await until(async () => (await servers[0].io.of("/").adapter.serverCount()) === TASKS);
    const sockets = await browsers(servers);
    const received = Promise.all(sockets.map((socket) => next(socket, "news")));
    servers[0].io.to("room").emit("news", "hello");
    assert.deepEqual(await received, Array(TASKS).fill("hello"));
    assert.equal((await servers[1].io.fetchSockets()).length, TASKS);
    sockets.forEach((socket) => socket.close());
    servers.forEach(({ io }) => io.close());
  },

  async socketio_emitter() {
    const { createAdapter } = await import("@socket.io/redis-adapter");
    const { Emitter } = await import("@socket.io/redis-emitter");
    const one = await server(createAdapter(connect(), connect()));
    const [socket] = await browsers([one]);
    const received = next(socket, "news");
    new Emitter(client).to("room").emit("news", "from another process");
    assert.equal(await received, "from another process");
    socket.close();
    one.io.close();
  },

  async graphql_subscriptions() {
    const { RedisPubSub } = await import("graphql-redis-subscriptions");
    const pubsub = new RedisPubSub({ publisher: connect(), subscriber: connect() });
    const received = [];
    const subscriptions = await inTasks(() => pubsub.subscribe("news", (message) => received.push(message)));
    await pubsub.publish("news", { text: "hello" });
    await until(() => received.length === TASKS);
    assert.deepEqual(received, Array(TASKS).fill({ text: "hello" }));
    subscriptions.forEach((subscription) => pubsub.unsubscribe(subscription));
    await pubsub.close();
  },
});
