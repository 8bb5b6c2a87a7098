// The small view: one knob, and what it does to the signal, the curvature and 200 steps of training.

const FEW_STEPS = 200;

function smallView(root, data, setting) {
  const bench = new Bench(data, setting), depth = bench.setting.depth;
  const layers = new LayerPanels(bench, {names: ["signal", "norms"], layers: depth, height: 160});
  const loss = new Training(bench).loss, {factor} = netKnobs(bench, {factor: `σ of the weights, times ${SCHEMES[bench.setting.scheme]}’s`});
  const says = make("p", {class: "lab-says", role: "status"});
  root.replaceChildren(make("div", {class: "lab-body"}, make("div", {class: "lab-one"}, factor.node),
    make("div", {class: "lab-panels"}, layers.nodes, loss.node), says));
  bench.listen(() => {
    const {seen, training} = bench;
    showKnobs({factor}, bench);
    layers.draw(bench);
    if (seen) {
      drawLoss(loss, bench, FEW_STEPS);
      // Nothing to press: what has been measured is trained.
      if (seen.complete && !seen.losses.length && !training && !bench.stopped) bench.train(FEW_STEPS, true);
    }
    const text = inOneSentence(bench);
    says.setAttribute("aria-busy", String(!bench.stopped));
    if (says.textContent !== text) says.textContent = text;
    report(root, bench);
  });
  return bench;
}

function inOneSentence({seen, setting, trouble}) {
  if (trouble) return `This could not be computed: ${trouble}`;
  if (!seen) return "Drawing the first network …";
  const {signal, norms, depth, losses} = seen, known = norms.filter(norm => !Number.isNaN(norm));
  return `σ × ${setting.factor.toFixed(2)}: the signal goes from ${inWords(signal[0])} to ${inWords(signal[depth - 1])}`
    + (known.length ? `, the layers' Hessian norms lie between ${inWords(Math.min(...known))} and ${inWords(Math.max(...known))}` : "")
    + (losses.length ? `, and after ${losses.length} steps with ${OPTIMIZERS[setting.optimizer]} the loss is ${inWords(mean(losses.slice(-10)))}` : "")
    + ".";
}
