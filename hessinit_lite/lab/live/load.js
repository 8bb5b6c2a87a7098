// The only script that is written out: it unpacks the others, once a page, and starts each laboratory.
// Every output carries them, since it may be the only one that is shown; the key tells versions apart.
// The book's pages leave them out where a figure before has carried the same.

(() => {
  const started = window.hessinitLaboratories ??= {}; // {key: a promise of start(root)}

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** The scripts as a <script>, which a page allows that has allowed this one. */
  async function run(packed, key) {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(packed));
    script.hessinitReady = start => { script.start = start; };
    document.head.append(script);
    script.remove();
    if (!script.start) throw new Error("the page did not run its script");
    return script.start;
  }

  for (const root of document.querySelectorAll(".hessinit-lab[data-scripts]")) {
    if (root.started) continue;
    root.started = true;
    const {key, scripts, view} = root.dataset;
    root.removeAttribute("data-scripts");
    if (view === "full") root.style.minHeight = "100vh"; // it is taller than its picture: the page keeps its place
    (started[key] ??= run(scripts, key)).then(start => start(root, unpack)).finally(() => { root.style.minHeight = ""; }).catch(error => {
      root.querySelector("p")?.replaceChildren(`The live figure could not be started here (${error.message}); this is a picture of its first setting.`);
    });
  }
})();
