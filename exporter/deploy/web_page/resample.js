// Pillow 13's resize of RGB pictures, to the bit: the same filters, fixed-point weights and order of passes as
// examples/jetson/cpp/resample.cpp. A picture is { height, width, pixels: Uint8Array of height * width * 3 }.

const FRACTION_BITS = 22; // 32 - 8 bits of a pixel - 2 spare ones
const ONE = 2 ** FRACTION_BITS;
const HALF = 2 ** (FRACTION_BITS - 1);

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// name -> [radius in source pixels at scale 1, weight at a distance]
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, hamming],
  bicubic: [2, bicubic],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function hamming(x) {
  const distance = Math.abs(x);
  if (distance === 0) return 1;
  if (distance >= 1) return 0;
  const angle = distance * Math.PI;
  return (Math.sin(angle) / angle) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(angle));
}

function bicubic(x) {
  const a = -0.5;
  const distance = Math.abs(x);
  if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
  if (distance < 2) return (((distance - 5) * distance + 8) * distance - 4) * a;
  return 0;
}

// Which source pixels make one output pixel, and how much of each in fixed point.
function tapsOf(oldSize, newSize, [radius, weightAt]) {
  const scale = oldSize / newSize;
  const stretch = Math.max(scale, 1); // antialiasing: the filter widens when the picture shrinks
  const support = radius * stretch;
  const step = 1 / stretch;
  const all = [];
  for (let place = 0; place < newSize; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(oldSize, Math.trunc(center + support + 0.5));
    const weights = [];
    let sum = 0;
    for (let source = first; source < end; source++) {
      weights.push(weightAt((source - center + 0.5) * step));
      sum += weights[weights.length - 1];
    }
    const fixed = weights.map((weight) => {
      const share = (sum !== 0 ? weight / sum : weight) * ONE;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    all.push({ first, weights: fixed });
  }
  return all;
}

const rounded = (sum) => Math.min(255, Math.max(0, (sum + HALF) >> FRACTION_BITS));

function resampleColumns(image, newWidth, filter) {
  const taps = tapsOf(image.width, newWidth, filter);
  const pixels = new Uint8Array(image.height * newWidth * 3);
  let target = 0;
  for (let y = 0; y < image.height; y++) {
    for (const { first, weights } of taps) {
      let source = (y * image.width + first) * 3;
      let red = 0, green = 0, blue = 0;
      for (const weight of weights) {
        red += weight * image.pixels[source++];
        green += weight * image.pixels[source++];
        blue += weight * image.pixels[source++];
      }
      pixels[target++] = rounded(red);
      pixels[target++] = rounded(green);
      pixels[target++] = rounded(blue);
    }
  }
  return { height: image.height, width: newWidth, pixels };
}

function resampleRows(image, newHeight, filter) {
  const taps = tapsOf(image.height, newHeight, filter);
  const length = image.width * 3;
  const pixels = new Uint8Array(newHeight * length);
  taps.forEach(({ first, weights }, y) => {
    for (let place = 0; place < length; place++) {
      let sum = 0;
      let source = first * length + place;
      for (const weight of weights) {
        sum += weight * image.pixels[source];
        source += length;
      }
      pixels[y * length + place] = rounded(sum);
    }
  });
  return { height: newHeight, width: image.width, pixels };
}

// The position is added up, not multiplied, because Pillow does, and the rounding decides which pixel is nearest.
function nearestOf(oldSize, newSize) {
  const scale = oldSize / newSize;
  const sources = [];
  for (let place = 0, position = scale * 0.5; place < newSize; place++, position += scale) {
    sources.push(position < oldSize ? Math.trunc(position) : -1);
  }
  return sources;
}

function resizeNearest(image, height, width) {
  const pixels = new Uint8Array(height * width * 3);
  const columns = nearestOf(image.width, width);
  let target = 0;
  for (const row of nearestOf(image.height, height)) {
    for (const column of columns) {
      if (row >= 0 && column >= 0) {
        const source = (row * image.width + column) * 3;
        pixels.set(image.pixels.subarray(source, source + 3), target);
      }
      target += 3;
    }
  }
  return { height, width, pixels };
}

export function resize(image, height, width, interpolation) {
  if (interpolation === "nearest") return resizeNearest(image, height, width);
  const filter = FILTERS[interpolation];
  if (filter === undefined) throw new Error(`interpolation: got "${interpolation}", expected a filter of Pillow`);
  // A pass that would change no size is left out; which comes first shows in the last bit.
  const columns = (picture) => (picture.width === width ? picture : resampleColumns(picture, width, filter));
  const rows = (picture) => (picture.height === height ? picture : resampleRows(picture, height, filter));
  const rowsFirst = height < image.height && image.height - height > 2 * (image.width - width);
  return rowsFirst ? columns(rows(image)) : rows(columns(image));
}
