// What every view is made of: elements, numbers in words, and knobs. No libraries.

/** An element with attributes and children; `on…` are listeners, strings become text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child != null));
  return node;
}

/** "10⁻¹²" for -12. */
function powerOfTen(exponent) {
  const raised = String(exponent).replace("-", "⁻").replace(/\d/g, digit => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return "10" + raised;
}

/** A number as a reader wants it: "0.031", "12", "3.1·10⁻⁹". */
function inWords(value, digits = 2) {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "beyond all numbers" : "–∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 100000) {
    const text = String(Number(value.toPrecision(size >= 10 ? Math.max(digits, String(Math.round(size)).length) : digits)));
    return text.replace("-", "−");
  }
  let exponent = Math.floor(Math.log10(size));
  let front = (value / 10 ** exponent).toPrecision(digits);
  if (!Number.isFinite(Number(front))) [exponent, front] = [-323, "5.0"]; // the last float above 0
  if (Math.abs(Number(front)) >= 10) [exponent, front] = [exponent + 1, (Number(front) / 10).toPrecision(digits)];
  return `${front.replace("-", "−")}·${powerOfTen(exponent)}`;
}

/**
 * A slider with its name and value above it. `places` maps the slider's whole positions 0…count
 * to values and back, so that a logarithmic knob is one line of its maker.
 */
function makeSlider({name, label, count, toValue, toPlace, text = inWords, change, reset}) {
  const output = make("span", {class: "lab-value", "aria-hidden": "true"}); // the knob itself says its value
  const input = make("input", {
    type: "range", min: 0, max: count, step: 1, name, "aria-label": label.replace(/<[^>]*>/g, ""), autocomplete: "off",
    "data-lm-suppress-shortcuts": "true", oninput: () => change(toValue(Number(input.value))),
  });
  if (reset) input.addEventListener("dblclick", () => reset());
  const node = make("label", {class: "lab-knob"}, make("span", {class: "lab-name"}, label), output, input);
  return {node, input, show(value) {
    input.value = toPlace(value);
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", text(value));
  }};
}

/** Positions for whole numbers from `low` to `high`. */
function wholeNumbers(low, high) {
  return {count: high - low, toValue: place => low + place, toPlace: value => value - low};
}

/** `count` + 1 positions for numbers spread evenly in their logarithm. */
function logarithmic(low, high, count, round = value => Number(value.toPrecision(3))) {
  return {
    count,
    toValue: place => round(low * (high / low) ** (place / count)),
    toPlace: value => Math.round(Math.log(value / low) / Math.log(high / low) * count),
  };
}

/** `count` + 1 positions for numbers spread evenly. */
function even(low, high, count) {
  return {
    count,
    toValue: place => Number((low + (high - low) * place / count).toPrecision(6)),
    toPlace: value => Math.round((value - low) / (high - low) * count),
  };
}

/** A menu: `options` is {value: text}. */
function makeMenu({name, label, options, change}) {
  const select = make("select", {
    name, "aria-label": label, autocomplete: "off", "data-lm-suppress-shortcuts": "true",
    onchange: () => change(select.value),
  }, Object.entries(options).map(([value, text]) => make("option", {value}, text)));
  const node = make("label", {class: "lab-knob"}, make("span", {class: "lab-name"}, label), select);
  return {node, input: select, show(value) { select.value = value; }};
}

/** A button; `pressed` true or false makes it a switch. */
function makeButton(text, press, {pressed, title, kind = ""} = {}) {
  return make("button", {
    type: "button", class: `lab-button ${kind}`, title, onclick: press,
    "aria-pressed": pressed == null ? null : String(pressed), "data-lm-suppress-shortcuts": "true",
  }, text);
}
