// What mean-field theory predicts by layer, with no weights drawn (chapters 2 to 4): the pre-activations
// of a wide layer are Gaussian, and only their variance q goes from layer to layer.

/** fan_in · Var w of a layer under a scheme, before any factor; null where it depends on the data. */
function weightVariance(engine, scheme, activation, fanIn, fanOut, first, last) {
  switch (scheme) {
    case "lecun": return 1;
    case "glorot": return 2 * fanIn / (fanIn + fanOut);
    case "he": return 2;
    case "torch": return 1 / 3;
    case "spectral_condition": return Math.min(1, fanOut / fanIn);
    case "mup": return last ? 1 / fanIn : 1;
    case "forward": return first ? 1 : engine.gain(activation, "forward") ** 2;
    case "backward": return (last ? 1 : engine.gain(activation, "backward") ** 2) * fanIn / fanOut;
    case "orthogonal": return Math.min(1, fanIn / fanOut);
    default: return null;
  }
}

/** The standard deviation of a layer's first biases: torch's are uniform, all others zero. */
const schemesBias = (scheme, fanIn) => scheme === "torch" ? 1 / Math.sqrt(3 * fanIn) : 0;

/**
 * {signal, gradient, norm} by layer, or null where the scheme asks the data. signal: mean square of u;
 * gradient: that of dL/du with the last layer at 1; norm: the Gauss–Newton block's trace with the last
 * layer at 1, E z² · E γ² of layers that know nothing of each other.
 *
 * `scales`: factors on the layers' weights, as hessianInit finds them. Dropout keeps 1 - p of the units
 * and divides them by that, so it multiplies second moments by 1 / (1 - p).
 */
function predict(engine, {sizes, activation, scheme, factor, biases, dropout}, inputSquare, scales = null) {
  const depth = sizes.length - 1, variances = [], squares = [inputSquare], signal = [];
  for (let k = 0; k < depth; k++) {
    const own = weightVariance(engine, scheme, activation, sizes[k], sizes[k + 1], k === 0, k === depth - 1);
    if (own == null) return null;
    variances.push(own * (factor * (scales ? scales[k] : 1)) ** 2);
    const bias = biases == null ? schemesBias(scheme, sizes[k]) : biases;
    signal.push(variances[k] * squares[k] + bias * bias);
    squares.push(moments(engine, activation, signal[k])[0] / (1 - dropout));
  }
  const gradient = Array(depth).fill(1);
  for (let k = depth - 2; k >= 0; k--) {
    const slope = moments(engine, activation, signal[k])[1] / (1 - dropout);
    gradient[k] = gradient[k + 1] * variances[k + 1] * sizes[k + 2] / sizes[k + 1] * slope;
  }
  const norm = gradient.map((g, k) => sizes[k] * squares[k] * sizes[k + 1] * g);
  return {signal, gradient, norm: norm.map(each => each / norm[depth - 1])};
}

/** (E f(u)², E f'(u)²), the variance kept within the range of floats. */
const moments = (engine, activation, variance) => engine.secondMoments(activation, Math.min(1e300, Math.max(1e-300, variance)));
