// Run ONNX files in onnxruntime-node or onnxruntime-web (WASM, under node), as anybody opens them.
//
//     node worker.mjs PACKAGE NODE_MODULES INPUTS.bin "n,c,h,w" ANSWERS.json FILE...
//
// INPUTS.bin holds float32 values; ANSWERS.json gets the first output of every file, one list per image, by name.
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, resolve } from "node:path";

const [name, modules, inputs, shape, answers, ...files] = process.argv.slice(2);
const require = createRequire(resolve(modules, "package.json"));
const ort = require(name);
if (ort.env?.wasm) ort.env.wasm.numThreads = 1;

const dims = shape.split(",").map(Number);
const size = dims.slice(1).reduce((product, value) => product * value, 1);
const bytes = readFileSync(inputs);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, dims[0] * size);

const found = {};
for (const file of files) {
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(file)));
  found[basename(file)] = [];
  for (let place = 0; place < dims[0]; place++) {
    const image = new ort.Tensor("float32", values.slice(place * size, (place + 1) * size), [1, ...dims.slice(1)]);
    const result = await session.run({ [session.inputNames[0]]: image });
    found[basename(file)].push(Array.from(result[session.outputNames[0]].data));
  }
}
writeFileSync(answers, JSON.stringify(found));
console.log(JSON.parse(readFileSync(resolve(modules, name, "package.json"))).version);
process.exit(0);
