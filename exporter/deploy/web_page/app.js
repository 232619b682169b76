// The page: loads the model, classifies the picture that is chosen, and checks itself against the bundle's answers.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";
import { decode, normalize, pixelsOf } from "./prepare.js";

const facts = await (await fetch("facts.json")).json();
ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
// Threads need SharedArrayBuffer, which browsers give to pages of cross-origin isolation alone (see serve.py).
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const sessions = {};

async function session(file = facts.file) {
  sessions[file] ??= await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return sessions[file];
}

function tensorOf({ height, width, pixels }) {
  if (facts.input.dtype === "uint8") return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  return new ort.Tensor("float32", normalize(facts.preprocessing, { height, width, pixels }), [1, 3, height, width]);
}

async function run(tensor, file) {
  const outputs = await (await session(file)).run({ [facts.input.name]: tensor });
  return Array.from(outputs[facts.output].data);
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((value) => value / sum);
}

async function classify(source, top = 5) {
  const scores = await run(tensorOf(pixelsOf(facts.preprocessing, await decode(source))));
  const probabilities = facts.has_softmax ? scores : softmax(scores);
  return probabilities
    .map((probability, index) => ({ index, label: facts.labels?.[index] ?? `class ${index}`, probability }))
    .sort((one, other) => other.probability - one.probability)
    .slice(0, top);
}

// The golden inputs of the bundle: largest difference from its answers, as a share of the largest answer.
async function selfCheck() {
  const content = new Uint8Array(await (await fetch(facts.golden.file)).arrayBuffer());
  const size = facts.golden.shape.slice(1).reduce((one, other) => one * other, 1);
  const isBytes = facts.input.dtype === "uint8";
  let difference = 0, largest = 0, same = 0;
  for (let image = 0; image < facts.golden.shape[0]; image++) {
    const values = isBytes
      ? content.slice(image * size, (image + 1) * size)
      : new Float32Array(content.buffer, image * size * 4, size);
    const got = await run(new ort.Tensor(facts.input.dtype, values, [1, ...facts.golden.shape.slice(1)]));
    const expected = facts.golden.answers[image];
    expected.forEach((value, place) => {
      difference = Math.max(difference, Math.abs(value - got[place]));
      largest = Math.max(largest, Math.abs(value));
    });
    same += got.indexOf(Math.max(...got)) === expected.indexOf(Math.max(...expected)) ? 1 : 0;
  }
  return { images: facts.golden.shape[0], same, relative_difference: difference / largest };
}

// Milliseconds of one picture; the median of `runs`, of several files in turn.
async function bench(files = [facts.file], runs = 30) {
  const times = Object.fromEntries(files.map((file) => [file, []]));
  const [, ...shape] = facts.golden.shape;
  const size = shape.reduce((one, other) => one * other, 1);
  const data = facts.input.dtype === "uint8" ? new Uint8Array(size) : new Float32Array(size).fill(0.5);
  const tensor = new ort.Tensor(facts.input.dtype, data, [1, ...shape]);
  for (let turn = -3; turn < runs; turn++) {
    for (const file of files) {
      const begin = performance.now();
      await run(tensor, file);
      if (turn >= 0) times[file].push(performance.now() - begin);
    }
  }
  const median = (values) => values.sort((one, other) => one - other)[Math.trunc(values.length / 2)];
  return Object.fromEntries(files.map((file) => [file, median(times[file])]));
}

function show(answers, ms) {
  document.querySelector("#answers").replaceChildren(
    ...answers.map(({ label, probability }) => {
      const row = document.createElement("li");
      const bar = document.createElement("meter");
      bar.value = probability;
      const share = document.createElement("span");
      share.textContent = `${(100 * probability).toFixed(1)} %`;
      const name = document.createElement("b");
      name.textContent = label;
      row.append(name, bar, share);
      return row;
    }),
  );
  document.querySelector("#status").textContent = `${ms.toFixed(0)} ms, from the file to the answer`;
}

async function choose(file) {
  document.querySelector("#picture").src = URL.createObjectURL(file);
  try {
    const begin = performance.now();
    show(await classify(file), performance.now() - begin);
  } catch (error) {
    document.querySelector("#status").textContent = `${file.name} cannot be read as a picture: ${error.message}`;
  }
}

document.title = facts.title;
document.querySelector("h1").textContent = facts.title;
document.querySelector("#about").textContent = facts.about;
document.querySelector("input").addEventListener("change", (event) => choose(event.target.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
});
await session();
const checked = await selfCheck();
document.querySelector("#check").textContent =
  `Checked here: the bundle's answers on ${checked.same} of ${checked.images} stored pictures, ` +
  `largest difference ${checked.relative_difference.toExponential(1)} of the largest score.`;
globalThis.resnetExport = { bench, classify, decode, facts, pixelsOf, run, selfCheck, tensorOf };
document.body.dataset.ready = "yes";
