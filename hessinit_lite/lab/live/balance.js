// Chapter 10: a factor is moved from one layer to the next. In a ReLU net without biases the net stays the same
// function and G[w, w] the same number in all layers; the norms of the two layers go with 1/s² and s².

async function balanceView(root, data, setting) {
  const {depth} = setting, own = await netOfView(data, setting, false), {net} = own;
  const layers = Array.from({length: depth}, (_, k) => k + 1);
  let start = net.parameters.slice(), first = null, from = Math.max(1, depth >> 1), s = 1, {seed} = setting;
  const x = {from: 0.5, to: depth + 0.5, ticks: layers, label: "layer"}, y = {from: 1e-4, to: 1e6, log: true, ticks: decades(-4, 6, 2)};
  const factors = new Panel({title: "Two factors", note: "φ, the input’s (orange); γ, of what lies behind (pink)", height: 230, x, y});
  const curvature = new Panel({title: "Curvature", note: "norms (blue; dashed: as drawn), G[w, w] (green)", height: 230, x, y});
  const knobs = [
    makeSlider({name: "factor", label: "factor s", ...logarithmic(0.1, 10, 160), text: value => `× ${value.toFixed(2)}`, change: value => { s = value; look(); }, reset: () => { s = 1; look(); }}),
    makeSlider({name: "layer", label: "from layer", ...wholeNumbers(1, depth - 1), text: value => `${value} to ${value + 1}`, change: value => { from = value; look(); }}),
  ];
  const buttons = [
    makeButton("s at 1", () => { s = 1; look(); }),
    makeButton("Draw again", () => { seed = seed % 9999 + 1; own.draw(seed); start = net.parameters.slice(); first = null; look(); }),
  ];
  const view = new View(root, {knobs, buttons, panels: [factors, curvature]});

  /** Loss, and by layer φ, γ, the norm and G[w, w], of the drawn weights times 1/s and s in the two layers. */
  function measure(factor) {
    net.parameters.set(start);
    const scale = (layer, by) => { const weight = net.weights[layer - 1]; for (let i = 0; i < weight.length; i++) weight[i] *= by; };
    scale(from, 1 / factor);
    scale(from + 1, factor);
    const {loss} = own.forward(), found = {loss, phi: [], gamma: [], norms: [], forms: []};
    net.backward();
    for (const {layer, norm, inputs, curvature} of net.norms({tolerance: 3e-3}))
      [found.phi[layer], found.gamma[layer], found.norms[layer]] = [inputs, curvature, norm];
    let at = 0;
    net.weights.forEach((weight, layer) => {
      const alone = new Float32Array(net.parameters.length);
      alone.set(weight, at);
      at += weight.length;
      const product = net.product(alone, {gaussNewton: true});
      found.forms[layer] = alone.reduce((sum, each, i) => sum + each * product[i], 0);
    });
    return found;
  }

  function look() {
    first ??= measure(1);
    const found = measure(s), {phi, gamma, norms, forms, loss} = found;
    knobs[0].show(s);
    knobs[1].show(from);
    const dots = (values, colour) => ({x: layers, y: values, colour, line: 1, dots: 7, beyond: true});
    const pale = values => ({x: layers, y: values, colour: "currentColor", line: 1.5, dashed: true});
    factors.show({curves: [dots(phi, COLOURS.orange), dots(gamma, COLOURS.purple)],
      alt: `By layer: φ from ${inWords(phi[0])} to ${inWords(last(phi))}, γ from ${inWords(gamma[0])} to ${inWords(last(gamma))}`});
    curvature.show({curves: [pale(first.norms), {...dots(forms, COLOURS.green), line: 2}, dots(norms, COLOURS.blue)],
      alt: `Norms from ${inWords(Math.min(...norms))} to ${inWords(Math.max(...norms))}; G[w, w] ${inWords(forms[0], 3)} in every layer`});
    const change = layer => `× ${inWords(norms[layer - 1] / first.norms[layer - 1], 3)}`;
    view.say(`Layer ${from} divided by s = ${s.toFixed(2)}, layer ${from + 1} multiplied by it: the norms of these two change by ${change(from)} and ${change(from + 1)}, `
      + `the others by less than ${inWords(Math.max(1e-3, ...norms.map((norm, k) => k === from - 1 || k === from ? 0 : Math.abs(norm / first.norms[k] - 1))), 1)}; `
      + `the loss stays ${inWords(loss, 4)}, and G[w, w] ${inWords(forms[0], 4)} in every layer.`, {...found, first, s, from});
  }

  look();
  return {look};
}
