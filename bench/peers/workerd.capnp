using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .calculator)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);

const calculator :Workerd.Worker = (
  modules = [
    (name = "workerd.mjs", esModule = embed "workerd.mjs"),
    (name = "calc.wasm", wasm = embed "../../fixtures/wasm/calc.wasm"),
  ],
  compatibilityDate = "2026-01-01",
);
