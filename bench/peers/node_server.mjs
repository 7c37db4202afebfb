// Node's own WebAssembly: a module compiled once, an instance for each request, over HTTP.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";

const module = new WebAssembly.Module(readFileSync(process.argv[2]));

const server = createServer((request, response) => {
  const instance = new WebAssembly.Instance(module);
  response.end(String(instance.exports.add(20, 22)));
});

server.listen(0, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
