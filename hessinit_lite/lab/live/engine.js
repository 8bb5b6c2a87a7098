/* HessinitEngine: dense networks drawn, measured and trained by plain JavaScript.

   The same quantities as hessinit_lite computes with torch, exact up to rounding: signals, gradients,
   norm and trace of every layer's Gauss-Newton block, Hessian products, the largest eigenvalue,
   hessian_init_'s solver, SGD and Adam. One file without dependencies: a global `HessinitEngine` on
   a page or in a worker, `require("./engine.js")` in Node.

   Layers are counted from 0. `sizes` = [in, width, ..., out]: layer l computes u = W z + b with W
   [sizes[l+1], sizes[l]], row after row, and passes f(u) on; behind the last layer stands softmax
   and the mean cross-entropy. Inputs are [N · sizes[0]], labels [N] whole numbers.

   THE WHOLE API

   measure({sizes, activation, weights, biases, inputs, labels})      in float64
     -> {loss, signal, gradient, norms, traces}, by layer: mean square of the pre-activations,
     Frobenius norm of dL/dW, spectral norm and trace of the Gauss-Newton block.

   new Network({sizes, activation, bias = true, samples = 128, precision = "float64"})
     samples: the most that a batch will hold. precision: "float64", or "float32", which a page
     wants: with WebAssembly's SIMD, where that can be had, ten times as fast.
     .parameters                 one flat array: W_0, b_0, W_1, b_1, ..., as torch's parameters();
     .weights[l], .biases[l]     views into it (biases[l] is null without biases). Keep weights with
                                 `saved = net.parameters.slice()`, `net.parameters.set(saved)`.
     .draw({scheme, seed = 0, factor = 1, std, dropout = 0, inputs})    as hl.init_; `inputs` for lsuv.
                                 One seed, one net: the normal numbers of layer l depend on seed, l
                                 and the layer's shape alone, so that a factor moves them together.
     .setDropout(p, seed)        a fixed draw of inverted dropout's masks behind every activation
     .forward(inputs, labels)    -> {loss, signal}; loss may be Infinity or NaN, where it overflowed
     .backward()                 -> Frobenius norms of the weights' gradients, by layer; the gradient
                                 itself is then in .gradient, laid out as .parameters
     .norms({tolerance = 1e-9})  after forward: a generator, the last layer first, of
                                 {layer, norm, trace, bound, steps, inputs, curvature}, the last
                                 two mean squares of the block's factors F and Γ, summed over their
                                 entries. An eigenvalue lies within
                                 `bound` of the norm. A fast look: tolerance 3e-3 (bound <= 3e-3 ·
                                 norm), of which nine nets in ten have all norms to 1e-3.
     .product(v, {gaussNewton = false})    after backward: H v (or G v), exact; v as .parameters
     .topEigenvalue({gaussNewton = false, which = "LM", tolerance = 1e-3, maxSteps = 200})
                                 after backward: {value, bound, steps, vector}; "LA": the
                                 algebraically largest. .topEigenvalues(...) is a generator of the
                                 same after every step, with `ritz`, for pages that want to watch.
     .hessianInit({inputs, labels, target = 1, tolerance = 0.01, maxSteps = 20, normTolerance = 1e-3})
                                 scales the weights as they are until every layer's norm is `target`
                                 -> {converged, steps, history, norms, scales}. .hessianInitSteps(...)
                                 is a generator of {step, worst, norms, scales}, which returns that.
     .trainer({inputs, labels, optimizer = "sgd", rate, batch = 32, seed = 0, weightDecay = 0})
                                 -> {rate, step()}: step() does one step on the next mini-batch and
                                 returns its loss; rate may be changed at any time. "sgd", "adam".
     .u[l], .z[l], .slope[l], .delta[l]    [N · width] after forward (delta: after backward):
                                 pre-activations, what enters the layer, f'(u), dL/du
   useKernels(on = true)         whether float32 computes with WebAssembly; returns false where that
                                 cannot be had, and plain code serves
   gain(activation, mode, variance = 1), secondMoments(activation, variance),
   crossMoments(activation, correlation, variance = 1),
   correlationMap(activation, correlation, variance, weightVariance, biasVariance = 0),
   varianceProfile(activation, depth, weightVariance, biasVariance = 0, inputVariance = 1),
   gradientProfile(activation, profile, weightVariance)               mean field, as in hl
   dropoutFactor(p), random(seed, stream) -> {uniform(), normal()}
   ACTIVATIONS, SCHEMES          names

   Draws differ from torch's: the generator is another one. Wrong input throws an Error that says
   what to change. */
(function (root) {
"use strict";

const fail = message => { throw new Error(message); };

// ---- Activations -------------------------------------------------------------------------------

// log(erfc(z) exp(z²) / t) as a Chebyshev series in 2t - 1, t = 2/(2 + z), for z >= 0.
const ERFC = [-1.3026537197817094, 0.64196979235649026, 0.019476473204185836,
  -0.0095615147868086316, -0.000946595344482, 0.000366839497853, 4.25233248069e-5,
  -2.02785781125e-5, -1.62429000465e-6, 1.30365583558e-6, 1.56264417221e-8, -8.52380959149e-8,
  6.5290544391e-9, 5.05934349555e-9, -9.91364156493e-10, -2.27365122293e-10, 9.64679110202e-11,
  2.39403808304e-12, -6.8860275265e-12, 8.94487927309e-13, 3.13092139934e-13, -1.12708223614e-13,
  3.81090525519e-16, 7.10609761361e-15, -1.52302820146e-15, -9.45749457129e-17,
  1.21023718922e-16];

function normalCdf(x, terms = ERFC.length) {
  const z = Math.abs(x) * Math.SQRT1_2, t = 2 / (2 + z), y = 4 * t - 2;
  let a = 0, b = 0;
  for (let j = terms - 1; j > 0; j--) { const c = y * a - b + ERFC[j]; b = a; a = c; }
  const tail = t / 2 * Math.exp(-z * z + (ERFC[0] + y * a) / 2 - b);
  return x > 0 ? 1 - tail : tail;
}

const normalDensity = x => Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
const sigmoid = x => 1 / (1 + Math.exp(-x));
const LAMBDA = 1.0507009873554805, LAMBDA_ALPHA = LAMBDA * 1.6732632423543772;

// f(u), f'(u) and f''(u); the derivatives are given z = f(u), too, where that saves an exponential.
const gelu = terms => ({
  f: u => u * normalCdf(u, terms),
  slope: (u, z) => (u ? z / u : 0.5) + u * normalDensity(u),
  bend: u => (2 - u * u) * normalDensity(u),
});
const FUNCTIONS = {
  linear: { f: u => u, slope: () => 1, bend: () => 0 },
  tanh: { f: Math.tanh, slope: (u, z) => 1 - z * z, bend: (u, z) => -2 * z * (1 - z * z) },
  sigmoid: {
    f: sigmoid, slope: (u, z) => z * (1 - z), bend: (u, z) => z * (1 - z) * (1 - 2 * z),
  },
  relu: { f: u => u > 0 ? u : u * 0, slope: u => u > 0 ? 1 : 0, bend: () => 0 },
  leaky_relu: { f: u => u > 0 ? u : 0.01 * u, slope: u => u > 0 ? 1 : 0.01, bend: () => 0 },
  selu: {
    f: u => u > 0 ? LAMBDA * u : LAMBDA_ALPHA * Math.expm1(u),
    slope: u => u > 0 ? LAMBDA : LAMBDA_ALPHA * Math.exp(u),
    bend: u => u > 0 ? 0 : LAMBDA_ALPHA * Math.exp(u),
  },
  gelu: gelu(ERFC.length),
  silu: {
    f: u => u * sigmoid(u),
    slope: (u, z) => { const s = sigmoid(u); return s + z * (1 - s); },
    bend: u => { const s = sigmoid(u); return s * (1 - s) * (2 + u * (1 - 2 * s)); },
  },
};
const ACTIVATIONS = Object.keys(FUNCTIONS);

function activationOf(name, precision = "float64") {
  if (!ACTIVATIONS.includes(name))
    fail(`unknown activation ${JSON.stringify(name)}; known: ${ACTIVATIONS.join(", ")}`);
  return name === "gelu" && precision === "float32" ? gelu(14) : FUNCTIONS[name];
}

// ---- Random numbers ----------------------------------------------------------------------------

// xoshiro128**, seeded by splitmix32 from (seed, stream); normal numbers by the polar method.
function random(seed, stream = 0) {
  let mixed = (seed ^ Math.imul(stream + 1, 0x85ebca6b)) >>> 0, spare = null;
  const split = () => {
    mixed = (mixed + 0x9e3779b9) >>> 0;
    let t = Math.imul(mixed ^ mixed >>> 16, 0x21f0aaad);
    t = Math.imul(t ^ t >>> 15, 0x735a2d97);
    return (t ^ t >>> 15) >>> 0;
  };
  const s = [split(), split(), split(), split()];
  const rotate = (x, k) => x << k | x >>> 32 - k;
  const bits = () => {
    const result = Math.imul(rotate(Math.imul(s[1], 5), 7), 9) >>> 0, t = s[1] << 9;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3]; s[2] ^= t; s[3] = rotate(s[3], 11);
    return result;
  };
  const uniform = () => (bits() * 2097152 + (bits() >>> 11)) / 9007199254740992;  // 53 bits
  const normal = () => {
    if (spare !== null) { const kept = spare; spare = null; return kept; }
    let x, y, r;
    do { x = 2 * uniform() - 1; y = 2 * uniform() - 1; r = x * x + y * y; } while (r >= 1 || !r);
    const factor = Math.sqrt(-2 * Math.log(r) / r);
    spare = y * factor;
    return x * factor;
  };
  return { uniform, normal };
}

// ---- Mean field: integrals against a normal density, as in variance.py ---------------------------

function legendre(n) {  // nodes and weights of Gauss's rule on [-1, 1], by Newton's method
  const nodes = [], weights = [];
  for (let i = 0; i < n; i++) {
    let x = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope;
    for (let round = 0; round < 8; round++) {
      let p = 1, before = 0;
      for (let j = 1; j <= n; j++) [p, before] = [((2 * j - 1) * x * p - (j - 1) * before) / j, p];
      slope = n * (x * p - before) / (x * x - 1);
      x -= p / slope;
    }
    nodes.push(x);
    weights.push(2 / ((1 - x * x) * slope * slope));
  }
  return [nodes, weights];
}

let halfLine = null;  // the kinks of ReLU and SELU are at 0, so each side has its own nodes
function secondMoments(activation, variance = 1) {
  const { f, slope } = activationOf(activation);
  if (!(variance > 0 && variance < Infinity))
    fail(`variance must be finite and positive, got ${variance}`);
  if (!halfLine) halfLine = legendre(128);
  let forward = 0, backward = 0;
  for (let i = 0; i < 128; i++) {
    const x = 6 * (halfLine[0][i] + 1), weight = 6 * halfLine[1][i] * normalDensity(x);
    for (const u of [Math.sqrt(variance) * x, -Math.sqrt(variance) * x]) {
      const z = f(u);
      forward += weight * z * z;
      backward += weight * slope(u, z) ** 2;
    }
  }
  return [forward, backward];
}

/* [E f(u) f(v), E f'(u) f'(v)] for normal u, v of one variance and the given correlation: in polar
   coordinates the kinks u = 0 and v = 0 are rays, so that each sector between them is smooth. */
let polar = null;
function crossMoments(activation, correlation, variance = 1) {
  const { f, slope } = activationOf(activation);
  if (!(variance > 0 && variance < Infinity))
    fail(`variance must be finite and positive, got ${variance}`);
  if (!(correlation >= -1 && correlation <= 1))
    fail(`correlation must lie in [-1, 1], got ${correlation}`);
  if (!polar) polar = [legendre(48), legendre(32)];
  const [[r, rWeights], [t, tWeights]] = polar, angle = Math.acos(correlation), right = Math.PI / 2;
  const edges = [-right, angle - right, right, angle + right, 3 * right], size = Math.sqrt(variance);
  let values = 0, slopes = 0;
  for (let sector = 0; sector < 4; sector++) {
    const half = (edges[sector + 1] - edges[sector]) / 2;
    for (let j = 0; j < t.length && half > 0; j++) {
      const theta = edges[sector] + half * (t[j] + 1);
      const toU = size * Math.cos(theta), toV = size * Math.cos(theta - angle);
      for (let i = 0; i < r.length; i++) {
        const radius = 6 * (r[i] + 1), u = radius * toU, v = radius * toV, x = f(u), y = f(v);
        const weight = 6 * rWeights[i] * radius * Math.exp(-radius * radius / 2) * half * tWeights[j];
        values += weight * x * y;
        slopes += weight * slope(u, x) * slope(v, y);
      }
    }
  }
  return [values / (2 * Math.PI), slopes / (2 * Math.PI)];
}

/* The correlation of two inputs' pre-activations one layer on. */
function correlationMap(activation, correlation, variance, weightVariance, biasVariance = 0) {
  const covariance = weightVariance * crossMoments(activation, correlation, variance)[0] + biasVariance;
  const total = weightVariance * secondMoments(activation, variance)[0] + biasVariance;
  return Math.max(-1, Math.min(1, covariance / total));
}

function gain(activation, mode = "forward", variance = 1) {
  const [forward, backward] = secondMoments(activation, variance);
  if (mode === "forward") return Math.sqrt(variance / forward);
  if (mode === "backward") return 1 / Math.sqrt(backward);
  return fail(`unknown mode ${JSON.stringify(mode)}; known: forward, backward`);
}

function varianceProfile(activation, depth, weightVariance, biasVariance = 0, inputVariance = 1) {
  const profile = [];
  for (let moment = inputVariance, l = 0; l < depth; l++) {
    const q = weightVariance * moment + biasVariance;
    profile.push(q);
    moment = q > 0 && q < Infinity ? secondMoments(activation, q)[0] : q;
  }
  return profile;
}

function gradientProfile(activation, profile, weightVariance) {
  const found = [1];
  for (const q of profile.slice(0, -1).reverse()) {
    const slope = q > 0 && q < Infinity ? secondMoments(activation, q)[1] : NaN;
    found.unshift(found[0] * weightVariance * slope);
  }
  return found;
}

function dropoutFactor(p) {
  if (!(p >= 0 && p < 1)) fail(`the dropout probability must lie in [0, 1), got ${p}`);
  return Math.sqrt(1 - p);
}

// ---- Matrices ----------------------------------------------------------------------------------

/* c [rows, columns] = a · b (added to c if `add`), with b [inner, columns] row after row, and
   a[m, k] = a[m · aRow + k · aStep]: a itself or its transpose. */
function multiply(c, a, b, rows, inner, columns, aRow, aStep, add) {
  if (!add) c.fill(0, 0, rows * columns);
  const whole = inner - inner % 4;
  for (let m = 0; m < rows; m++) {
    const row = m * columns;
    let k = 0, at = m * aRow;
    for (; k < whole; k += 4, at += 4 * aStep) {
      const a0 = a[at], a1 = a[at + aStep], a2 = a[at + 2 * aStep], a3 = a[at + 3 * aStep];
      const b0 = k * columns, b1 = b0 + columns, b2 = b1 + columns, b3 = b2 + columns;
      for (let n = 0; n < columns; n++)
        c[row + n] += a0 * b[b0 + n] + a1 * b[b1 + n] + a2 * b[b2 + n] + a3 * b[b3 + n];
    }
    for (; k < inner; k++, at += aStep)
      for (let n = 0; n < columns; n++) c[row + n] += a[at] * b[k * columns + n];
  }
}

/* y [samples, rows]: y[n] = g[n] · x[n] with g [samples, rows, width], x [samples, width]. */
function project(y, g, x, samples, rows, width) {
  for (let n = 0, at = 0; n < samples; n++)
    for (let c = 0; c < rows; c++) {
      let sum = 0;
      for (let i = n * width; i < (n + 1) * width; i++) sum += g[at++] * x[i];
      y[n * rows + c] = sum;
    }
}

/* The transpose of `project`: x[n] = g[n]ᵀ · y[n]. */
function combine(x, g, y, samples, rows, width) {
  x.fill(0, 0, samples * width);
  for (let n = 0, at = 0; n < samples; n++)
    for (let c = 0; c < rows; c++) {
      const factor = y[n * rows + c];
      for (let i = n * width; i < (n + 1) * width; i++) x[i] += factor * g[at++];
    }
}

// The same `multiply` and `project` for float32, four numbers at a time: a WebAssembly module as
// base64, written by book/_tools/kernels.py.
const KERNELS = [
  "AGFzbQEAAAABFgJgCX9/f39/f39/fwBgBn9/f39/fwADAwIAAQUDAQABBx8DBm1lbW9yeQIACG11bHRpcGx5AAAHcHJv",
  "amVjdAABCpkUAtYRGwF/AX8BfwF/AXsBewF7AXsBewF7AXsBewF/AX8BfwF/AX8BfwF7AXsBewF9AX0BfQF9AX0BfSAF",
  "QQJ0IQlBACEKAkADQCAKQQhqIAVKDQFBACELAkADQCALQQRqIANKDQEgCARAIAAgCyAJbGogCkECdGohDCAM/QACACEN",
  "IAz9AAIQIQ4gDCAJaiEMIAz9AAIAIQ8gDP0AAhAhECAMIAlqIQwgDP0AAgAhESAM/QACECESIAwgCWohDCAM/QACACET",
  "IAz9AAIQIRQgDCAJaiEMBf0MAAAAAAAAAAAAAAAAAAAAACEN/QwAAAAAAAAAAAAAAAAAAAAAIQ79DAAAAAAAAAAAAAAA",
  "AAAAAAAhD/0MAAAAAAAAAAAAAAAAAAAAACEQ/QwAAAAAAAAAAAAAAAAAAAAAIRH9DAAAAAAAAAAAAAAAAAAAAAAhEv0M",
  "AAAAAAAAAAAAAAAAAAAAACET/QwAAAAAAAAAAAAAAAAAAAAAIRQLIAIgCkECdGohFSAEIRYgASALIAZsaiEXIBcgBmoh",
  "GCAYIAZqIRkgGSAGaiEaA0AgFf0AAgAhGyAV/QACECEcIBf9CQIAIR0gFyAHaiEXIA0gHSAb/eYB/eQBIQ0gDiAdIBz9",
  "5gH95AEhDiAY/QkCACEdIBggB2ohGCAPIB0gG/3mAf3kASEPIBAgHSAc/eYB/eQBIRAgGf0JAgAhHSAZIAdqIRkgESAd",
  "IBv95gH95AEhESASIB0gHP3mAf3kASESIBr9CQIAIR0gGiAHaiEaIBMgHSAb/eYB/eQBIRMgFCAdIBz95gH95AEhFCAV",
  "IAlqIRUgFkEBayEWIBYNAAsgACALIAlsaiAKQQJ0aiEMIAwgDf0LAgAgDCAO/QsCECAMIAlqIQwgDCAP/QsCACAMIBD9",
  "CwIQIAwgCWohDCAMIBH9CwIAIAwgEv0LAhAgDCAJaiEMIAwgE/0LAgAgDCAU/QsCECAMIAlqIQwgC0EEaiELDAALCwJA",
  "A0AgC0EBaiADSg0BIAgEQCAAIAsgCWxqIApBAnRqIQwgDP0AAgAhDSAM/QACECEOIAwgCWohDAX9DAAAAAAAAAAAAAAA",
  "AAAAAAAhDf0MAAAAAAAAAAAAAAAAAAAAACEOCyACIApBAnRqIRUgBCEWIAEgCyAGbGohFwNAIBX9AAIAIRsgFf0AAhAh",
  "HCAX/QkCACEdIBcgB2ohFyANIB0gG/3mAf3kASENIA4gHSAc/eYB/eQBIQ4gFSAJaiEVIBZBAWshFiAWDQALIAAgCyAJ",
  "bGogCkECdGohDCAMIA39CwIAIAwgDv0LAhAgDCAJaiEMIAtBAWohCwwACwsgCkEIaiEKDAALCwJAA0AgCkEEaiAFSg0B",
  "QQAhCwJAA0AgC0EEaiADSg0BIAgEQCAAIAsgCWxqIApBAnRqIQwgDP0AAgAhDSAMIAlqIQwgDP0AAgAhDyAMIAlqIQwg",
  "DP0AAgAhESAMIAlqIQwgDP0AAgAhEyAMIAlqIQwF/QwAAAAAAAAAAAAAAAAAAAAAIQ39DAAAAAAAAAAAAAAAAAAAAAAh",
  "D/0MAAAAAAAAAAAAAAAAAAAAACER/QwAAAAAAAAAAAAAAAAAAAAAIRMLIAIgCkECdGohFSAEIRYgASALIAZsaiEXIBcg",
  "BmohGCAYIAZqIRkgGSAGaiEaA0AgFf0AAgAhGyAX/QkCACEdIBcgB2ohFyANIB0gG/3mAf3kASENIBj9CQIAIR0gGCAH",
  "aiEYIA8gHSAb/eYB/eQBIQ8gGf0JAgAhHSAZIAdqIRkgESAdIBv95gH95AEhESAa/QkCACEdIBogB2ohGiATIB0gG/3m",
  "Af3kASETIBUgCWohFSAWQQFrIRYgFg0ACyAAIAsgCWxqIApBAnRqIQwgDCAN/QsCACAMIAlqIQwgDCAP/QsCACAMIAlq",
  "IQwgDCAR/QsCACAMIAlqIQwgDCAT/QsCACAMIAlqIQwgC0EEaiELDAALCwJAA0AgC0EBaiADSg0BIAgEQCAAIAsgCWxq",
  "IApBAnRqIQwgDP0AAgAhDSAMIAlqIQwF/QwAAAAAAAAAAAAAAAAAAAAAIQ0LIAIgCkECdGohFSAEIRYgASALIAZsaiEX",
  "A0AgFf0AAgAhGyAX/QkCACEdIBcgB2ohFyANIB0gG/3mAf3kASENIBUgCWohFSAWQQFrIRYgFg0ACyAAIAsgCWxqIApB",
  "AnRqIQwgDCAN/QsCACAMIAlqIQwgC0EBaiELDAALCyAKQQRqIQoMAAsLAkADQCAKQQFqIAVKDQFBACELAkADQCALQQRq",
  "IANKDQEgCARAIAAgCyAJbGogCkECdGohDCAMKgIAIR4gDCAJaiEMIAwqAgAhHyAMIAlqIQwgDCoCACEgIAwgCWohDCAM",
  "KgIAISEgDCAJaiEMBUMAAAAAIR5DAAAAACEfQwAAAAAhIEMAAAAAISELIAIgCkECdGohFSAEIRYgASALIAZsaiEXIBcg",
  "BmohGCAYIAZqIRkgGSAGaiEaA0AgFSoCACEiIBcqAgAhIyAXIAdqIRcgHiAjICKUkiEeIBgqAgAhIyAYIAdqIRggHyAj",
  "ICKUkiEfIBkqAgAhIyAZIAdqIRkgICAjICKUkiEgIBoqAgAhIyAaIAdqIRogISAjICKUkiEhIBUgCWohFSAWQQFrIRYg",
  "Fg0ACyAAIAsgCWxqIApBAnRqIQwgDCAeOAIAIAwgCWohDCAMIB84AgAgDCAJaiEMIAwgIDgCACAMIAlqIQwgDCAhOAIA",
  "IAwgCWohDCALQQRqIQsMAAsLAkADQCALQQFqIANKDQEgCARAIAAgCyAJbGogCkECdGohDCAMKgIAIR4gDCAJaiEMBUMA",
  "AAAAIR4LIAIgCkECdGohFSAEIRYgASALIAZsaiEXA0AgFSoCACEiIBcqAgAhIyAXIAdqIRcgHiAjICKUkiEeIBUgCWoh",
  "FSAWQQFrIRYgFg0ACyAAIAsgCWxqIApBAnRqIQwgDCAeOAIAIAwgCWohDCALQQFqIQsMAAsLIApBAWohCgwACwsLvgIH",
  "AX8BfwF/AX8BfQF7AXtBACEGAkADQCAGQQFqIANKDQFBACEHAkADQCAHQQFqIARKDQEgAiEIQQAhCUMAAAAAIQr9DAAA",
  "AAAAAAAAAAAAAAAAAAAhC/0MAAAAAAAAAAAAAAAAAAAAACEMAkADQCAJQQhqIAVKDQEgCyAB/QACACAI/QACAP3mAf3k",
  "ASELIAwgAf0AAhAgCP0AAhD95gH95AEhDCABQSBqIQEgCEEgaiEIIAlBCGohCQwACwsCQANAIAlBAWogBUoNASAKIAEq",
  "AgAgCCoCAJSSIQogAUEEaiEBIAhBBGohCCAJQQFqIQkMAAsLIAsgDP3kASELIAAgCiAL/R8AkiAL/R8BkiAL/R8CkiAL",
  "/R8DkjgCACAAQQRqIQAgB0EBaiEHDAALCyAIIQIgBkEBaiEGDAALCws="
].join("");
let kernels = null, wanted = true;

/* Whether float32 computes with WebAssembly: what was wanted, if it can be had here. */
function useKernels(on = true) {
  wanted = on;
  if (wanted && !kernels && typeof WebAssembly === "object") {
    const bytes = Uint8Array.from(atob(KERNELS), letter => letter.charCodeAt(0));
    if (WebAssembly.validate(bytes)) kernels = new WebAssembly.Module(bytes);  // not without SIMD
  }
  return wanted && kernels !== null;
}

/* What a network computes with: `take(n)` makes an array of n zeros, of `floats` in all. */
function arithmetic(precision, floats) {
  if (precision !== "float64" && precision !== "float32")
    fail(`unknown precision ${JSON.stringify(precision)}; known: float64, float32`);
  const Floats = precision === "float64" ? Float64Array : Float32Array;
  const plain = { Floats, take: n => new Floats(n), multiply, project, combine };
  if (precision === "float64" || !useKernels(wanted)) return plain;
  const { memory, ...simd } = new WebAssembly.Instance(kernels).exports, page = 65536;
  memory.grow(Math.ceil(4 * floats / page));  // the first page stays empty
  let free = page;
  const times = (c, a, b, rows, inner, columns, aRow, aStep, add) =>
    simd.multiply(c.byteOffset, a.byteOffset, b.byteOffset, rows, inner, columns, 4 * aRow, 4 * aStep, add ? 1 : 0);
  return {
    Floats,
    take: n => { const made = new Floats(memory.buffer, free, n); free += 4 * n + 15 & -16; return made; },
    multiply: times,
    project: (y, g, x, samples, rows, width) =>
      simd.project(y.byteOffset, g.byteOffset, x.byteOffset, samples, rows, width),
    combine: (x, g, y, samples, rows, width) => {  // a row times a matrix, for each sample
      const [toX, toG, toY] = [x.byteOffset, g.byteOffset, y.byteOffset];
      for (let n = 0; n < samples; n++)
        simd.multiply(toX + 4 * n * width, toY + 4 * n * rows, toG + 4 * n * rows * width, 1, rows, width, 4 * rows, 4, 0);
    },
  };
}

function transpose(to, from, rows, columns) {
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

function dot(x, y) {
  let a = 0, b = 0;
  const n = x.length, even = n - n % 2;
  for (let i = 0; i < even; i += 2) { a += x[i] * y[i]; b += x[i + 1] * y[i + 1]; }
  return n > even ? a + b + x[even] * y[even] : a + b;
}

function largest(x, n = x.length) {  // the largest magnitude
  let found = 0;
  for (let i = 0; i < n; i++) { const a = Math.abs(x[i]); if (a > found) found = a; }
  return found;
}

/* p where x / 2^p has entries of order 1: squares of those neither under- nor overflow, and a power
   of 2 rounds nothing. 0 for x near 1 already, which saves the division. */
function powerOf(x, n) {
  const size = largest(x, n);
  const p = size > 0 && size < Infinity ? Math.floor(Math.log2(size)) : 0;
  return Math.abs(p) < 24 ? 0 : p;
}

const timesPower = (value, p) => value * 2 ** Math.trunc(p / 2) * 2 ** (p - Math.trunc(p / 2));

function scale(x, factor, n = x.length) {
  for (let i = 0; i < n; i++) x[i] *= factor;
}

function frobenius(x) {
  const p = powerOf(x, x.length);
  if (!p) return Math.sqrt(dot(x, x));
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += timesPower(x[i], -p) ** 2;
  return timesPower(Math.sqrt(sum), p);
}

// ---- Lanczos -----------------------------------------------------------------------------------

/* The eigenvalue of a symmetric tridiagonal matrix with so many others above it, by bisection. */
function tridiagonalEigenvalue(diagonal, off, above) {
  const n = diagonal.length;
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < n; i++) {  // Gershgorin's discs
    const radius = (i ? off[i - 1] : 0) + (i < n - 1 ? off[i] : 0);
    low = Math.min(low, diagonal[i] - radius);
    high = Math.max(high, diagonal[i] + radius);
  }
  const tiny = 1e-300 + 1e-17 * Math.max(Math.abs(low), Math.abs(high));
  for (let round = 0; round < 200; round++) {
    const middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    let count = 0, pivot = 1;  // Sturm: negative pivots of T - middle
    for (let i = 0; i < n; i++) {
      pivot = diagonal[i] - middle - (i ? off[i - 1] ** 2 / pivot : 0);
      if (Math.abs(pivot) < tiny) pivot = -tiny;
      if (pivot < 0) count++;
    }
    if (n - count > above) low = middle; else high = middle;
  }
  return low + (high - low) / 2;
}

/* Its eigenvector, of length 1: from the last entry backwards, the way that it grows. */
function tridiagonalEigenvector(diagonal, off, value) {
  const n = diagonal.length, s = new Float64Array(n);
  s[n - 1] = 1;
  for (let i = n - 1; i > 0; i--) {
    const below = i < n - 1 ? off[i] * s[i + 1] : 0;
    s[i - 1] = ((value - diagonal[i]) * s[i] - below) / off[i - 1];
    if (Math.abs(s[i - 1]) > 1e150) scale(s, 1e-150);
  }
  scale(s, 1 / frobenius(s));
  return s;
}

/* Lanczos with full reorthogonalization for an outermost eigenvalue of a symmetric operator:
   `apply(v)` returns its product with v, which may be overwritten. A generator: yields after each
   product {value, bound, steps, ritz()}, and returns it with the eigenvector, and with `several`,
   the sum of the uppermost `together`. An eigenvalue lies within `bound`, the residual, of `value`;
   done when bound <= tolerance · |value|. */
function* lanczos(start, apply, { tolerance, minSteps = 1, maxSteps = Infinity,
  which = "LM", passes = 2, together = 1 }) {
  const size = start.length, basis = [start.slice()], diagonal = [], off = [];
  scale(basis[0], 1 / frobenius(basis[0]));
  for (;;) {
    const last = basis[basis.length - 1], w = apply(last);
    diagonal.push(dot(last, w));
    for (let pass = 0; pass < passes; pass++)
      for (const q of basis) {
        const c = dot(q, w);
        for (let i = 0; i < size; i++) w[i] -= c * q[i];
      }
    const beta = frobenius(w), steps = diagonal.length;
    let value = tridiagonalEigenvalue(diagonal, off, 0);
    if (which === "LM") {
      const lowest = tridiagonalEigenvalue(diagonal, off, steps - 1);
      if (-lowest > value) value = lowest;
    }
    const s = tridiagonalEigenvector(diagonal, off, value);
    const bound = beta * Math.abs(s[steps - 1]);
    const ritz = () => diagonal.map((_, k) => tridiagonalEigenvalue(diagonal, off, k));
    const found = { value, bound, steps, ritz };
    yield found;
    const scaleOfAll = Math.max(largest(diagonal), largest(off));
    const exhausted = !(beta > 1e-15 * Math.sqrt(size) * scaleOfAll);  // also where it is NaN
    const settled = steps >= minSteps && bound <= tolerance * Math.abs(value);
    if (exhausted || settled || steps === size || steps >= maxSteps) {
      const vector = combination(basis, s), several = s.slice();
      for (let above = 1; above < Math.min(together, steps); above++) {
        const next = tridiagonalEigenvalue(diagonal, off, above);
        tridiagonalEigenvector(diagonal, off, next).forEach((x, k) => { several[k] += x; });
      }
      return { ...found, vector, several: combination(basis, several) };
    }
    off.push(beta);
    scale(w, 1 / beta);
    basis.push(w.slice());
  }
}

function combination(vectors, factors) {
  const sum = new vectors[0].constructor(vectors[0].length);
  vectors.forEach((v, k) => { for (let i = 0; i < sum.length; i++) sum[i] += factors[k] * v[i]; });
  return sum;
}

function finish(generator) {  // what a generator returns
  for (;;) { const { value, done } = generator.next(); if (done) return value; }
}

// ---- Networks ----------------------------------------------------------------------------------

const SCHEMES = ["lecun", "glorot", "he", "forward", "backward", "spectral_condition", "mup", "normal",
  "orthogonal", "delta_orthogonal", "torch", "lsuv"];
const VARIANCE = {
  lecun: fanIn => 1 / fanIn,
  glorot: (fanIn, fanOut) => 2 / (fanIn + fanOut),
  he: fanIn => 2 / fanIn,
  forward: (fanIn, fanOut, g) => g ** 2 / fanIn,
  backward: (fanIn, fanOut, g) => g ** 2 / fanOut,
  spectral_condition: (fanIn, fanOut) => Math.min(1, fanOut / fanIn) / fanIn,
  mup: fanIn => 1 / fanIn,  // and 1/fanIn² in the last layer
  normal: (fanIn, fanOut, g, std) => std ** 2,
};

const isWhole = x => Number.isInteger(x) && x >= 1;

class Network {
  constructor({ sizes, activation, bias = true, samples = 128, precision = "float64" }) {
    if (!sizes || sizes.length < 2 || !Array.from(sizes).every(isWhole))
      fail(`sizes must be [in, width, ..., out], whole numbers of at least 1, got [${sizes}]`);
    if (!isWhole(samples)) fail(`samples must be a whole number of at least 1, got ${samples}`);
    this.sizes = Array.from(sizes);
    this.depth = sizes.length - 1;
    this.activation = activation;
    this.functions = activationOf(activation, precision);
    this.capacity = samples;
    this.samples = 0;
    this.classes = this.sizes[this.depth];
    this.columns = Math.max(1, this.classes - 1);  // of the root of the outputs' curvature
    let floats = 0;
    const nothing = new Float32Array(0);
    this._allocate(bias, n => { floats += n + 4; return nothing; });  // only counts
    this.arithmetic = arithmetic(precision, floats);
    this._allocate(bias, this.arithmetic.take);
    this.probabilities = new Float64Array(samples * this.classes);
    this.labels = new Int32Array(samples);
    this.masks = null;
    this.drawn = {};
  }

  _allocate(bias, take) {
    const samples = this.capacity, widest = Math.max(...this.sizes);
    const byLayer = size => this.weights.map((_, l) => take(size(this.sizes[l], this.sizes[l + 1])));
    const count = this.sizes.slice(1).reduce((sum, d, l) => sum + d * (this.sizes[l] + bias), 0);
    const flat = (weights, biases) => {  // all parameters, and views of each layer's
      const all = take(count);
      for (let l = 0, at = 0; l < this.depth; l++) {
        const fanIn = this.sizes[l], fanOut = this.sizes[l + 1];
        weights[l] = all.subarray(at, at += fanIn * fanOut);
        biases[l] = bias ? all.subarray(at, at += fanOut) : null;
      }
      return all;
    };
    this.parameters = flat(this.weights = [], this.biases = []);
    this.gradient = flat(this.weightGradients = [], this.biasGradients = []);
    this.transposed = byLayer((fanIn, fanOut) => fanIn * fanOut);
    this.z = byLayer(fanIn => samples * fanIn);
    for (const name of ["u", "slope", "delta"])
      this[name] = byLayer((_, fanOut) => samples * fanOut);
    this.roots = [0, 1].map(() => take(samples * this.columns * widest));
    this.y = take(samples * this.columns);
    for (const name of ["pulled", "mixed", "scaledInputs", "flipped"])
      this[name] = take(samples * widest);
    this.inner = take(Math.max(samples < 2 * widest ? samples * samples : 0, widest * widest));
    const t = this.tangents = {};  // of product(): derivatives along its direction
    t.direction = flat(t.weights = [], t.biases = []);
    t.result = flat(t.weightProducts = [], t.biasProducts = []);
    t.u = byLayer((_, fanOut) => samples * fanOut);
    t.z = byLayer(fanIn => samples * fanIn);
    t.delta = [0, 1].map(() => take(samples * widest));
    t.flipped = take(widest * widest);
  }

  draw({ scheme, seed = 0, factor = 1, std, dropout = 0, inputs }) {
    if (!SCHEMES.includes(scheme))
      fail(`unknown scheme ${JSON.stringify(scheme)}; known: ${SCHEMES.join(", ")}`);
    if (!(factor > 0 && factor < Infinity)) fail(`factor must be finite and positive, got ${factor}`);
    if (scheme === "normal" && !(std > 0 && std < Infinity))
      fail(`scheme 'normal' needs a positive standard deviation std, got ${std}`);
    if (scheme === "lsuv" && !inputs) fail("scheme 'lsuv' needs inputs");
    const g = scheme === "forward" || scheme === "backward" ? gain(this.activation, scheme) : 1;
    const ungained = scheme === "forward" ? 0 : this.depth - 1;
    const dropped = dropoutFactor(dropout);
    const kind = VARIANCE[scheme] ? "normal" : scheme === "torch" ? "uniform" : "orthogonal";
    const units = this._units(kind, seed);
    this.weights.forEach((weight, l) => {
      const fanIn = this.sizes[l], fanOut = this.sizes[l + 1], own = l === ungained ? 1 : g;
      const deviation = kind === "normal" ? Math.sqrt(VARIANCE[scheme](fanIn, fanOut, own, std))
        : kind === "uniform" ? 1 / Math.sqrt(fanIn) : 1;
      const narrowed = scheme === "mup" && l === this.depth - 1 ? 1 / Math.sqrt(fanIn) : 1;
      const size = factor * (l ? dropped : 1) * narrowed * deviation, unit = units[l], bias = this.biases[l];
      for (let i = 0; i < weight.length; i++) weight[i] = size * unit[i];
      if (bias)
        for (let i = 0; i < fanOut; i++)
          bias[i] = kind === "uniform" ? deviation * unit[weight.length + i] : 0;
    });
    if (scheme === "lsuv") this._unitVariance(inputs);
    return this;
  }

  /* The draws of a seed before they are scaled, kept while a factor is dragged. */
  _units(kind, seed) {
    const key = `${kind} ${seed}`;
    if (this.drawn.key !== key) {
      const units = this.weights.map((weight, l) => {
        const source = random(seed, l), fanOut = this.sizes[l + 1];
        if (kind === "orthogonal") return orthogonal(fanOut, this.sizes[l], source);
        const next = kind === "normal" ? source.normal : () => 2 * source.uniform() - 1;
        return Float64Array.from({ length: weight.length + fanOut }, next);
      });
      this.drawn = { key, units };
    }
    return this.drawn.units;
  }

  _unitVariance(inputs) {  // each layer scaled before the next one sees its output; no biases yet
    const labels = new Int32Array(inputs.length / this.sizes[0]);
    this._load(inputs, labels);
    for (let l = 0; l < this.depth; l++) {
      this._layer(l);
      const u = this.u[l].subarray(0, this.samples * this.sizes[l + 1]);
      const mean = u.reduce((sum, x) => sum + x, 0) / u.length;
      const variance = u.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (u.length - 1);
      if (variance > 0) scale(this.weights[l], 1 / Math.sqrt(variance));
      this._layer(l);
    }
  }

  setDropout(p, seed = 0) {
    dropoutFactor(p);  // refuses a wrong p
    this.masks = !p ? null : this.u.slice(0, -1).map((u, l) => {
      const source = random(seed, 1000 + l);
      return Float32Array.from(u, () => source.uniform() < p ? 0 : 1 / (1 - p));
    });
    return this;
  }

  _load(inputs, labels) {
    const samples = labels.length;
    if (!isWhole(samples)) fail("a batch needs at least one sample");
    if (samples > this.capacity)
      fail(`${samples} samples, but the network was made for ${this.capacity}: raise samples`);
    if (inputs.length !== samples * this.sizes[0])
      fail(`inputs must hold N · in = ${samples} · ${this.sizes[0]} numbers, got ${inputs.length}`);
    for (let n = 0; n < samples; n++)
      if (!(Number.isInteger(labels[n]) && labels[n] >= 0 && labels[n] < this.classes))
        fail(`labels must be whole numbers from 0 to ${this.classes - 1}, got ${labels[n]}`);
    this.samples = samples;
    this.labels.set(labels);
    this.z[0].set(inputs);
  }

  _layer(l) {  // u, and what the next layer reads
    const fanIn = this.sizes[l], fanOut = this.sizes[l + 1], N = this.samples, u = this.u[l];
    transpose(this.transposed[l], this.weights[l], fanOut, fanIn);
    if (this.biases[l]) for (let n = 0; n < N; n++) u.set(this.biases[l], n * fanOut);
    this.arithmetic.multiply(u, this.z[l], this.transposed[l], N, fanIn, fanOut, fanIn, 1, !!this.biases[l]);
    if (l === this.depth - 1) return;
    const { f, slope } = this.functions, z = this.z[l + 1], slopes = this.slope[l];
    for (let i = 0; i < N * fanOut; i++) {
      const x = u[i], y = f(x);
      z[i] = y;
      slopes[i] = slope(x, y);
    }
    if (this.masks) {
      const mask = this.masks[l];
      for (let i = 0; i < N * fanOut; i++) { z[i] *= mask[i]; slopes[i] *= mask[i]; }
    }
  }

  _need(call) {  // what must have been called before
    const calls = call === "forward" ? "forward" : "forward, then backward,";
    if (this.seen !== "backward" && this.seen !== call) fail(`call ${calls} first`);
  }

  forward(inputs, labels) {
    this._load(inputs, labels);
    this.seen = "forward";
    const N = this.samples, C = this.classes, signal = [];
    for (let l = 0; l < this.depth; l++) {
      this._layer(l);
      const u = this.u[l].subarray(0, N * this.sizes[l + 1]);
      signal.push(dot(u, u) / u.length);
    }
    const outputs = this.u[this.depth - 1], p = this.probabilities;
    let loss = 0;
    for (let n = 0; n < N; n++) {
      const row = outputs.subarray(n * C, (n + 1) * C);
      let highest = -Infinity, sum = 0;
      for (const x of row) highest = Math.max(highest, x);
      for (let c = 0; c < C; c++) sum += p[n * C + c] = Math.exp(row[c] - highest);
      for (let c = 0; c < C; c++) p[n * C + c] /= sum;
      loss += Math.log(sum) - (row[this.labels[n]] - highest);
    }
    return { loss: loss / N, signal };
  }

  backward() {
    this._need("forward");
    this.seen = "backward";
    const N = this.samples, C = this.classes, { multiply } = this.arithmetic;
    const last = this.delta[this.depth - 1], norms = [];
    for (let n = 0; n < N; n++)
      for (let c = 0; c < C; c++)
        last[n * C + c] = (this.probabilities[n * C + c] - (this.labels[n] === c)) / N;
    for (let l = this.depth - 1; l >= 0; l--) {
      const fanIn = this.sizes[l], fanOut = this.sizes[l + 1], delta = this.delta[l];
      multiply(this.weightGradients[l], delta, this.z[l], fanOut, N, fanIn, 1, fanOut, false);
      if (this.biases[l]) sumRows(this.biasGradients[l], delta, N);
      norms.unshift(frobenius(this.weightGradients[l]));
      if (!l) break;
      multiply(this.delta[l - 1], delta, this.weights[l], N, fanOut, fanIn, fanOut, 1, false);
      for (let i = 0; i < N * fanIn; i++) this.delta[l - 1][i] *= this.slope[l - 1][i];
    }
    return norms;
  }

  // -- Curvature: the Gauss-Newton blocks from their factors, as in chain_rule.py and blocks.py

  /* The root S of the outputs' curvature, [N, columns, C]: see CrossEntropy.factors in losses.py. */
  _outputRoot(root) {
    const N = this.samples, C = this.classes, q = new Float64Array(C);
    for (let n = 0; n < N; n++) {
      let j = 0;
      for (let c = 0; c < C; c++) {
        q[c] = Math.sqrt(this.probabilities[n * C + c]);
        if (q[c] > q[j]) j = c;
      }
      for (let c = 0; c < this.columns; c++) {
        const of = c === j ? C - 1 : c, at = (n * this.columns + c) * C;  // row j is left out
        const v = q[of] + (of === j);
        for (let k = 0; k < C; k++) {
          const reflected = (of === k) - v * (q[k] + (k === j)) / (q[j] + 1);
          root[at + k] = C === 1 ? 0 : reflected * q[k] / Math.sqrt(N);
        }
      }
    }
  }

  *norms({ tolerance = 1e-9, maxSteps = Infinity } = {}) {
    this._need("forward");
    const N = this.samples, K = this.columns, { multiply } = this.arithmetic;
    let [root, next] = this.roots, power = 0, near = null;
    this._outputRoot(root);
    for (let l = this.depth - 1; l >= 0; l--) {
      const fanIn = this.sizes[l], fanOut = this.sizes[l + 1];
      const p = powerOf(root, N * K * fanOut);
      if (p) { for (let i = 0; i < N * K * fanOut; i++) root[i] = timesPower(root[i], -p); power += p; }
      const { vector, ...found } = this._block(l, root, near, { tolerance, maxSteps }, power);
      near = vector;
      yield { layer: l, ...found };
      if (!l) return;
      multiply(next, root, this.weights[l], N * K, fanOut, fanIn, fanOut, 1, false);
      const slopes = this.slope[l - 1];
      for (let n = 0, at = 0; n < N; n++)
        for (let c = 0; c < K; c++)
          for (let i = n * fanIn; i < (n + 1) * fanIn; i++) next[at++] *= slopes[i];
      [root, next] = [next, root];
    }
  }

  /* Norm and trace of one layer's block from its inputs F [N, in] and root Γ [N, columns, out] over
     2^power. The block is R Rᵀ with columns r_nc = Γ_nc F_nᵀ; Lanczos goes over RᵀR, [N · columns]
     a side, with entries (F_n · F_m)(Γ_nc · Γ_md). */
  _block(l, root, near, options, power) {
    const N = this.samples, K = this.columns, fanIn = this.sizes[l], fanOut = this.sizes[l + 1];
    const { multiply, project, combine, Floats } = this.arithmetic;
    const F = this.scaledInputs, { pulled, mixed, inner, flipped, y } = this;
    const p = powerOf(this.z[l], N * fanIn);
    for (let i = 0; i < N * fanIn; i++) F[i] = p ? timesPower(this.z[l][i], -p) : this.z[l][i];
    transpose(flipped, F, N, fanIn);
    const similar = N < 2 * fanIn;  // F Fᵀ, or one factor after the other: whichever is cheaper
    if (similar) multiply(inner, F, flipped, N, fanIn, N, fanIn, 1, false);

    let trace = 0, inputs = 0, curvature = 0;
    for (let n = 0; n < N; n++) {
      let size = 0, sum = 0;
      for (let i = n * fanIn; i < (n + 1) * fanIn; i++) size += F[i] * F[i];
      for (let i = n * K * fanOut; i < (n + 1) * K * fanOut; i++) sum += root[i] * root[i];
      trace += size * sum;
      inputs += size / N;
      curvature += sum;
    }
    [inputs, curvature] = [timesPower(inputs, 2 * p), timesPower(curvature, 2 * power)];
    const back = value => timesPower(value, 2 * (p + power));
    if (!(trace > 0)) return { norm: back(trace), trace: back(trace), bound: 0, steps: 0, inputs, curvature, vector: near };

    const apply = v => {
      y.set(v);
      combine(pulled, root, y, N, K, fanOut);
      if (similar) multiply(mixed, inner, pulled, N, N, fanOut, N, 1, false);
      else {
        multiply(inner, flipped, pulled, fanIn, N, fanOut, N, 1, false);
        multiply(mixed, F, inner, N, fanIn, fanOut, fanIn, 1, false);
      }
      project(y, root, mixed, N, K, fanOut);
      return y.slice(0, N * K);
    };
    const source = random(0, 2000 + l), start = new Floats(N * K);
    for (let i = 0; i < start.length; i++) start[i] = source.normal();
    if (near) {  // all layers act through the same outputs: the last one's eigenvectors are a start
      scale(start, 1 / frobenius(start));
      for (let i = 0; i < start.length; i++) start[i] += near[i];
    }
    // From one eigenvector alone, or in few steps, Lanczos would settle on an eigenvalue that was the
    // largest of the last layer and is the second of this one.
    const careful = options.tolerance < 1e-4;
    const more = { together: 3, minSteps: careful ? 20 : 6, passes: careful ? 2 : 1 };
    const { value, bound, steps, several } = finish(lanczos(start, apply, { ...options, ...more }));
    return { norm: back(value), trace: back(trace), bound: back(bound), steps, inputs, curvature, vector: several };
  }

  // -- Products with the Hessian: Pearlmutter's R-operator, the derivative of backward() along v

  product(v, { gaussNewton = false } = {}) {
    this._need("backward");
    if (v.length !== this.parameters.length)
      fail(`v must hold ${this.parameters.length} numbers, as .parameters, got ${v.length}`);
    const { multiply } = this.arithmetic, { bend } = this.functions, t = this.tangents;
    const N = this.samples, C = this.classes, last = this.depth - 1;
    t.direction.set(v);
    for (let l = 0; l <= last; l++) {  // forward: R{u} = V z + v_b + W R{z}
      const fanIn = this.sizes[l], fanOut = this.sizes[l + 1], u = t.u[l];
      if (this.biases[l]) for (let n = 0; n < N; n++) u.set(t.biases[l], n * fanOut);
      transpose(t.flipped, t.weights[l], fanOut, fanIn);
      multiply(u, this.z[l], t.flipped, N, fanIn, fanOut, fanIn, 1, !!this.biases[l]);
      if (l) multiply(u, t.z[l], this.transposed[l], N, fanIn, fanOut, fanIn, 1, true);
      if (l < last)
        for (let i = 0; i < N * fanOut; i++) t.z[l + 1][i] = this.slope[l][i] * u[i];
    }
    let [delta, next] = t.delta, p = this.probabilities;
    for (let n = 0; n < N; n++) {  // R{dL/du} behind the last layer: (diag p - p pᵀ) R{u} / N
      let mean = 0;
      for (let c = n * C; c < (n + 1) * C; c++) mean += p[c] * t.u[last][c];
      for (let c = n * C; c < (n + 1) * C; c++) delta[c] = p[c] * (t.u[last][c] - mean) / N;
    }
    for (let l = last; l >= 0; l--) {
      const fanIn = this.sizes[l], fanOut = this.sizes[l + 1];
      multiply(t.weightProducts[l], delta, this.z[l], fanOut, N, fanIn, 1, fanOut, false);
      if (l && !gaussNewton)
        multiply(t.weightProducts[l], this.delta[l], t.z[l], fanOut, N, fanIn, 1, fanOut, true);
      if (this.biases[l]) sumRows(t.biasProducts[l], delta, N);
      if (!l) break;
      multiply(next, delta, this.weights[l], N, fanOut, fanIn, fanOut, 1, false);
      const slope = this.slope[l - 1];
      if (gaussNewton) for (let i = 0; i < N * fanIn; i++) next[i] *= slope[i];
      else {
        const pulled = this.mixed, mask = this.masks && this.masks[l - 1];
        const u = this.u[l - 1], z = this.z[l], moved = t.u[l - 1];
        multiply(next, this.delta[l], t.weights[l], N, fanOut, fanIn, fanOut, 1, true);
        multiply(pulled, this.delta[l], this.weights[l], N, fanOut, fanIn, fanOut, 1, false);
        for (let i = 0; i < N * fanIn; i++) {
          const kept = mask ? mask[i] : 1;
          const curved = kept && kept * bend(u[i], z[i] / kept) * moved[i];
          next[i] = slope[i] * next[i] + curved * pulled[i];
        }
      }
      [delta, next] = [next, delta];
    }
    return t.result.slice();
  }

  *topEigenvalues({ gaussNewton = false, which = "LM", tolerance = 1e-3, maxSteps = 200 } = {}) {
    if (which !== "LM" && which !== "LA") fail(`unknown which ${JSON.stringify(which)}; known: LM, LA`);
    this._need("backward");
    const source = random(0, 3000), size = frobenius(this.gradient);
    const start = this.parameters.map(source.normal), length = frobenius(start);
    for (let i = 0; i < start.length; i++)  // half the gradient, which leans on large eigenvalues
      start[i] = start[i] / length + (size > 0 ? this.gradient[i] / size : 0);
    const apply = v => this.product(v, { gaussNewton });
    return yield* lanczos(start, apply, { tolerance, maxSteps, which });
  }

  topEigenvalue(options) { return finish(this.topEigenvalues(options)); }

  // -- Every layer's norm at the target: Levenberg-Marquardt with Broyden's Jacobian, see principle.py

  *hessianInitSteps({ inputs, labels, target = 1, tolerance = 0.01, maxSteps = 20, normTolerance = 1e-3 }) {
    if (!(target > 0 && target < Infinity)) fail(`target must be finite and positive, got ${target}`);
    if (!isWhole(maxSteps) || !(tolerance > 0)) fail("maxSteps must be at least 1, tolerance positive");
    const n = this.depth, drawn = this.weights.map(weight => weight.slice()), history = [];
    const put = position => position.forEach((x, l) => {
      const factor = Math.exp(x);
      for (let i = 0; i < drawn[l].length; i++) this.weights[l][i] = drawn[l][i] * factor;
    });
    const measureAt = position => {  // norms and their log errors, null where there are none
      put(position);
      const norms = new Array(n).fill(NaN);
      if (Number.isFinite(this.forward(inputs, labels).loss))
        for (const { layer, norm } of this.norms({ tolerance: normTolerance })) norms[layer] = norm;
      const fits = norms.every(h => h > 0 && h < Infinity);
      const error = fits ? norms.map(h => Math.log(h / target)) : null;
      history.push(fits ? largest(error) : Infinity);
      return { norms, error, worst: history[history.length - 1] };
    };
    let position = new Array(n).fill(0), now = measureAt(position);
    if (!now.error)
      fail("a layer's curvature is zero or not finite: no scale brings it to the target, draw other weights");
    let best = { ...now, position }, radius = 1.5;  // at most a factor e^1.5 on a layer in one step
    // The scaling law. With one layer it is empty (the scale does not matter): then try 1.
    const jacobian = position.map((_, i) => position.map((_, j) => n === 1 ? 1 : i === j ? 0 : 2));
    const report = () => ({ step: history.length, worst: best.worst, norms: best.norms,
      scales: best.position.map(Math.exp) });
    yield report();
    while (best.worst > Math.log1p(tolerance) && history.length < maxSteps) {
      const step = dampedStep(jacobian, now.error, radius), length = largest(step);
      if (!(length >= 1e-6 && length <= radius)) break;
      const at = position.map((x, i) => x + step[i]), trial = measureAt(at);
      if (!trial.error) { radius = length / 4; continue; }
      const linear = now.error.map((e, i) => e + dot(jacobian[i], step));
      const predicted = frobenius(now.error) - frobenius(linear);
      const gained = frobenius(now.error) - frobenius(trial.error), squared = dot(step, step);
      jacobian.forEach((row, i) => row.forEach((_, j) => {
        row[j] += (trial.error[i] - linear[i]) * step[j] / squared;
      }));
      if (trial.worst < best.worst) best = { ...trial, position: at };
      if (gained > 0) { position = at; now = trial; }
      if (gained > predicted / 2) radius = Math.min(1.5, Math.max(radius, 2 * length));
      else if (gained < predicted / 10) radius = length / 2;
      yield report();
    }
    put(best.position);
    const converged = best.worst <= Math.log1p(tolerance);
    return { converged, steps: history.length, history, norms: best.norms, scales: report().scales };
  }

  hessianInit(options) { return finish(this.hessianInitSteps(options)); }

  // -- Training

  trainer({ inputs, labels, optimizer = "sgd", rate, batch = 32, seed = 0, weightDecay = 0 }) {
    if (optimizer !== "sgd" && optimizer !== "adam")
      fail(`unknown optimizer ${JSON.stringify(optimizer)}; known: sgd, adam`);
    if (!(rate > 0 && rate < Infinity)) fail(`rate must be finite and positive, got ${rate}`);
    if (!isWhole(batch)) fail(`batch must be a whole number of at least 1, got ${batch}`);
    const size = Math.min(batch, labels.length), width = this.sizes[0], source = random(seed, 4000);
    const order = Array.from(labels, (_, n) => n), rows = new this.arithmetic.Floats(size * width);
    const own = new Int32Array(size), { parameters, gradient } = this;
    const mean = new Float64Array(parameters.length), square = new Float64Array(parameters.length);
    let at = labels.length, steps = 0;
    const mini = () => {  // without replacement, in a new order each time through
      for (let k = 0; k < size; k++, at++) {
        if (at === labels.length) {
          at = 0;
          for (let i = order.length - 1; i > 0; i--) {
            const j = Math.floor(source.uniform() * (i + 1));
            [order[i], order[j]] = [order[j], order[i]];
          }
        }
        const from = order[at] * width;
        for (let i = 0; i < width; i++) rows[k * width + i] = inputs[from + i];
        own[k] = labels[order[at]];
      }
    };
    const trainer = { rate, step: () => {
      mini();
      const { loss } = this.forward(rows, own);
      this.backward();
      const eta = trainer.rate, kept = 1 - eta * weightDecay;
      steps++;
      if (optimizer === "sgd")
        for (let i = 0; i < parameters.length; i++)
          parameters[i] = kept * parameters[i] - eta * gradient[i];
      else {
        const first = eta / (1 - 0.9 ** steps), second = Math.sqrt(1 - 0.999 ** steps);
        for (let i = 0; i < parameters.length; i++) {
          const g = gradient[i], m = mean[i] += 0.1 * (g - mean[i]);
          const v = square[i] = 0.999 * square[i] + 0.001 * g * g;
          parameters[i] = kept * parameters[i] - first * m / (Math.sqrt(v) / second + 1e-8);
        }
      }
      return loss;
    } };
    return trainer;
  }
}

/* x with matrix · x = right, by Gauss's elimination; null if the matrix is singular. */
function solve(matrix, right) {
  const n = right.length, rows = matrix.map((row, i) => [...row, right[i]]);
  for (let i = 0; i < n; i++) {
    let top = i;
    for (let k = i + 1; k < n; k++) if (Math.abs(rows[k][i]) > Math.abs(rows[top][i])) top = k;
    [rows[i], rows[top]] = [rows[top], rows[i]];
    if (!(Math.abs(rows[i][i]) > 1e-14)) return null;
    for (let k = i + 1; k < n; k++) {
      const factor = rows[k][i] / rows[i][i];
      for (let j = i; j <= n; j++) rows[k][j] -= factor * rows[i][j];
    }
  }
  const x = new Array(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    let sum = rows[i][n];
    for (let j = i + 1; j < n; j++) sum -= rows[i][j] * x[j];
    x[i] = sum / rows[i][i];
  }
  return x;
}

/* Newton's step for `error`, damped (Levenberg-Marquardt) until no entry is above `radius`. */
function dampedStep(jacobian, error, radius) {
  let step = solve(jacobian, error.map(e => -e));
  const columns = error.map((_, j) => jacobian.map(row => row[j]));
  const right = columns.map(column => -dot(column, error));
  for (let damping = 1e-3; !(step && largest(step) <= radius) && damping < 1e300; damping *= 2)
    step = solve(columns.map((a, i) => columns.map((b, j) => dot(a, b) + (i === j ? damping : 0))), right);
  return step;
}

function sumRows(total, matrix, rows) {
  total.fill(0);
  const width = total.length;
  for (let n = 0; n < rows; n++)
    for (let i = 0; i < width; i++) total[i] += matrix[n * width + i];
}

/* A random orthogonal matrix: of normal numbers, by Gram and Schmidt twice over; its rows are
   orthonormal if rows <= columns, else its columns. */
function orthogonal(rows, columns, source) {
  const wide = rows <= columns, length = Math.max(rows, columns), vectors = [];
  const matrix = new Float64Array(rows * columns);
  for (let k = 0; k < Math.min(rows, columns); k++) {
    const v = Float64Array.from({ length }, source.normal);
    for (let pass = 0; pass < 2; pass++)
      for (const q of vectors) {
        const c = dot(q, v);
        for (let i = 0; i < length; i++) v[i] -= c * q[i];
      }
    scale(v, 1 / frobenius(v));
    vectors.push(v);
    for (let i = 0; i < length; i++) matrix[wide ? k * columns + i : i * columns + k] = v[i];
  }
  return matrix;
}

// ---- The contract ------------------------------------------------------------------------------

function measure({ sizes, activation, weights, biases = null, inputs, labels }) {
  const numbers = (what, array, length) => {
    if (!array || array.length !== length)
      fail(`${what} must hold ${length} numbers, got ${array ? array.length : array}`);
    for (let i = 0; i < length; i++)
      if (!Number.isFinite(array[i])) fail(`${what} must be finite, got ${array[i]} at ${i}`);
    return array;
  };
  if (!labels || !labels.length) fail("labels must hold a number for each sample, at least one");
  const net = new Network({ sizes, activation, bias: biases !== null, samples: labels.length });
  for (const [name, list] of [["weights", weights], ["biases", biases]])
    if (list !== null && (!list || list.length !== net.depth))
      fail(`${name} must be a list of ${net.depth} arrays, one a layer`);
  net.weights.forEach((own, l) => own.set(numbers(`weights[${l}]`, weights[l], own.length)));
  net.biases.forEach((own, l) => {
    if (own && biases[l]) own.set(numbers(`biases[${l}]`, biases[l], own.length));
  });
  numbers("inputs", inputs, labels.length * net.sizes[0]);
  const { loss, signal } = net.forward(inputs, labels);
  if (!Number.isFinite(loss)) fail(`the loss is ${loss}: the signal overflows, take smaller weights`);
  const gradient = net.backward(), norms = [], traces = [];
  for (const { layer, norm, trace } of net.norms()) { norms[layer] = norm; traces[layer] = trace; }
  return { loss, signal, gradient, norms, traces };
}

const HessinitEngine = { measure, Network, useKernels, gain, secondMoments, crossMoments,
  correlationMap, varianceProfile, gradientProfile, dropoutFactor, random, ACTIVATIONS, SCHEMES };
if (typeof module !== "undefined" && module.exports) module.exports = HessinitEngine;
else root.HessinitEngine = HessinitEngine;
})(typeof globalThis !== "undefined" ? globalThis : this);
