// `node work.mjs MODULE FUNCTION NUMBER`: calls a function of a module, and prints what it returned.

import { readFileSync } from "node:fs";

const [file, name, number] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(file), {});
console.log(instance.exports[name](Number(number)) >>> 0);
