// What a model looks at: draws one query's attention over an image, for one model or two on the same image.
//
// The state is the model's traits (attention.py lists them). A query is [] for CLS, or a place [y, x] in the image from 0 to
// 1; every model picks its own patch there. Weights come in blocks: of one image, layer and run of queries, all heads, N
// patches each, with `first` = -1 for CLS or the first patch. A code c of `bits` stands for least + (most - least) (c / top)^2.
//   {type: "ask", model, image, layer, query}   answered by {type: "block", key, first, count, bits} with two buffers,
//                                               ends (heads, count, 2) float32 and codes (heads, count, N), or {..., refused}
const STATE = ["pictures", "models", "image", "layer", "head", "query", "mass", "threshold", "opacity", "smooth", "kept",
  "scale", "said", "live"];
const SIDE = 448; // px of a canvas, at least
const BLOCKS = 48; // that stay in the page
const FAINT = 0.2; // of a head's range: what is below has no colour
const SILENCE = 4000; // ms without an answer after which that is told

const CSS = `
.mimlab-attention { --ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1f2328));
  --soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #59636e));
  --back: var(--jp-layout-color0, var(--vscode-editor-background, #fff));
  --raised: var(--jp-layout-color2, var(--vscode-editorWidget-background, #f3f4f6));
  --line: var(--jp-border-color1, var(--vscode-widget-border, #c9d1d9));
  --accent: var(--jp-brand-color1, var(--vscode-focusBorder, #0969da)); --bad: var(--jp-error-color1, #c62828);
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, Helvetica, Arial, sans-serif); color: var(--ink);
  background: var(--back); padding: 6px 2px; box-sizing: border-box; max-width: 1000px; }
.mimlab-attention * { box-sizing: border-box; }
.mimlab-attention [hidden] { display: none !important; }
.mimlab-attention .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 16px; margin-bottom: 7px; }
.mimlab-attention label { display: inline-flex; align-items: center; gap: 6px; margin: 0; }
.mimlab-attention input, .mimlab-attention select, .mimlab-attention button { font: inherit; color: inherit; margin: 0; }
.mimlab-attention select, .mimlab-attention button { height: 25px; padding: 0 8px; border: 1px solid var(--line);
  border-radius: 4px; background: var(--back); }
.mimlab-attention button { cursor: pointer; background: var(--raised); }
.mimlab-attention button[aria-pressed=true] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.mimlab-attention input { accent-color: var(--accent); } .mimlab-attention input[type=range] { width: 130px; }
.mimlab-attention :disabled { opacity: .5; cursor: default; }
.mimlab-attention :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.mimlab-attention output { font-variant-numeric: tabular-nums; white-space: nowrap; min-width: 3.2em; }
.mimlab-attention .thumbs { gap: 5px; }
.mimlab-attention .thumbs button { padding: 0; width: 52px; height: 52px; overflow: hidden; }
.mimlab-attention .thumbs img { width: 100%; height: 100%; object-fit: cover; display: block; max-width: none; margin: 0; }
.mimlab-attention .panels { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(220px, 460px)); }
.mimlab-attention figure { margin: 0; min-width: 0; }
.mimlab-attention figcaption { font-size: 12px; margin-top: 3px; overflow-wrap: anywhere; }
.mimlab-attention figcaption div:first-child { font-weight: 600; font-size: 13px; }
.mimlab-attention .soft { color: var(--soft); } .mimlab-attention .bad { color: var(--bad); }
.mimlab-attention .read { font-variant-numeric: tabular-nums; min-height: 1.4em; }
.mimlab-attention .frame { position: relative; line-height: 0; }
.mimlab-attention canvas { width: 100%; height: auto; display: block; cursor: crosshair; touch-action: none; transition: opacity .12s; }
.mimlab-attention.small canvas, .mimlab-attention.small img { image-rendering: pixelated; }
.mimlab-attention [data-waiting="1"] canvas { opacity: .5; transition-delay: .15s; }
.mimlab-attention .dots { display: flex; flex-wrap: wrap; gap: 0 10px; }
.mimlab-attention .dots i { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 4px; }
.mimlab-attention .ramp { display: inline-flex; align-items: center; gap: 6px; }
.mimlab-attention .ramp i { display: inline-block; width: 110px; height: 9px; border-radius: 2px; }
`;

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const digits = (value) => String(+value.toPrecision(3));
const percent = (share) => `${Math.round(100 * share)} %`;

// A buffer of the kernel's, at any offset, as a typed array.
const typed = (Kind, view) => new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

function block({ first, count, bits }, ends, codes) {
  return { first, count, top: bits === 8 ? 255 : 65535, ends: typed(Float32Array, ends),
    codes: bits === 8 ? typed(Uint8Array, codes) : typed(Uint16Array, codes) };
}

// The weights of a block's query: one array (N) a head.
function rows({ first, count, top, ends, codes }, query, heads) {
  const n = codes.length / heads / count;
  return Array.from({ length: heads }, (_, head) => {
    const row = head * count + query - first, low = ends[2 * row], range = ends[2 * row + 1] - low;
    return Float64Array.from(codes.subarray(row * n, (row + 1) * n), (code) => low + range * (code / top) ** 2);
  });
}

function mean(maps) {
  return maps[0].map((_, p) => maps.reduce((sum, map) => sum + map[p], 0) / maps.length);
}

// The largest weights that together hold the share `threshold`, 1 = kept (DINO, visualize_attention.py).
function mass(map, threshold) {
  const order = [...map.keys()].sort((a, b) => map[a] - map[b]), sum = map.reduce((a, b) => a + b, 0);
  const kept = new Uint8Array(map.length);
  let held = 0;
  for (const p of order) {
    held += map[p] / sum;
    kept[p] = held > 1 - threshold ? 1 : 0;
  }
  return kept;
}

// From 0, the smallest weight, to 1, the largest.
function shares(map) {
  const low = Math.min(...map), high = Math.max(...map);
  return map.map((weight) => (high > low ? (weight - low) / (high - low) : 0));
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

// One pixel a patch: colours (N, 4) in 0 to 255.
function tiny(pixels, [rowsOf, columns]) {
  const canvas = canvasOf(columns, rowsOf), context = canvas.getContext("2d"), data = context.createImageData(columns, rowsOf);
  data.data.set(pixels);
  context.putImageData(data, 0, 0);
  return canvas;
}

class Panel {
  constructor(view, index) {
    this.view = view;
    this.index = index;
    this.canvas = h("canvas", { "data-role": "map", tabindex: 0, role: "img",
      onpointerdown: (event) => this.pressed(event), onpointermove: (event) => this.moved(event),
      onpointerleave: () => { this.over = null; this.tell(); }, onkeydown: (event) => this.typed(event) });
    this.title = h("div");
    this.what = h("div", { class: "soft", "data-role": "what" });
    this.read = h("div", { class: "read", "data-role": "read" });
    this.dots = h("div", { class: "dots soft" });
    this.ramp = h("div", { class: "ramp soft" });
    this.bad = h("div", { class: "bad", "data-role": "why" });
    this.node = h("figure", { "data-role": "panel" }, h("div", { class: "frame" }, this.canvas),
      h("figcaption", {}, this.title, this.what, this.read, this.ramp, this.dots, this.bad));
  }

  get model() { return this.view.get("models")[this.index]; }

  // The layer at the same share of the depth as the first model's.
  get layer() {
    const [first] = this.view.get("models"), layer = this.view.get("layer");
    return this.index ? Math.round((layer / Math.max(first.layers - 1, 1)) * (this.model.layers - 1)) : layer;
  }

  // -1 for CLS, or the number of the patch.
  get query() {
    const place = this.view.get("query"), { grid: [rowsOf, columns] } = this.model;
    if (!place.length) return -1;
    const at = (share, cells) => Math.min(cells - 1, Math.floor(share * cells));
    return at(place[0], rowsOf) * columns + at(place[1], columns);
  }

  get head() {
    const head = this.view.get("head");
    return Number(head) >= this.model.heads ? "mean" : head; // the other model may have fewer
  }

  // Why there is no map, or "".
  reason() {
    const { layers, said, cls, all } = this.model;
    if (!layers) return said;
    if (this.query < 0 && !cls) return "This model has no class token: click a patch.";
    if (this.query >= 0 && !all) return "Only CLS looks at the patches in this model: press CLS.";
    return "";
  }

  key() { return `${this.index}/${this.view.get("image")}/${this.layer}`; }

  // The block that has the query's weights, or undefined.
  block() {
    const { blocks } = this.view, found = blocks.get(this.key()) ?? blocks.get(`${this.key()}/${this.query}`);
    return found && this.query >= found.first && this.query < found.first + found.count
      ? found : blocks.get(`${this.key()}/${this.query}`);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width]
      .map((share) => Math.min(Math.max(share, 0), 0.999999));
  }

  patch([y, x]) {
    const { grid: [rowsOf, columns] } = this.model;
    return [Math.floor(y * rowsOf), Math.floor(x * columns)];
  }

  ask([row, column]) {
    const { grid: [rowsOf, columns] } = this.model;
    this.view.set("query", [(row + 0.5) / rowsOf, (column + 0.5) / columns]);
  }

  pressed(event) {
    if (event.button || !this.model.layers) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.ask(this.patch(this.place(event)));
  }

  moved(event) {
    this.over = this.patch(this.place(event));
    const { grid: [, columns], layers } = this.model;
    if (event.buttons & 1 && layers && this.over[0] * columns + this.over[1] !== this.query) this.ask(this.over);
    this.tell();
  }

  typed(event) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by || !this.model.layers) return;
    event.preventDefault();
    const { grid } = this.model, now = this.query < 0 ? grid.map((cells) => cells >> 1) : [Math.floor(this.query / grid[1]), this.query % grid[1]];
    this.ask(now.map((at, k) => Math.min(Math.max(at + by[k], 0), grid[k] - 1)));
  }

  draw() {
    const { view, model } = this, why = this.reason(), found = why ? undefined : this.block();
    put(this.title, model.title);
    put(this.bad, why);
    this.waiting = !why && !found;
    if (this.waiting) {
      if (view.get("live")) view.ask(this.index, { image: view.get("image"), layer: this.layer, query: this.query });
      else put(this.bad, "This saved page has not kept that map; run the notebook to see it.");
    }
    this.node.dataset.waiting = this.waiting ? "1" : "0";
    if (this.waiting && view.get("live")) return; // the last map stays, pale
    this.maps = found && rows(found, this.query, model.heads);
    this.paint();
    this.tell();
  }

  paint() {
    const { view, canvas, maps } = this, picture = view.pictures[view.get("image")];
    if (!picture) return;
    const factor = Math.max(1, Math.ceil(SIDE / picture.naturalWidth));
    [canvas.width, canvas.height] = [picture.naturalWidth * factor, picture.naturalHeight * factor];
    const context = canvas.getContext("2d"), { width, height } = canvas;
    context.imageSmoothingEnabled = factor === 1;
    context.drawImage(picture, 0, 0, width, height);
    canvas.dataset.shown = maps ? `${this.key()}/${this.head}/${this.query}` : "";
    canvas.setAttribute("aria-label", `${this.model.title}: attention over image ${view.get("image")}`);
    this.ramp.hidden = !maps || this.head === "colours";
    this.dots.hidden = !maps || this.head !== "colours";
    if (!maps) return;
    const colours = this.head === "colours" ? this.inColours() : this.inScale();
    context.imageSmoothingEnabled = view.get("smooth");
    context.imageSmoothingQuality = "high";
    if (this.head === "colours") { // of the image only light and dark remain, so that hues are the heads'
      context.globalCompositeOperation = "saturation";
      context.fillStyle = "#808080";
      context.fillRect(0, 0, width, height);
      context.globalCompositeOperation = "source-over";
      context.fillStyle = "rgba(0, 0, 0, .4)";
      context.fillRect(0, 0, width, height);
    }
    context.globalAlpha = view.get("opacity");
    context.drawImage(tiny(colours, this.model.grid), 0, 0, width, height);
    context.globalAlpha = 1;
    this.mark(context);
  }

  // One map, by the colour scale; what is outside the mass is grey.
  inScale() {
    const { view, maps } = this, map = this.head === "mean" ? mean(maps) : maps[Number(this.head)];
    const kept = view.get("mass") ? mass(map, view.get("threshold")) : null, scale = view.scale;
    this.map = map;
    this.canvas.dataset.kept = kept ? kept.join("") : "";
    const out = new Uint8ClampedArray(4 * map.length);
    shares(map).forEach((share, p) =>
      out.set(kept && !kept[p] ? [128, 128, 128, 255] : [...scale[Math.round(share * (scale.length - 1))], 255], 4 * p));
    this.ramp.replaceChildren(digits(Math.min(...map)), h("i", { style: `background: linear-gradient(90deg, ${view.get("scale").join(", ")})` }),
      digits(Math.max(...map)));
    return out;
  }

  // All heads, a colour each: from a head's smallest to its largest, the square root as opacity, strong colours win.
  inColours() {
    const { view, maps, model } = this, limit = view.get("threshold"), hues = model.colours.map(rgb);
    const strength = maps.map((map) => {
      const kept = view.get("mass") ? mass(map, limit) : null;
      return shares(map).map((share, p) => (share < FAINT || (kept && !kept[p]) ? 0 : Math.sqrt(share)));
    });
    this.map = mean(maps);
    this.canvas.dataset.kept = "";
    const out = new Uint8ClampedArray(4 * this.map.length);
    for (let p = 0; p < this.map.length; p++) {
      const total = strength.reduce((sum, one) => sum + one[p], 0), most = Math.max(...strength.map((one) => one[p]));
      const mixed = [0, 1, 2].map((part) => strength.reduce((sum, one, k) => sum + one[p] * hues[k][part], 0) / (total || 1));
      out.set([...mixed, 255 * most], 4 * p);
    }
    this.dots.replaceChildren(...model.colours.map((colour, k) => h("span", {}, h("i", { style: `background: ${colour}` }), `head ${k}`)));
    return out;
  }

  mark(context) {
    const { grid: [rowsOf, columns] } = this.model, { width, height } = this.canvas;
    if (this.query < 0) return;
    const [row, column] = [Math.floor(this.query / columns), this.query % columns];
    const frame = [(column * width) / columns, (row * height) / rowsOf, width / columns, height / rowsOf];
    for (const [colour, line] of [["#fff", 5], ["#e61e1e", 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = (line * width) / SIDE;
      context.strokeRect(...frame);
    }
  }

  tell() {
    const { model, maps, over } = this, columns = model.grid[1];
    if (this.waiting) return;
    if (!maps) { put(this.what, ""); put(this.read, ""); return; }
    const who = this.query < 0 ? "CLS" : `row ${Math.floor(this.query / columns)}, column ${this.query % columns}`;
    const which = { mean: model.heads > 1 ? `mean of ${model.heads} heads` : "one head", colours: "each head a colour" }[this.head] ?? `head ${this.head}`;
    const sum = this.map.reduce((a, b) => a + b, 0), rest = model.cls && model.all ? `, ${percent(1 - sum)} to CLS` : "";
    put(this.what, `layer ${this.layer} of 0 to ${model.layers - 1} · ${which} · ${who} gives ${percent(sum)} to patches${rest}`);
    put(this.read, over ? `row ${over[0]}, column ${over[1]}: ${digits(this.map[over[0] * columns + over[1]])}` : "");
  }
}

class View {
  constructor(model, el) {
    this.model = model;
    this.blocks = new Map();
    this.pending = [];
    this.pictures = [];
    this.scale = this.get("scale").map(rgb);
    this.keep();
    const slider = (role, name, low, high, step, factor = 1) => h("input", { type: "range", min: low, max: high, step,
      "data-role": role, oninput: (event) => this.set(name, Number(event.target.value) / factor) });
    this.layer = slider("layer", "layer", 0, Math.max(this.get("models")[0].layers - 1, 0), 1);
    this.threshold = slider("threshold", "threshold", 5, 100, 1, 100);
    this.opacity = slider("opacity", "opacity", 0, 100, 1, 100);
    this.numbers = { layer: h("output"), threshold: h("output"), opacity: h("output") };
    const most = Math.max(1, ...this.get("models").map((one) => one.heads));
    this.head = h("select", { "data-role": "head", onchange: (event) => this.set("head", event.target.value) },
      ...[["mean", "mean of all"], ["colours", "each in a colour"], ...Array.from({ length: most }, (_, k) => [String(k), `head ${k}`])]
        .map(([value, label]) => h("option", { value }, label)));
    const check = (role) => h("input", { type: "checkbox", "data-role": role, onchange: (event) => this.set(role, event.target.checked) });
    this.mass = check("mass");
    this.smooth = check("smooth");
    this.cls = h("button", { type: "button", "data-role": "cls", title: "the class token looks", onclick: () => this.set("query", []) }, "CLS");
    this.thumbs = this.get("pictures").map(({ src, name }, k) =>
      h("button", { type: "button", "data-role": "thumb", title: name, "aria-label": name, onclick: () => this.set("image", k) },
        h("img", { src, alt: name })));
    this.panels = this.get("models").map((_, k) => new Panel(this, k));
    this.said = h("div", { class: "bad", "data-role": "said" });
    const none = !this.get("models").some((one) => one.layers);
    this.node = h("div", { class: "mimlab-attention" },
      h("div", { class: "bar thumbs", hidden: this.thumbs.length < 2 }, ...this.thumbs),
      h("div", { class: "bar", hidden: none }, h("label", {}, "Layer", this.layer, this.numbers.layer), h("label", {}, "Heads", this.head),
        h("span", {}, "Query ", this.cls, h("span", { class: "soft" }, " or click a patch"))),
      h("div", { class: "bar", hidden: none }, h("label", {}, this.mass, "Only the mass"), h("label", {}, this.threshold, this.numbers.threshold),
        h("label", {}, "Opacity", this.opacity, this.numbers.opacity), h("label", {}, this.smooth, "Smooth")),
      h("div", { class: "panels" }, ...this.panels.map((panel) => panel.node)), this.said);
    el.append(h("style", {}, CSS), this.node);
  }

  get(name) { return this.model.get(name); }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  // Blocks that came with the state.
  keep() {
    for (const [key, one] of Object.entries(this.get("kept"))) this.blocks.set(key, block(one, bytes(one.ends), bytes(one.codes)));
  }

  ask(index, what) {
    const text = JSON.stringify(what);
    if (this.pending[index] === text) return;
    this.pending[index] = text;
    this.model.send({ type: "ask", model: index, ...what });
    clearTimeout(this.silent);
    this.silent = setTimeout(() => put(this.said, "The kernel does not answer yet."), SILENCE);
  }

  heard(content, buffers) {
    if (content.type !== "block") return;
    this.pending[content.model] = null;
    clearTimeout(this.silent);
    put(this.said, content.refused ?? "");
    if (content.refused) return;
    this.blocks.set(content.key, block(content, ...buffers));
    for (const key of this.blocks.keys()) {
      if (this.blocks.size <= BLOCKS) break;
      if (!(key in this.get("kept"))) this.blocks.delete(key);
    }
    this.draw();
  }

  draw() {
    const models = this.get("models"), value = (name) => this.get(name);
    this.layer.value = value("layer");
    this.threshold.value = 100 * value("threshold");
    this.opacity.value = 100 * value("opacity");
    this.head.value = value("head");
    this.mass.checked = value("mass");
    this.smooth.checked = value("smooth");
    this.threshold.disabled = !value("mass");
    this.cls.disabled = !models.some((one) => one.cls);
    this.cls.setAttribute("aria-pressed", String(!value("query").length));
    put(this.numbers.layer, `${value("layer")}${value("layer") === models[0].layers - 1 ? " (last)" : ""}`);
    put(this.numbers.threshold, percent(value("threshold")));
    put(this.numbers.opacity, percent(value("opacity")));
    this.thumbs.forEach((thumb, k) => thumb.setAttribute("aria-pressed", String(k === value("image"))));
    this.panels.forEach((panel) => panel.draw());
  }

  async start() {
    this.pictures = await Promise.all(this.get("pictures").map(async ({ src }) => {
      const image = new Image();
      image.src = src;
      await image.decode();
      return image;
    }));
    this.node.classList.toggle("small", this.pictures[0].naturalWidth <= 96);
    put(this.said, this.get("said"));
    this.draw();
    this.node.dataset.ready = "1";
  }
}

async function render({ model, el }) {
  const view = new View(model, el);
  const changed = () => view.draw(), heard = (content, buffers) => view.heard(content, buffers);
  for (const name of STATE) model.on(`change:${name}`, changed);
  model.on("msg:custom", heard);
  await view.start();
  return () => {
    clearTimeout(view.silent);
    for (const name of STATE) model.off(`change:${name}`, changed);
    model.off("msg:custom", heard);
  };
}

export default { render };
