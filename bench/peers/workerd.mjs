// workerd, Cloudflare's runtime: a module compiled once, an instance for each request, over HTTP.

import module from "calc.wasm";

export default {
  fetch() {
    const instance = new WebAssembly.Instance(module);
    return new Response(String(instance.exports.add(20, 22)));
  },
};
