// The bench: one network, what is asked of it and what has been answered. Views look at `bench.seen`.

const START = {
  depth: 30, width: 64, activation: "relu", scheme: "torch", factor: 1, biases: null, dropout: 0, seed: 1,
  balanced: false, rate: 0.1, optimizer: "sgd",
};
const OF_THE_NET = ["depth", "width", "activation", "scheme", "factor", "biases", "dropout", "seed", "balanced"];
const MOST_STEPS = 2000;
const INPUTS = 64, CLASSES = 10; // the digits are pictures of 8 × 8

const sizesOf = ({depth, width}) => [INPUTS, ...Array(depth - 1).fill(width), CLASSES];

/** A setting as the part of an address behind "#", and back; what is as at the start is left out. */
function toLink(setting) {
  const changed = Object.entries(setting).filter(([name, value]) => name in START && value !== START[name]);
  return String(new URLSearchParams(changed));
}

function fromLink(text) {
  const setting = {}, menus = {activation: ACTIVATIONS, scheme: SCHEMES, optimizer: OPTIMIZERS}, numbers = {
    depth: [1, 60], width: [4, 128], factor: [0.25, 4], biases: [0, 1], dropout: [0, 0.9], seed: [1, 9999], rate: [1e-4, 100],
  };
  for (const [name, value] of new URLSearchParams(text)) {
    if (Object.hasOwn(numbers, name)) {
      const [low, high] = numbers[name], number = Math.min(high, Math.max(low, Number(value)));
      if (!Number.isNaN(number) && value !== "")
        setting[name] = ["depth", "width", "seed"].includes(name) ? Math.round(number) : number;
    } else if (name === "balanced") setting[name] = value === "true";
    else if (Object.hasOwn(menus, name) && Object.hasOwn(menus[name], value)) setting[name] = value;
  }
  return setting;
}

const SCHEMES = {
  torch: "torch's default", lecun: "LeCun", glorot: "Glorot", he: "He", forward: "forward gain", backward: "backward gain",
  spectral_condition: "spectral condition", mup: "μP", orthogonal: "orthogonal", lsuv: "LSUV",
};
const ACTIVATIONS = {
  relu: "ReLU", tanh: "tanh", sigmoid: "sigmoid", linear: "linear", leaky_relu: "leaky ReLU", selu: "SELU", gelu: "GELU", silu: "SiLU",
};
const OPTIMIZERS = {sgd: "SGD", adam: "Adam"};

/** A setting in a few words. */
function inShort({depth, width, activation, scheme, factor, biases, dropout, seed, balanced}) {
  return [
    `${ACTIVATIONS[activation]}, ${depth} × ${width}`, balanced ? `${SCHEMES[scheme]}, norms at 1` : SCHEMES[scheme],
    factor !== 1 && !balanced ? `σ × ${factor}` : "", biases != null ? `σ_b ${biases}` : "", dropout ? `dropout ${dropout}` : "",
    seed !== 1 ? `seed ${seed}` : "",
  ].filter(Boolean).join(", ");
}

class Bench {
  constructor(data, setting) {
    this.setting = {...START, ...setting};
    this.seen = null;
    this.layer = this.setting.depth;
    this.training = false;
    this.listeners = [];
    this.answered = 0;
    this.pins = [];
    this.stopped = this.solving = this.trouble = null;
    this.client = makeClient(data, answer => this.hear(answer));
    this.look();
  }

  listen(listener) { this.listeners.push(listener); listener(this); }

  /** All who listen, once a frame. */
  tell() {
    if (this.telling) return;
    this.telling = true;
    requestAnimationFrame(() => {
      this.telling = false;
      for (const listener of this.listeners) listener(this);
    });
  }

  /** Change the setting. What concerns the weights draws new ones; a rate is handed to a training that runs. */
  change(patch) {
    const before = this.setting, after = {...before, ...patch};
    const ofTheNet = OF_THE_NET.some(name => after[name] !== before[name]);
    // The scales that put every norm at 1 belong to the setting they were found for.
    if (ofTheNet && !("balanced" in patch) && !("seed" in patch)) after.balanced = false;
    this.setting = after;
    if (this.layer > after.depth || this.layer === before.depth) this.layer = after.depth;
    if (ofTheNet) this.look();
    else if (this.training) this.train();
    this.tell();
  }

  look() {
    this.training = false;
    this.stopped = this.solving = this.trouble = null;
    this.client.look({...this.setting, sizes: sizesOf(this.setting)});
  }

  point(layer) {
    const within = Math.min(this.setting.depth, Math.max(1, Math.round(layer)));
    if (within === this.layer) return;
    this.layer = within;
    this.tell();
  }

  /** Train up to the step `until`; quietly: what is seen by layer stays that of the start. */
  train(until = MOST_STEPS, quiet = false) {
    this.training = true;
    this.stopped = null;
    this.client.tell({kind: "train", rate: this.setting.rate, optimizer: this.setting.optimizer, until, quiet});
    this.tell();
  }

  pause() { this.training = false; this.client.tell({kind: "pause"}); this.tell(); }

  back() {
    this.training = false;
    this.stopped = null;
    this.client.tell({kind: "back"});
    this.tell();
  }

  hear(answer) {
    const seen = this.seen, handler = {
      signal: () => { this.seen = this.begun(answer); },
      norms: () => { for (const [layer, norm] of answer.norms) seen.norms[layer] = norm; },
      lambda: () => this.complete(answer),
      steps: () => seen.losses.push(...answer.losses),
      solving: () => { this.solving = answer; },
      solved: () => { this.solving = answer; },
      stopped: () => { this.training = false; this.stopped = answer.why; },
      ghost: () => Object.assign(this.pins[answer.pin], {curves: answer}),
      error: () => { this.training = false; this.trouble = answer.message; },
    }[answer.kind];
    handler();
    this.tell();
  }

  /** A new picture: until its norms are there the last ones are kept, to be shown pale. */
  begun(answer) {
    const last = this.seen, depth = answer.signal.length, first = answer.step === 0;
    const old = last && last.norms.length === depth
      ? last.norms.map((norm, layer) => Number.isNaN(norm) ? last.old?.[layer] ?? NaN : norm) : null;
    return {
      ...answer, depth, old, norms: Array(depth).fill(NaN), complete: false,
      lambda: first ? null : last.lambda, start: first ? null : last.start,
      losses: first ? [] : last.losses, lambdas: first ? [] : last.lambdas,
    };
  }

  complete({lambda, step}) {
    const {seen} = this;
    Object.assign(seen, {lambda, complete: true, budget: sum(seen.norms)});
    seen.lambdas.push([step, lambda]);
    if (step === 0) seen.start = {loss: seen.loss, lambda, budget: seen.budget};
    this.answered++; // pictures that were drawn to the end: what a test can wait for
  }

  pin(colour) {
    const {signal, gradient, norms, losses, lambdas} = this.seen;
    this.pins.push({setting: this.setting, colour, curves: {signal, gradient, norms: [...norms], losses: [...losses], lambdas: [...lambdas]}});
    this.tell();
  }

  /** Pins of a link: their curves are drawn when the picture is. */
  repin(settings, colours) {
    this.pins = settings.map((setting, k) => ({setting: {...START, ...setting}, colour: colours[k], curves: null}));
    const ghosts = this.pins.map(({setting}, pin) => ({pin, setting: {...setting, sizes: sizesOf(setting)}}));
    if (ghosts.length) this.client.tell({kind: "ghosts", ghosts});
  }
}

const sum = values => values.reduce((total, value) => total + value, 0);
