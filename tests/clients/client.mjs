// A client in JavaScript: node client.mjs ADDRESS FOLDER
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import assert from "node:assert/strict";

const [address, folder] = process.argv.slice(2);
const json = { "Content-Type": "application/json" };
const png = { "Content-Type": "image/png" };
const post = (path, body, headers) => fetch(address + path, { method: "POST", body, headers, duplex: "half" });

const picture = await readFile(`${folder}/picture.png`);
const encoded = await (await post("/encode", picture, png)).json();
assert.equal(encoded.mean.length, 1);
assert.equal(encoded.mean[0].length, encoded.variance[0].length);

const decoded = await (await post("/decode", JSON.stringify({ latents: encoded.mean }), json)).json();
assert.equal(decoded.outputs[0].length, 28);

const form = new FormData();
form.append("inputs", new Blob([picture], { type: "image/png" }), "boot.png");
const scores = await (await post("/free-energy?samples=16", form)).json();
assert.ok(Math.abs(scores.free_energy[0] - scores.distortion[0] - scores.rate[0]) < 1e-6);

const sample = await fetch(`${address}/sample?n=4&seed=1&format=png`);
assert.equal(sample.headers.get("content-type"), "image/png");
assert.deepEqual([...new Uint8Array(await sample.arrayBuffer()).slice(1, 4)], [80, 78, 71]);

const refused = await post("/encode", JSON.stringify({ inputs: [[[2]]] }), json);
assert.equal(refused.status, 422);
assert.equal(refused.headers.get("content-type"), "application/problem+json");
assert.ok((await refused.json()).errors[0].place.startsWith("inputs"));

const read = async (response) => {
  const content = await response.text();
  assert.equal(response.status, 200, content);
  return JSON.parse(content);
};
const multipart = new FormData();
multipart.append("inputs", new Blob([picture], { type: "image/png" }), "boot.png");
const answers = {
  picture: encoded,
  json: await read(await post("/encode", await readFile(`${folder}/body.json`), json)),
  npy: await read(await post("/encode", await readFile(`${folder}/body.npy`), { "Content-Type": "application/x-npy" })),
  multipart: await read(await post("/encode", multipart)),
  // A stream has no length, so it is sent in chunks.
  stream: await read(await post("/encode", createReadStream(`${folder}/picture.png`), png)),
};
console.log(JSON.stringify(answers));
