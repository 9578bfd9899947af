"use strict";
// From pictures to the network's pixels, as the training images were made. Planes are C * side * side, 0 ... 255.

/** ITU-R 601 luma, as Pillow converts to grey, or the three colour planes, of RGBA bytes on white. */
function planesOf(rgba, channels) {
  const count = rgba.length / 4;
  const planes = new Float32Array(channels * count);
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) planes[i] = Math.round((299 * r + 587 * g + 114 * b) / 1000);
    else planes.set([r], i), planes.set([g], count + i), planes.set([b], 2 * count + i);
  }
  return planes;
}

/** Weights of the inputs for each output of a bilinear, antialiased resize (torchvision's and Pillow's). */
function resizeWeights(from, to) {
  const scale = from / to;
  const support = Math.max(1, scale);
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const end = Math.min(from, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let at = first; at < end; at++) {
      weights.push(Math.max(0, 1 - Math.abs((at + 0.5 - centre) / support)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** Planes of height x width, resized and rounded. */
function resize(planes, channels, height, width, toHeight, toWidth) {
  if (height === toHeight && width === toWidth) return planes;
  const across = resizeWeights(width, toWidth);
  const down = resizeWeights(height, toHeight);
  const narrow = new Float32Array(channels * height * toWidth);
  for (let row = 0; row < channels * height; row++) {
    across.forEach(({ first, weights }, x) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * planes[row * width + first + i];
      narrow[row * toWidth + x] = sum;
    });
  }
  const result = new Float32Array(channels * toHeight * toWidth);
  for (let c = 0; c < channels; c++) {
    down.forEach(({ first, weights }, y) => {
      for (let x = 0; x < toWidth; x++) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++) sum += weights[i] * narrow[(c * height + first + i) * toWidth + x];
        result[(c * toHeight + y) * toWidth + x] = Math.round(Math.min(255, Math.max(0, sum)));
      }
    });
  }
  return result;
}

/** The short side resized to `resizeTo`, then the central square of `side`: what evaluation does. */
function evaluationView(planes, channels, height, width, side, resizeTo) {
  const short = Math.min(height, width);
  const toHeight = height === short ? resizeTo : Math.trunc((resizeTo * height) / short);
  const toWidth = width === short ? resizeTo : Math.trunc((resizeTo * width) / short);
  const resized = resize(planes, channels, height, width, toHeight, toWidth);
  const top = halfOf(toHeight - side);
  const left = halfOf(toWidth - side);
  const result = new Float32Array(channels * side * side);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < side; y++) {
      const from = (c * toHeight + top + y) * toWidth + left;
      result.set(resized.subarray(from, from + side), (c * side + y) * side);
    }
  }
  return result;
}

/** Half of an integer, rounded to the even neighbour as Python does. */
function halfOf(count) {
  const below = Math.floor(count / 2);
  return count % 2 && below % 2 ? below + 1 : below;
}

/** Means of blocks of factor x factor pixels, rounded. */
function blockMeans(planes, channels, side, factor) {
  const small = side / factor;
  const result = new Float32Array(channels * small * small);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        result[(c * small + Math.floor(y / factor)) * small + Math.floor(x / factor)] += planes[(c * side + y) * side + x];
      }
    }
  }
  return result.map((sum) => Math.round(sum / (factor * factor)));
}

/** RGBA ImageData of planes. */
function imageOf(planes, channels, side) {
  const image = new ImageData(side, side);
  const count = side * side;
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = planes[channels === 1 ? i : c * count + i];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

/** A canvas that shows an ImageData, to be drawn at any size. */
function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
