// Correspondence: the cosine of every patch of every picture to the one that was clicked.
//
// The state is the model's traits (correspondence.py lists them). `cells` holds the features as int8 rows with a float32
// factor each, so that a click is answered here. Only another layer is asked of the kernel, by the trait `layer`; the
// answer is another `cells`. Patches are in raster order.
const LONG = 480; // px of a canvas's longer side
const BEST = [["rgba(0,0,0,.75)", 6], ["#ffffff", 3]], QUERY = [["#ffffff", 10], ["#e0005a", 6]]; // strokes: colour, px
const STATE = ["pictures", "cells", "layers", "layer", "query", "k", "others", "strength", "said"];

const CSS = `
.mimlab-like { --ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1f2328));
  --soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #59636e));
  --back: var(--jp-layout-color0, var(--vscode-editor-background, #fff));
  --raised: var(--jp-layout-color2, var(--vscode-editorWidget-background, #f3f4f6));
  --line: var(--jp-border-color1, var(--vscode-widget-border, #c9d1d9));
  --accent: var(--jp-brand-color1, var(--vscode-focusBorder, #0969da)); --bad: var(--jp-error-color1, #c62828);
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, Helvetica, Arial, sans-serif); color: var(--ink);
  background: var(--back); padding: 6px 4px; box-sizing: border-box; max-width: 1120px; }
.mimlab-like * { box-sizing: border-box; }
.mimlab-like .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 16px; margin-bottom: 8px; }
.mimlab-like .name { font-weight: 600; overflow-wrap: anywhere; margin-bottom: 6px; }
.mimlab-like label { display: inline-flex; align-items: center; gap: 5px; margin: 0; }
.mimlab-like input, .mimlab-like select { font: inherit; color: inherit; margin: 0; accent-color: var(--accent); }
.mimlab-like select, .mimlab-like input[type=number] { height: 25px; padding: 0 6px; border: 1px solid var(--line);
  border-radius: 4px; background: var(--back); }
.mimlab-like input[type=number] { width: 56px; } .mimlab-like input[type=range] { width: 90px; }
.mimlab-like :disabled { opacity: .55; }
.mimlab-like :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.mimlab-like .tiles { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
.mimlab-like .tiles.few { grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
.mimlab-like .tiles.one { grid-template-columns: minmax(0, 420px); }
.mimlab-like figure { margin: 0; min-width: 0; } .mimlab-like figcaption { color: var(--soft); font-size: 12px; }
.mimlab-like .frame { position: relative; line-height: 0; background: var(--raised); }
.mimlab-like .frame img { width: 100%; height: 100%; display: block; max-width: none; margin: 0; }
.mimlab-like.small .frame img { image-rendering: pixelated; }
.mimlab-like canvas.heat { position: absolute; inset: 0; width: 100%; height: 100%; cursor: crosshair; touch-action: manipulation; }
.mimlab-like .foot { margin: 8px 0 0; font-variant-numeric: tabular-nums; }
.mimlab-like .legend { display: inline-flex; align-items: center; gap: 6px; }
.mimlab-like .legend canvas { width: 120px; height: 10px; border-radius: 2px; }
.mimlab-like .soft { color: var(--soft); font-size: 12px; } .mimlab-like .bad { color: var(--bad); }
.mimlab-like[data-waiting="1"] .tiles { opacity: .5; transition: opacity .1s .15s; }
`;

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// {rows: Int8Array (M, dims), scales: Float32Array (M)} of a trait `cells`
function unpack(cells) {
  return { rows: new Int8Array(bytes(cells.values).buffer), scales: new Float32Array(bytes(cells.scales).buffer) };
}

// Cosines of all rows to row `which`: Float32Array (M)
function cosines({ rows, scales }, dims, which) {
  const found = new Float32Array(scales.length), own = rows.subarray(which * dims, (which + 1) * dims);
  for (let m = 0, at = 0; m < found.length; m++) {
    let sum = 0;
    for (let d = 0; d < dims; d++, at++) sum += rows[at] * own[d];
    found[m] = clamp(sum * scales[m] * scales[which], -1, 1); // rounding may go beyond
  }
  return found;
}

// Numbers of the k largest values among those allowed, largest first
function largest(values, k, allowed) {
  const order = [];
  for (let m = 0; m < values.length; m++) if (allowed(m)) order.push(m);
  return order.sort((a, b) => values[b] - values[a] || a - b).slice(0, k);
}

function render({ model, el }) {
  const pictures = model.get("pictures"), scale = model.get("scale");
  const table = scale.map((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16)));
  const layer = h("select", { "data-role": "layer", onchange: () => put("layer", layer.value) });
  const k = h("input", { type: "number", min: 0, max: 50, "data-role": "k", oninput: () =>
    put("k", clamp(Math.round(+k.value) || 0, 0, 50)) });
  const strength = h("input", { type: "range", min: 0, max: 1, step: 0.05, "data-role": "strength",
    "aria-label": "opacity of the heat map", oninput: () => put("strength", +strength.value) });
  const others = h("input", { type: "checkbox", "data-role": "others", onchange: () => put("others", others.checked) });
  const bar = h("canvas", { width: 120, height: 1 }), low = h("span"), high = h("span");
  const read = h("div", { class: "foot", "data-role": "read", "aria-live": "polite" });
  const point = h("div", { class: "foot soft", "data-role": "point" });
  const note = h("div", { class: "foot soft", "data-role": "note" });
  const said = h("div", { class: "foot bad", "data-role": "said" });
  const tiles = pictures.map((picture, image) => {
    const share = LONG / Math.max(picture.width, picture.height);
    const canvas = h("canvas", { class: "heat", tabindex: 0, role: "img", "data-role": "heat", "data-image": image,
      "aria-label": `${picture.name}: click a patch, or move with the arrow keys`,
      width: Math.round(picture.width * share), height: Math.round(picture.height * share) });
    canvas.addEventListener("click", (event) => choose(image, patchAt(event, canvas)));
    canvas.addEventListener("pointermove", (event) => tell(image, patchAt(event, canvas)));
    canvas.addEventListener("pointerleave", () => { point.textContent = HINT; });
    canvas.addEventListener("keydown", (event) => move(event, image));
    const caption = h("figcaption", {}, picture.name);
    const frame = h("div", { class: "frame", style: `aspect-ratio: ${picture.width} / ${picture.height}` },
      h("img", { src: picture.src, alt: "", draggable: "false" }), canvas);
    return { canvas, caption, node: h("figure", {}, frame, caption) };
  });
  const few = pictures.length === 1 ? " one" : pictures.length < 5 ? " few" : "";
  const root = h("div", { class: "mimlab-like" + (Math.max(pictures[0].width, pictures[0].height) <= 96 ? " small" : "") },
    h("style", {}, CSS),
    h("div", { class: "name" }, `Patches alike: ${model.get("title")}`),
    h("div", { class: "bar" }, h("label", {}, "Layer", layer), h("label", {}, "Outline the best", k),
      h("label", {}, others, "only in other images"), h("label", {}, "Heat", strength),
      h("span", { class: "legend", title: "cosine" }, low, bar, high)),
    h("div", { class: "tiles" + few }, ...tiles.map((tile) => tile.node)), read, point, note, said);
  const HINT = "Click a patch in any picture; arrow keys move the query.";
  point.textContent = HINT;
  el.append(root);
  const brush = bar.getContext("2d");
  for (let x = 0; x < 120; x++) { brush.fillStyle = scale[Math.round((x / 119) * 255)]; brush.fillRect(x, 0, 1, 1); }

  let cells, held, found = null;

  function put(name, value) {
    model.set(name, value);
    model.save_changes();
  }

  function patchAt(event, canvas) {
    const box = canvas.getBoundingClientRect(), [rows, columns] = cells.grid;
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
    return row * columns + clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), 0, columns - 1);
  }

  const place = (patch) => `row ${Math.floor(patch / cells.grid[1])}, column ${patch % cells.grid[1]}`;
  const named = (m) => `${pictures[Math.floor(m / size())].name}, ${place(m % size())}`;
  const size = () => cells.grid[0] * cells.grid[1];

  function choose(image, patch) { put("query", [image, patch]); }

  function tell(image, patch) {
    point.textContent = `${pictures[image].name}, ${place(patch)}: cosine ${found[image * size() + patch].toFixed(3)}`;
  }

  function move(event, image) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [from, patch] = model.get("query"), [rows, columns] = cells.grid;
    const start = from === image ? patch : Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    const row = clamp(Math.floor(start / columns) + step[0], 0, rows - 1);
    choose(image, row * columns + clamp((start % columns) + step[1], 0, columns - 1));
  }

  function draw() {
    const began = performance.now();
    if (model.get("cells") !== cells) {
      cells = model.get("cells");
      held = unpack(cells);
    }
    const [image, patch] = model.get("query"), n = size(), which = image * n + Math.min(patch, n - 1);
    found = cosines(held, cells.dims, which);
    const apart = model.get("others") && pictures.length > 1;
    const best = largest(found, model.get("k"), (m) => m !== which && !(apart && Math.floor(m / n) === image));
    let bottom = Infinity, top = -Infinity;
    found.forEach((value, m) => { if (m !== which) { bottom = Math.min(bottom, value); top = Math.max(top, value); } });
    if (!(top > bottom)) [bottom, top] = [Math.min(found[which], 0), Math.max(found[which], 1e-6)];
    tiles.forEach((tile, at) => paint(tile, at, which, best, bottom, top));
    [low.textContent, high.textContent] = [bottom.toFixed(2), top.toFixed(2)];
    settle();
    const first = best.length ? `; the best: ${named(best[0])}, cosine ${found[best[0]].toFixed(3)}` : "";
    read.textContent = `Query: ${named(which)}${first}`;
    root.dataset.query = `${image},${patch}`;
    root.dataset.best = best.join(",");
    root.dataset.layer = cells.layer;
    root.dataset.took = (performance.now() - began).toFixed(1);
    root.dataset.ready = "1";
  }

  function paint({ canvas, caption }, at, which, best, bottom, top) {
    const [rows, columns] = cells.grid, n = rows * columns, brush = canvas.getContext("2d");
    const small = h("canvas", { width: columns, height: rows }), pixels = new ImageData(columns, rows);
    for (let patch = 0; patch < n; patch++) {
      const share = clamp((found[at * n + patch] - bottom) / (top - bottom), 0, 1);
      pixels.data.set([...table[Math.round(share * 255)], 255], patch * 4);
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    brush.clearRect(0, 0, canvas.width, canvas.height);
    brush.globalAlpha = model.get("strength");
    brush.imageSmoothingEnabled = false;
    brush.drawImage(small, 0, 0, canvas.width, canvas.height);
    brush.globalAlpha = 1;
    const wide = canvas.width / columns, tall = canvas.height / rows;
    const frame = (m, lines) => {
      const x = ((m % n) % columns) * wide, y = Math.floor((m % n) / columns) * tall;
      for (const [style, line] of lines) {
        brush.strokeStyle = style;
        brush.lineWidth = line;
        brush.strokeRect(x, y, wide, tall);
      }
      return [x, y];
    };
    for (const [rank, m] of best.entries()) {
      if (Math.floor(m / n) !== at) continue;
      const [x, y] = frame(m, BEST);
      if (wide < 22) continue;
      brush.font = `bold ${Math.min(20, wide * 0.6)}px sans-serif`;
      brush.textAlign = "center";
      brush.textBaseline = "middle";
      brush.lineWidth = 4;
      brush.strokeStyle = "rgba(0,0,0,.75)";
      brush.fillStyle = "#ffffff";
      brush.strokeText(rank + 1, x + wide / 2, y + tall / 2);
      brush.fillText(rank + 1, x + wide / 2, y + tall / 2);
    }
    if (Math.floor(which / n) === at) frame(which, QUERY);
    caption.textContent = pictures[at].name + (Math.floor(which / n) === at ? " (query)" : "");
  }

  function settle() {
    const names = model.get("layers"), wanted = model.get("layer");
    if (layer.options.length !== names.length)
      layer.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    layer.value = wanted;
    layer.disabled = !model.get("live") || names.length < 2;
    layer.title = model.get("live") ? "" : "other layers need the kernel: run the notebook";
    if (document.activeElement !== k) k.value = model.get("k");
    strength.value = model.get("strength");
    others.checked = model.get("others");
    others.disabled = pictures.length < 2;
    note.textContent = `Layer ${cells.layer}, ${cells.note}. Colours go from the lowest cosine to the highest but the query's own.`;
    said.textContent = model.get("said");
    root.dataset.waiting = wanted !== cells.layer && !model.get("said") ? "1" : "0";
  }

  const names = STATE.map((name) => `change:${name}`);
  names.forEach((name) => model.on(name, draw));
  draw();
  return () => names.forEach((name) => model.off(name, draw));
}

export default { render };
