// Start one laboratory; load.js, which has run these scripts, calls it for each one on the page.

const VIEWS = {
  full: fullView, small: smallView, signal: signalView, layers: layersView, rate: rateView, plane: planeView,
  map: mapView, singular: singularView, sweep: sweepView, lanczos: lanczosView,
  balance: balanceView,
};

document.currentScript.hessinitReady((root, unpack) => {
  const {view, setting, about, digits, stored} = root.dataset;
  const data = digits && unpack(digits).then(bytes => {
    const {count, mean, std} = JSON.parse(about);
    return {pixels: bytes.slice(0, 64 * count), labels: bytes.slice(64 * count), mean, std};
  });
  const numbers = stored && unpack(stored).then(bytes => JSON.parse(new TextDecoder().decode(bytes)));
  for (const name of ["about", "digits", "stored"]) delete root.dataset[name]; // in memory from here on
  root.bench = VIEWS[view](root, data ?? numbers, JSON.parse(setting));
  root.addEventListener("keydown", event => event.stopPropagation()); // a notebook has keys of its own
});
