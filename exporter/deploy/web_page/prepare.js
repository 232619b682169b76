// From a picture to the model's input, as the bundle's manifest says: decode, resize, crop, normalize.

import { resize } from "./resample.js";

// A picture file or element as RGB; what is transparent is laid over white, the EXIF orientation is applied.
export async function decode(source) {
  const bitmap = await createImageBitmap(source, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const pixels = new Uint8Array(bitmap.width * bitmap.height * 3);
  for (let source = 0, target = 0; source < data.length; source += 4) {
    pixels[target++] = data[source];
    pixels[target++] = data[source + 1];
    pixels[target++] = data[source + 2];
  }
  return { height: bitmap.height, width: bitmap.width, pixels };
}

// [height, width] after the resize; the longer side is cut to a whole number, not rounded.
function resizedSize(resizeTo, image) {
  if (resizeTo === null) return [image.height, image.width];
  if (resizeTo.shorter_side === undefined) return [resizeTo.height, resizeTo.width];
  const side = resizeTo.shorter_side;
  if (image.width <= image.height) return [Math.trunc((side * image.height) / image.width), side];
  return [side, Math.trunc((side * image.width) / image.height)];
}

// Where the crop begins, < 0 for padding: an odd padding has its extra pixel at the end, a tie rounds to even.
function cropOffset(side, crop) {
  if (crop > side) return -Math.trunc((crop - side) / 2);
  const half = Math.trunc((side - crop) / 2);
  return (side - crop) % 2 === 0 ? half : half + (half % 2);
}

function centerCrop(image, { height, width, fill }) {
  const left = cropOffset(image.width, width);
  const top = cropOffset(image.height, height);
  const pixels = new Uint8Array(height * width * 3);
  if (fill !== undefined) for (let place = 0; place < pixels.length; place++) pixels[place] = fill[place % 3];
  const first = Math.max(0, left);
  const end = Math.min(image.width, left + width);
  for (let y = 0; y < height; y++) {
    const row = top + y;
    if (row < 0 || row >= image.height) continue;
    const source = (row * image.width + first) * 3;
    pixels.set(image.pixels.subarray(source, source + (end - first) * 3), (y * width + first - left) * 3);
  }
  return { height, width, pixels };
}

// The pixels that the model sees, RGB.
export function pixelsOf(preprocessing, image) {
  const [height, width] = resizedSize(preprocessing.resize, image);
  const resized = height === image.height && width === image.width
    ? image
    : resize(image, height, width, preprocessing.interpolation);
  return preprocessing.crop === null ? resized : centerCrop(resized, preprocessing.crop);
}

// float32 [3, H, W], in the order of operations that float32 rounds alike everywhere.
export function normalize({ mean, std }, { height, width, pixels }) {
  const area = height * width;
  const values = new Float32Array(area * 3);
  for (let channel = 0; channel < 3; channel++) {
    const center = Math.fround(mean[channel]);
    const spread = Math.fround(std[channel]);
    for (let place = 0; place < area; place++) {
      const scaled = Math.fround(pixels[place * 3 + channel] / 255);
      values[channel * area + place] = Math.fround(Math.fround(scaled - center) / spread);
    }
  }
  return values;
}
