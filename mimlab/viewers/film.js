// The training film: a slider over steps, an animation, and for each image a row of pictures that change with the step.
//
// The model's traits are the whole state (film.py: state): steps, columns [{name, about, moves}], pictures {name: [row] or
// [frame][row]}, note, at. Nothing is asked of a kernel.
const PACE = 2.5; // frames a second at speed 1
const HELD = 3; // frames that the last one stays, before it starts again
const SPEEDS = [0.5, 1, 2, 4];

const CSS = `
.mimlab-film { --ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1f2328));
  --soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #59636e));
  --back: var(--jp-layout-color0, var(--vscode-editor-background, #fff));
  --raised: var(--jp-layout-color2, var(--vscode-editorWidget-background, #f3f4f6));
  --line: var(--jp-border-color1, var(--vscode-widget-border, #c9d1d9));
  --accent: var(--jp-brand-color1, var(--vscode-focusBorder, #0969da));
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, Helvetica, Arial, sans-serif); color: var(--ink);
  background: var(--back); padding: 6px 2px; box-sizing: border-box; max-width: 900px; }
.mimlab-film .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px; margin-bottom: 8px; }
.mimlab-film button, .mimlab-film select { font: inherit; color: inherit; height: 26px; padding: 0 9px; margin: 0;
  border: 1px solid var(--line); border-radius: 4px; background: var(--raised); cursor: pointer; }
.mimlab-film button { min-width: 74px; }
.mimlab-film button:hover, .mimlab-film select:hover { border-color: var(--accent); }
.mimlab-film input { flex: 1 1 160px; min-width: 80px; accent-color: var(--accent); margin: 0; }
.mimlab-film :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.mimlab-film output { font-variant-numeric: tabular-nums; min-width: 11em; white-space: nowrap; }
.mimlab-film .sheet { display: grid; gap: 6px 10px; }
.mimlab-film .head { color: var(--soft); font-size: 12px; align-self: end; overflow-wrap: anywhere; }
.mimlab-film img { width: 100%; height: auto; display: block; margin: 0; max-width: 220px; background: var(--raised);
  aspect-ratio: var(--aspect); image-rendering: pixelated; }
.mimlab-film.large img.smooth { image-rendering: auto; }
.mimlab-film .note { color: var(--soft); font-size: 12px; margin: 8px 0 0; overflow-wrap: anywhere; }
`;

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const steps = model.get("steps"), columns = model.get("columns"), pictures = model.get("pictures");
  const root = h("div", { class: "mimlab-film" }, h("style", {}, CSS)), last = steps.length - 1;
  el.append(root);
  if (last < 0) {
    root.append(h("p", { class: "note", "data-role": "note" }, model.get("note")));
    root.dataset.ready = "1";
    return;
  }
  const play = h("button", { type: "button", "data-role": "play" });
  const slider = h("input", { type: "range", min: 0, max: last, step: 1, "data-role": "frame", "aria-label": "step" });
  const said = h("output", { "data-role": "step" });
  const speed = h("select", { "data-role": "speed", title: "speed", "aria-label": "speed" },
    ...SPEEDS.map((times) => h("option", { value: times, ...(times === 1 ? { selected: "" } : {}) }, `${times} ×`)));
  const sheet = h("div", { class: "sheet" });
  sheet.style.gridTemplateColumns = `repeat(${columns.length}, minmax(0, 220px))`;
  for (const { name, about } of columns) sheet.append(h("div", { class: "head", title: about }, name));
  const moving = [], still = Object.values(pictures)[0];
  still.forEach((_, row) => {
    for (const { name, about, moves } of columns) {
      const image = h("img", { alt: `${name}, image ${row + 1}`, title: about, "data-column": name, "data-row": row });
      if (moves) moving.push({ image, sources: pictures[name].map((frame) => frame[row]) });
      else image.src = pictures[name][row];
      sheet.append(image);
    }
  });
  root.append(h("div", { class: "bar" }, play, slider, said, speed), sheet,
    h("p", { class: "note", "data-role": "note" }, model.get("note")));
  // a picture that is decoded before its turn does not flicker
  const ready = [];
  for (const { sources } of moving) for (const source of sources) { const one = new Image(); one.src = source; ready.push(one); }
  sheet.querySelector("img").addEventListener("load", ({ target }) => {
    root.style.setProperty("--aspect", `${target.naturalWidth} / ${target.naturalHeight}`);
    root.classList.toggle("large", target.naturalWidth > 96);
    for (const { image } of moving) image.classList.toggle("smooth", image.naturalWidth > 96);
  }, { once: true });

  let at = -1, timer = 0, held = 0;
  function show(place) {
    place = Math.min(Math.max(place, 0), last);
    if (place === at) return;
    at = place;
    for (const { image, sources } of moving) image.src = sources[at];
    slider.value = at;
    said.textContent = `step ${steps[at].toLocaleString("en")} of ${steps[last].toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", said.textContent);
    root.dataset.frame = at;
  }
  function keep() { // tells the model where the film stands: Python, and other views
    if (model.get("at") === at) return;
    model.set("at", at);
    model.save_changes();
  }
  function turn() {
    timer = 0;
    if (!root.isConnected) return stop();
    if (at < last) show(at + 1);
    else if (++held >= HELD) { held = 0; show(0); }
    wait();
  }
  function wait() { timer = setTimeout(turn, 1000 / (PACE * Number(speed.value))); }
  function label() {
    play.textContent = timer ? "❚❚ Pause" : "▶ Play";
    root.dataset.playing = timer ? "1" : "0";
  }
  function stop() { clearTimeout(timer); timer = 0; label(); keep(); }
  function start() { held = 0; if (at === last) show(0); wait(); label(); }
  play.onclick = () => (timer ? stop() : start());
  speed.onchange = () => { if (timer) { clearTimeout(timer); wait(); } };
  slider.oninput = () => { if (timer) stop(); show(Number(slider.value)); };
  slider.onchange = keep;
  const follow = () => { if (!timer) show(model.get("at")); };
  model.on("change:at", follow);
  if (!last) play.disabled = slider.disabled = true;
  show(model.get("at"));
  label();
  root.dataset.ready = "1";
  return () => { clearTimeout(timer); model.off("change:at", follow); };
}

export default { render };
