"use strict";
// The forward pass of a chain of layers. Values are float32 between layers, as in PyTorch; sums are float64.

/** The float32 numbers of a base64 string. */
function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Channels, height and width of a shape [C, H, W], or of a vector [C]. */
function dimensions(shape) {
  const [channels, height = 1, width = 1] = shape;
  return { channels, height, width };
}

/** The layers of a description, with their arrays, and the region of the input that each unit sees. */
class Network {
  constructor(description, numbers) {
    const { channels, side } = description.input;
    this.inputSize = channels * side * side;
    this.layers = [];
    let input = dimensions([channels, side, side]);
    for (const entry of description.layers) {
      const arrays = {};
      for (const [name, [start, count]] of Object.entries(entry.arrays)) {
        arrays[name] = numbers.subarray(start, start + count);
      }
      const layer = { ...entry, arrays, input, output: dimensions(entry.shape) };
      this.layers.push(layer);
      input = layer.output;
    }
  }

  /** The output of every layer, Float32Array[], for the pixels of one image in [0, 1]. */
  run(pixels) {
    const outputs = [];
    let values = pixels;
    for (const layer of this.layers) {
      values = COMPUTE[layer.kind](layer, values);
      outputs.push(values);
    }
    return outputs;
  }

  /** Layer name -> Float32Array, in order of execution, for a Float32Array of C * H * W pixels in [0, 1]. */
  forward(pixels) {
    if (pixels.length !== this.inputSize) {
      throw new RangeError(`The network takes ${this.inputSize} pixels, not ${pixels.length}.`);
    }
    const outputs = this.run(Float32Array.from(pixels));
    return Object.fromEntries(this.layers.map((layer, index) => [layer.name, outputs[index]]));
  }

  /**
   * The box of a layer's input that a box of its output is computed from. Boxes are
   * {c0, c1, y0, y1, x0, x1}, ends excluded.
   */
  source(layer, box) {
    const { channels, height, width } = layer.input;
    const whole = { c0: 0, c1: channels, y0: 0, y1: height, x0: 0, x1: width };
    switch (layer.kind) {
      case "conv": {
        const size = channels / layer.groups;
        const outputs = layer.output.channels / layer.groups;
        const [y0, y1] = convSpan(layer, 0, box.y0, box.y1, height);
        const [x0, x1] = convSpan(layer, 1, box.x0, box.x1, width);
        const first = Math.floor(box.c0 / outputs);
        const last = Math.floor((box.c1 - 1) / outputs);
        return { c0: first * size, c1: (last + 1) * size, y0, y1, x0, x1 };
      }
      case "max_pool":
      case "avg_pool":
        return {
          ...box,
          y0: layer.rows[box.y0][0], y1: layer.rows[box.y1 - 1][1],
          x0: layer.columns[box.x0][0], x1: layer.columns[box.x1 - 1][1],
        };
      case "linear":
        return whole;
      case "flatten": {
        if (box.c1 - box.c0 > 1) return whole;
        const [c, y, x] = position(layer.input, box.c0);
        return { c0: c, c1: c + 1, y0: y, y1: y + 1, x0: x, x1: x + 1 };
      }
      case "response_norm": {
        const [c0] = neighbours(layer, box.c0);
        const [, c1] = neighbours(layer, box.c1 - 1);
        return { ...box, c0, c1 };
      }
      default:
        return box;
    }
  }
}

/** Channel, row and column of the value at `index`. */
function position({ height, width }, index) {
  return [Math.floor(index / (height * width)), Math.floor(index / width) % height, index % width];
}

/** The rows (axis 0) or columns (axis 1) of the input under the outputs from `start` to `end`. */
function convSpan(layer, axis, start, end, size) {
  const stride = layer.stride[axis];
  const reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1;
  const first = start * stride - layer.padding[axis];
  const behind = (end - 1) * stride - layer.padding[axis] + reach;
  return [Math.max(0, first), Math.min(size, behind)];
}

/** The channels, end excluded, that response normalization looks at. */
function neighbours({ size, input }, channel) {
  const before = Math.floor(size / 2);
  const after = Math.floor((size - 1) / 2);
  return [Math.max(0, channel - before), Math.min(input.channels, channel + after + 1)];
}

/** The outputs, as [first, last], whose input at a kernel's offset lies inside the image and not in the padding. */
function insideSpan(offset, stride, size, count) {
  return [Math.max(0, Math.ceil(-offset / stride)), Math.min(count - 1, Math.floor((size - 1 - offset) / stride))];
}

function conv(layer, values) {
  const { height, width } = layer.input;
  const { channels, height: rows, width: columns } = layer.output;
  const { weight, bias } = layer.arrays;
  const [kernelRows, kernelColumns] = layer.kernel;
  const [strideY, strideX] = layer.stride;
  const inputsOfGroup = layer.input.channels / layer.groups;
  const outputsOfGroup = channels / layer.groups;
  const result = new Float32Array(channels * rows * columns);
  const sums = new Float64Array(rows * columns);
  let w = 0;
  for (let o = 0; o < channels; o++) {
    sums.fill(bias ? bias[o] : 0);
    const firstInput = Math.floor(o / outputsOfGroup) * inputsOfGroup;
    for (let i = 0; i < inputsOfGroup; i++) {
      for (let ky = 0; ky < kernelRows; ky++) {
        const offsetY = ky * layer.dilation[0] - layer.padding[0];
        const [firstY, lastY] = insideSpan(offsetY, strideY, height, rows);
        for (let kx = 0; kx < kernelColumns; kx++) {
          const factor = weight[w++];
          const offsetX = kx * layer.dilation[1] - layer.padding[1];
          const [firstX, lastX] = insideSpan(offsetX, strideX, width, columns);
          for (let y = firstY; y <= lastY; y++) {
            const target = y * columns;
            const from = ((firstInput + i) * height + y * strideY + offsetY) * width + offsetX;
            for (let x = firstX; x <= lastX; x++) {
              sums[target + x] += factor * values[from + x * strideX];
            }
          }
        }
      }
    }
    result.set(sums, o * rows * columns);
  }
  return result;
}

function linear(layer, values) {
  const { weight, bias } = layer.arrays;
  const result = new Float32Array(layer.output.channels);
  let w = 0;
  for (let o = 0; o < result.length; o++) {
    let sum = bias ? bias[o] : 0;
    for (let i = 0; i < values.length; i++) sum += weight[w++] * values[i];
    result[o] = sum;
  }
  return result;
}

/** (x - mean) / std, and where there are some, * weight + bias, for each channel. */
function normalize(layer, values) {
  const { mean, std, weight, bias } = layer.arrays;
  const size = layer.input.height * layer.input.width;
  return values.map((value, index) => {
    const c = Math.floor(index / size);
    const scaled = (value - mean[c]) / std[c];
    return weight ? scaled * weight[c] + bias[c] : scaled;
  });
}

function responseNorm(layer, values) {
  const { channels, height, width } = layer.input;
  const size = height * width;
  const result = new Float32Array(values.length);
  for (let c = 0; c < channels; c++) {
    const [first, end] = neighbours(layer, c);
    for (let at = 0; at < size; at++) {
      let squares = 0;
      for (let other = first; other < end; other++) squares += values[other * size + at] ** 2;
      const scale = (layer.k + (layer.alpha * squares) / layer.size) ** layer.beta;
      result[c * size + at] = values[c * size + at] / scale;
    }
  }
  return result;
}

/** Each window of rows and columns reduced to one number. */
function pool(layer, values, start, add, finish) {
  const { channels, height, width } = layer.input;
  const result = new Float32Array(channels * layer.rows.length * layer.columns.length);
  let target = 0;
  for (let c = 0; c < channels; c++) {
    for (const [y0, y1, rows] of layer.rows) {
      for (const [x0, x1, columns] of layer.columns) {
        let sum = start;
        for (let y = y0; y < y1; y++) {
          for (let x = x0; x < x1; x++) sum = add(sum, values[(c * height + y) * width + x]);
        }
        result[target++] = finish(sum, rows * columns);
      }
    }
  }
  return result;
}

const ACTIVATIONS = {
  relu: (x) => Math.max(0, x),
  relu6: (x) => Math.min(6, Math.max(0, x)),
  tanh: (x) => Math.tanh(x),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

const COMPUTE = {
  conv,
  linear,
  normalize,
  response_norm: responseNorm,
  max_pool: (layer, values) => pool(layer, values, -Infinity, Math.max, (sum) => sum),
  avg_pool: (layer, values) => pool(layer, values, 0, (a, b) => a + b, (sum, count) => sum / count),
  identity: (layer, values) => values.slice(),
  flatten: (layer, values) => values.slice(),
};
for (const [kind, activation] of Object.entries(ACTIVATIONS)) {
  COMPUTE[kind] = (layer, values) => values.map(activation);
}

/** Probabilities of logits. */
function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - highest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}
