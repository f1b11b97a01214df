// A client of cairnkv in JavaScript: docs/protocol.md on one page, without dependencies. Needs node 18 or newer.
//
//   import { connect } from "./client.mjs";
//   const kv = await connect("127.0.0.1", 6555);  // or connect(host, port, [user, secret])
//   await kv.set("greeting", "hello");
//   console.log(String(await kv.get("greeting")));  // null where there is no such key
//
// Or as a program: node client.mjs ping | get KEY | set KEY VALUE | clear KEY | incr KEY [N] | keys [PREFIX] |
// call NUMBER [ARGUMENT...]. CAIRNKV_URL names the server, cairn://[USER:SECRET@]HOST:PORT. Exit codes: 0 for found,
// 1 for not found, 2 for an error.

import net from "node:net";
import { pathToFileURL } from "node:url";

/** A failure. executed: false (safe to repeat), or null if the outcome is unknown. */
export class CairnError extends Error {
  constructor(message, executed) {
    super(message);
    this.code = message.split(" ", 1)[0];
    this.executed = executed;
  }
}

// -- bytes ------------------------------------------------------------------------------------------------------------

function be32(number) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

/** Encode a command: header 0, number, from number 16 on the count of strings, then each string with its length. */
function frame(number, strings) {
  const parts = [Buffer.from([0, number >> 8, number & 0xff])];
  if (number >= 16) parts.push(be32(strings.length));
  for (const string of strings) {
    const bytes = Buffer.from(string);
    parts.push(be32(bytes.length), bytes);
  }
  return Buffer.concat(parts);
}

/** Decode a reply of several strings; null stands for an absent key. */
function items(payload) {
  const found = [];
  for (let at = 0; at < payload.length; ) {
    const length = payload.readUInt32BE(at);
    const end = at + 4 + (length === 0xffffffff ? 0 : length);
    found.push(length === 0xffffffff ? null : payload.subarray(at + 4, end));
    at = end;
  }
  return found;
}

// -- a connection -----------------------------------------------------------------------------------------------------

export class Client {
  #socket;
  #received = Buffer.alloc(0);
  #waiting = []; // commands without a reply, in order
  #ended = null; // the reason why the connection ended

  constructor(socket) {
    this.#socket = socket;
    socket.on("data", (bytes) => this.#read(bytes));
    socket.on("error", (error) => (this.#ended ??= error.message));
    socket.on("close", () => this.#end());
  }

  /** Send a command. Resolves to the reply's payload, or null for "Key not found". Calls may overlap (pipelining). */
  call(number, ...strings) {
    return new Promise((resolve, reject) => {
      if (this.#ended !== null) return reject(new CairnError(`UNSENT ${this.#ended}`, false));
      this.#waiting.push({ resolve, reject });
      this.#socket.write(frame(number, strings));
    });
  }

  #read(bytes) {
    this.#received = Buffer.concat([this.#received, bytes]);
    while (this.#received.length >= 6 && this.#waiting.length) {
      const [header, status] = this.#received;
      const end = 6 + this.#received.readUInt32BE(2);
      if (this.#received.length < end) return;
      const payload = this.#received.subarray(6, end);
      this.#received = this.#received.subarray(end);
      const { resolve, reject } = this.#waiting.shift();
      if (!(status & 1)) resolve(payload);
      else if (header & 0x01) resolve(null);
      else reject(new CairnError(String(payload), header & 0x04 ? null : !(header & 0x02)));
    }
  }

  #end() {
    this.#ended ??= "the server closed the connection";
    // The server may have received these commands: a read is safe to repeat, the outcome of a write is unknown.
    for (const { reject } of this.#waiting.splice(0)) reject(new CairnError(`LOST ${this.#ended}`, null));
  }

  close() {
    this.#socket.end();
  }

  ping = async (text = "") => String(await this.call(3, text));
  get = (key) => this.call(0, checked(key));
  set = async (key, value) => void (await this.call(1, checked(key), value));
  clear = async (key) => void (await this.call(2, checked(key)));
  incr = async (key, n = 1) => BigInt(String(await this.call(24, checked(key), String(n))));

  /** Iterate over all keys with a prefix, slice by slice, until the cursor is 0 again. */
  async *keys(prefix = "") {
    let cursor = "0";
    do {
      const [next, ...keys] = items(await this.call(28, cursor, "1000", prefix));
      yield* keys;
      cursor = String(next);
    } while (cursor !== "0");
  }
}

/** Refuse keys that the client must not send: a two-byte GET of an empty key looks like the beginning of another frame. */
function checked(key) {
  const length = Buffer.byteLength(key);
  if (length < 1 || length > 65535) throw new RangeError(`a key has 1 to 65,535 bytes, this one ${length}`);
  return key;
}

export async function connect(host = "127.0.0.1", port = 6555, login = []) {
  const client = new Client(net.connect({ host, port, noDelay: true, keepAlive: true }));
  try {
    // PING as a first frame also fixes the width of command numbers. AUTH (44) needs no round trip of its own.
    await Promise.all([...(login.length ? [client.call(44, ...login)] : []), client.ping()]);
  } catch (error) {
    client.close();
    throw error;
  }
  return client;
}

// -- as a program -----------------------------------------------------------------------------------------------------

const USES = {
  ping: async (kv) => kv.ping(),
  get: async (kv, key) => kv.get(key),
  set: async (kv, key, value) => (await kv.set(key, value), "OK"),
  clear: async (kv, key) => (await kv.clear(key), "OK"),
  incr: async (kv, key, n = 1) => String(await kv.incr(key, n)),
  call: async (kv, number, ...strings) => kv.call(Number(number), ...strings),
};

async function main([word, ...strings]) {
  const { hostname, port, username, password } = new URL(process.env.CAIRNKV_URL ?? "cairn://127.0.0.1:6555");
  const login = password ? [username || "default", password].map(decodeURIComponent) : [];
  const kv = await connect(hostname.replace(/^\[|\]$/g, ""), Number(port || 6555), login);
  try {
    if (word === "keys") {
      for await (const key of kv.keys(...strings)) process.stdout.write(Buffer.concat([key, Buffer.from("\n")]));
      return 0;
    }
    if (!(word in USES)) throw new Error("ping | get | set | clear | incr | keys | call");
    const found = await USES[word](kv, ...strings);
    if (found === null) return 1;
    process.stdout.write(Buffer.concat([Buffer.from(found), Buffer.from("\n")]));
    return 0;
  } finally {
    kv.close();
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = await main(process.argv.slice(2)).catch((error) => {
    console.error(`client.mjs: ${error.message}`);
    return 2;
  });
}
