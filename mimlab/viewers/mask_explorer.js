// The mask explorer: cuts ranks of patches at any ratio, draws, animates, paints and compares them in the browser.
//
// The state is the model's traits (mask_view.py lists them); what follows the hand needs `ranks` alone, the place at which
// each patch is hidden. A mask is a Uint8Array of N = h * w patches in raster order, 1 = hidden. Messages to the kernel:
//   {type: "rank", want: [{mask, args, seed}]}       answered by {type: "ranks", ranks: {key: entry}}
//   {type: "look", id, panel, bits, step}            answered by {type: "seen", id, panel, filled, pasted, error, numbers, loss}
//                                                    or {..., refused}; only the answer to the newest id is shown as current
//   {type: "upload", name, data}, {type: "preset", path, mask, mask_ratio, mask_args}
//                                                    answered by {type: "said", text, bad}
// Ranks that were asked for stay in the view: set on the model, they would travel back with its next change.
const NS = "http://www.w3.org/2000/svg";
const MOST = 6; // panels
const PACE = { seeds: 2.5, ratios: 25 }; // steps a second while playing
const PAUSE = 150; // ms between two messages while something is dragged
const PATIENCE = 10000; // ms after which an unanswered request may be sent again
const SILENCE = 4000; // ms without an answer after which that is told
const HEAVY = 4e6; // bytes; larger pictures are shrunk before they travel
const STATE = ["picture", "grid", "counts", "menu", "ranks", "panels", "ratio", "fill", "complement", "painted", "token",
  "seeds", "run", "said", "source", "live"];
const FILLS = { grey: ["grey", "Grey"], blur: ["blurred", "Blurred"], noise: ["noise", "Noise"],
  token: ["tokenizer's picture", "The tokenizer's picture"] };

const CSS = `
.mimlab-masks { --ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1f2328));
  --soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #59636e));
  --back: var(--jp-layout-color0, var(--vscode-editor-background, #fff));
  --raised: var(--jp-layout-color2, var(--vscode-editorWidget-background, #f3f4f6));
  --line: var(--jp-border-color1, var(--vscode-widget-border, #c9d1d9));
  --faint: var(--jp-border-color2, var(--vscode-widget-border, #e1e4e8));
  --accent: var(--jp-brand-color1, var(--vscode-focusBorder, #0969da)); --bad: var(--jp-error-color1, #c62828);
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, Helvetica, Arial, sans-serif); color: var(--ink);
  background: var(--back); padding: 6px 2px; box-sizing: border-box; max-width: 1120px; outline: none; }
.mimlab-masks * { box-sizing: border-box; }
.mimlab-masks [hidden] { display: none !important; }
.mimlab-masks.over { box-shadow: inset 0 0 0 2px var(--accent); }
.mimlab-masks .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 11px; margin-bottom: 7px; }
.mimlab-masks .bar.foot { margin: 12px 0 0; }
.mimlab-masks label, .mimlab-masks .group { display: inline-flex; align-items: center; gap: 5px; margin: 0; }
.mimlab-masks .wide { flex: 1 1 260px; min-width: 0; flex-wrap: wrap; }
.mimlab-masks .wide input { flex: 1 1 90px; min-width: 60px; }
.mimlab-masks .push { margin-left: auto; } .mimlab-masks .short { width: 92px; }
.mimlab-masks input, .mimlab-masks select, .mimlab-masks button { font: inherit; color: inherit; margin: 0; }
.mimlab-masks select, .mimlab-masks button, .mimlab-masks input[type=number], .mimlab-masks input[type=text] {
  height: 25px; padding: 0 6px; border: 1px solid var(--line); border-radius: 4px; background: var(--back); }
.mimlab-masks button { cursor: pointer; padding: 0 9px; background: var(--raised); white-space: nowrap; }
.mimlab-masks button:hover:enabled { border-color: var(--accent); }
.mimlab-masks button[aria-pressed=true], .mimlab-masks button[aria-expanded=true] { border-color: var(--accent);
  box-shadow: inset 0 0 0 1px var(--accent); }
.mimlab-masks input[type=number] { width: 58px; } .mimlab-masks select { max-width: 100%; }
.mimlab-masks input[type=range], .mimlab-masks input[type=checkbox] { accent-color: var(--accent); margin: 0; }
.mimlab-masks :disabled { opacity: .5; cursor: default; }
.mimlab-masks :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.mimlab-masks output, .mimlab-masks .number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.mimlab-masks [data-role=ratio-value] { min-width: 14em; }
.mimlab-masks .soft { color: var(--soft); font-size: 12px; }
.mimlab-masks .bad { color: var(--bad); }
.mimlab-masks .panels { display: grid; gap: 14px 12px; align-items: start; grid-template-columns:
  repeat(auto-fit, minmax(max(160px, calc((100% - (var(--across) - 1) * 12px) / var(--across))), 1fr)); }
.mimlab-masks .panel { min-width: 0; display: flex; flex-direction: column; gap: 6px; }
.mimlab-masks .side { display: contents; }
.mimlab-masks .head { order: -1; display: flex; gap: 5px; align-items: center; }
.mimlab-masks .head select { flex: 1 1 60px; min-width: 0; font-weight: 600; }
.mimlab-masks .head input[type=number] { width: 56px; }
.mimlab-masks .tiles { display: grid; gap: 8px; grid-template-columns: repeat(var(--tiles), minmax(0, 1fr)); }
.mimlab-masks .alone .panel { flex-flow: row wrap; gap: 8px 18px; align-items: flex-start; }
.mimlab-masks .alone .tiles { flex: 1 1 340px; }
.mimlab-masks .alone.one .tiles { flex: 3 1 290px; max-width: 400px; }
.mimlab-masks .alone .side { flex: 2 1 200px; min-width: 0; display: flex; flex-direction: column; gap: 8px; max-width: 420px; }
.mimlab-masks .alone.many .panel { display: grid; gap: 8px 10px;
  grid-template-columns: repeat(auto-fill, minmax(max(min(46%, 200px), 30%), 1fr)); }
.mimlab-masks .alone.many .tiles { display: contents; }
.mimlab-masks figure { margin: 0; min-width: 0; }
.mimlab-masks figcaption { color: var(--soft); font-size: 12px; margin-top: 2px; }
.mimlab-masks .frame { position: relative; line-height: 0; aspect-ratio: var(--aspect); }
.mimlab-masks .frame canvas, .mimlab-masks .frame img { width: 100%; height: auto; display: block; max-width: none;
  aspect-ratio: var(--aspect); background: var(--raised); transition: opacity .12s; }
.mimlab-masks.small .frame canvas, .mimlab-masks.small .frame img { image-rendering: pixelated; }
.mimlab-masks .frame canvas { touch-action: none; cursor: crosshair; }
.mimlab-masks .frame svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.mimlab-masks .frame svg * { fill: none; vector-effect: non-scaling-stroke; }
.mimlab-masks .halo { stroke: #fff; stroke-width: 3px; stroke-opacity: .8; }
.mimlab-masks .outline { stroke: #d1490c; stroke-width: 1.3px; }
.mimlab-masks .pointed { stroke: #fff; stroke-width: 1.5px; paint-order: stroke; filter: drop-shadow(0 0 1px #000); }
.mimlab-masks [data-waiting="1"] canvas { opacity: .55; transition-delay: .15s; }
.mimlab-masks img.result[data-empty] { visibility: hidden; }
.mimlab-masks [data-stale="1"] img.result { opacity: .3; transition-delay: .1s; }
.mimlab-masks [data-stale="1"] .numbers { opacity: .45; }
.mimlab-masks .read { display: flex; flex-wrap: wrap; gap: 0 10px; font-size: 12px; font-variant-numeric: tabular-nums; }
.mimlab-masks .read span { white-space: nowrap; }
.mimlab-masks .place { position: absolute; left: 0; bottom: 0; padding: 1px 6px; line-height: 1.4; font-size: 11.5px;
  color: #fff; background: rgba(0, 0, 0, .72); pointer-events: none; }
.mimlab-masks .place.above { bottom: auto; top: 0; }
.mimlab-masks details summary { cursor: pointer; color: var(--soft); font-size: 12px; margin-bottom: 3px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.mimlab-masks .alone details summary { display: none; }
.mimlab-masks .options { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: 4px 8px;
  align-items: center; }
.mimlab-masks .options .name { color: var(--soft); overflow: hidden; text-overflow: ellipsis; font-size: 12px; }
.mimlab-masks .options .value { display: flex; align-items: center; gap: 6px; min-width: 0; }
.mimlab-masks .options input[type=range] { flex: 1 1 30px; min-width: 20px; width: 30px; }
.mimlab-masks .options input[type=number] { width: 54px; flex: none; padding: 0 2px 0 5px; height: 23px; }
.mimlab-masks .options select, .mimlab-masks .options input[type=text] { height: 23px; min-width: 0; flex: 0 1 auto; }
.mimlab-masks .about { overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
.mimlab-masks .alone .about { -webkit-line-clamp: 6; }
.mimlab-masks .texts { display: grid; gap: 10px 14px; margin-top: 10px; padding-top: 8px; border-top: 1px solid var(--faint);
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.mimlab-masks .texts > .full { grid-column: 1 / -1; }
.mimlab-masks .text { min-width: 0; }
.mimlab-masks .text .bar { margin-bottom: 3px; justify-content: space-between; }
.mimlab-masks pre { margin: 0; padding: 6px 8px; overflow: auto; max-height: 190px; white-space: pre-wrap;
  overflow-wrap: anywhere; border: 1px solid var(--faint); border-radius: 4px; background: var(--raised); color: var(--ink);
  font: 12px/1.45 var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace); user-select: text; }
.mimlab-masks input[data-role=preset-path] { flex: 1 1 150px; min-width: 0; }
.mimlab-masks .said { margin-bottom: 7px; overflow-wrap: anywhere; }
.mimlab-masks .legend { margin-top: 8px; }
`;

// ---------------------------------------------------------------------------------------------- small helpers

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

const same = (a, b) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function base64(array) {
  return btoa(String.fromCharCode(...array));
}

const digits = (value) => (Number.isFinite(value) ? String(+value.toPrecision(3)) : "none");

let latest = 0; // ids rise across views and page loads, so that an old answer is never taken for a new one
const nextId = () => (latest = Math.max(latest + 1, Date.now()));
const asked = new Map(); // id -> what was asked; shared, since each view hears every answer

// ---------------------------------------------------------------------------------------------- masks

const argsText = (args) => JSON.stringify(sorted(args));
const keyOf = (name, seed, args) => `${name}|${seed}|${argsText(args)}`;

// Python may write the same arguments in other ways (1.0 for 1), so keys are read, not compared as text.
function parts(key) {
  const found = /^([^]*?)\|(-?\d+)\|(\{[^]*\})$/.exec(key);
  if (!found) return null;
  try {
    return { name: found[1], seed: Number(found[2]), args: JSON.parse(found[3]) };
  } catch {
    return null;
  }
}

const decoded = new WeakMap();

// The mask of an entry, or null where it does not belong to a grid of n patches.
function cut(entry, n, percent, count) {
  if (!decoded.has(entry)) decoded.set(entry, bytes(entry.order ?? entry.bits));
  const data = decoded.get(entry), mask = new Uint8Array(n);
  if (entry.order) {
    if (data.length !== 2 * n) return null;
    for (let p = 0; p < n; p++) mask[p] = data[2 * p] + 256 * data[2 * p + 1] < count ? 1 : 0;
  } else {
    const row = Math.ceil(n / 8), start = percent * row;
    if (data.length !== 101 * row) return null;
    for (let p = 0; p < n; p++) mask[p] = (data[start + (p >> 3)] >> (p & 7)) & 1;
  }
  return mask;
}

function packed(mask) {
  const row = new Uint8Array(Math.ceil(mask.length / 8));
  mask.forEach((hidden, p) => { row[p >> 3] |= hidden << (p & 7); });
  return row;
}

// Number of 4-connected hidden regions.
function regions(mask, [, w]) {
  const left = Uint8Array.from(mask), stack = [];
  let found = 0;
  for (let start = 0; start < left.length; start++) {
    if (!left[start]) continue;
    found++;
    left[start] = 0;
    stack.push(start);
    while (stack.length) {
      const p = stack.pop(), column = p % w;
      for (const q of [p - w, p + w, column ? p - 1 : -1, column < w - 1 ? p + 1 : -1])
        if (left[q]) { left[q] = 0; stack.push(q); } // outside the grid it is undefined
    }
  }
  return found;
}

// Mean Euclidean distance, in patches, of a hidden patch to the nearest visible one: columns first, then rows.
function distance(mask, [rows, w]) {
  const above = new Float64Array(mask.length).fill(Infinity);
  for (let c = 0; c < w; c++) {
    for (let r = 0, d = Infinity; r < rows; r++) above[r * w + c] = d = mask[r * w + c] ? d + 1 : 0;
    for (let r = rows - 1, d = Infinity; r >= 0; r--) {
      d = mask[r * w + c] ? d + 1 : 0;
      if (d < above[r * w + c]) above[r * w + c] = d;
    }
  }
  let sum = 0, many = 0;
  for (let p = 0; p < mask.length; p++) {
    if (!mask[p]) continue;
    const column = p % w, row = p - column;
    let least = Infinity;
    for (let c = 0; c < w; c++) least = Math.min(least, (c - column) ** 2 + above[row + c] ** 2);
    sum += Math.sqrt(least);
    many++;
  }
  return many && Number.isFinite(sum) ? sum / many : NaN;
}

// Cells on the straight line between two cells, both ends included (Bresenham 1965).
function line([r0, c0], [r1, c1]) {
  const dr = Math.abs(r1 - r0), dc = Math.abs(c1 - c0), cells = [];
  const down = Math.sign(r1 - r0), right = Math.sign(c1 - c0);
  for (let error = dc - dr; ;) {
    cells.push([r0, c0]);
    if (r0 === r1 && c0 === c1) return cells;
    const twice = 2 * error;
    if (twice > -dr) { error -= dr; c0 += right; }
    if (twice < dc) { error += dc; r0 += down; }
  }
}

function box([r0, c0], [r1, c1]) {
  const cells = [];
  for (let r = Math.min(r0, r1); r <= Math.max(r0, r1); r++)
    for (let c = Math.min(c0, c1); c <= Math.max(c0, c1); c++) cells.push([r, c]);
  return cells;
}

// The border around a set of patches as [r0, c0, r1, c1] in cells.
function edges(patches, [, w]) {
  const inside = new Set(patches), found = [];
  for (const p of inside) {
    const r = Math.floor(p / w), c = p % w;
    if (!inside.has(p - w)) found.push([r, c, r, c + 1]);
    if (!inside.has(p + w)) found.push([r + 1, c, r + 1, c + 1]);
    if (c === 0 || !inside.has(p - 1)) found.push([r, c, r + 1, c]);
    if (c === w - 1 || !inside.has(p + 1)) found.push([r, c + 1, r + 1, c + 1]);
  }
  return found;
}

// ---------------------------------------------------------------------------------------------- pictures

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

async function decode(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  return image;
}

// What pixels of visible and of hidden patches come from: `base`, and a fill style for each name.
function sources(image, token, { width, height }, [rows, w]) {
  const base = canvasOf(width, height), context = base.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  const pattern = (source) => context.createPattern(source, "no-repeat");
  const styles = { grey: "rgb(128, 128, 128)" };
  const make = {
    blur() { // one pixel a patch, drawn large again
      const tiny = canvasOf(w, rows), large = canvasOf(width, height);
      for (const [from, to] of [[base, tiny], [tiny, large]]) {
        const drawing = to.getContext("2d");
        drawing.imageSmoothingQuality = "high";
        drawing.drawImage(from, 0, 0, to.width, to.height);
      }
      return pattern(large);
    },
    noise() { // the same each time: a linear congruential generator (Numerical Recipes, chapter 7.1)
      const noisy = canvasOf(width, height), drawing = noisy.getContext("2d"), data = drawing.createImageData(width, height);
      for (let k = 0, state = 1; k < data.data.length; k++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        data.data[k] = k % 4 === 3 ? 255 : state >>> 24;
      }
      drawing.putImageData(data, 0, 0);
      return pattern(noisy);
    },
    token() {
      const decodedPicture = canvasOf(width, height);
      decodedPicture.getContext("2d").drawImage(token, 0, 0, width, height);
      return pattern(decodedPicture);
    },
  };
  return { base, width, height, rows, w, style: (name) => (styles[name] ??= make[name]()) };
}

// Draw the picture with every patch of value `hide` filled; neighbours in a row are one rectangle.
function draw(context, source, style, mask, hide) {
  const { base, width, height, rows, w } = source;
  context.drawImage(base, 0, 0);
  context.fillStyle = style;
  for (let r = 0; r < rows; r++) {
    const top = Math.ceil((r * height) / rows), bottom = Math.ceil(((r + 1) * height) / rows);
    for (let c = 0; c < w; c++) {
      if (mask[r * w + c] !== hide) continue;
      const first = c;
      while (c + 1 < w && mask[r * w + c + 1] === hide) c++;
      const left = Math.ceil((first * width) / w);
      context.fillRect(left, top, Math.ceil(((c + 1) * width) / w) - left, bottom - top);
    }
  }
}

function read(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// The picture cut to an aspect around its centre and drawn at a size.
function cropped(image, width, height) {
  const canvas = canvasOf(width, height), scale = Math.min(image.width / width, image.height / height);
  const [w, h] = [width * scale, height * scale], context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // transparent parts lie on white
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (image.width - w) / 2, (image.height - h) / 2, w, h, 0, 0, width, height);
  return canvas;
}

// ---------------------------------------------------------------------------------------------- texts for a run

const quoted = (value) => JSON.stringify(value);

// A Python literal with double quotes, as in the notebooks' cells.
function python(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value).map(([name, item]) => `${quoted(name)}: ${python(item)}`).join(", ")}}`;
  return decimal(value);
}

// YAML reads 1e-7 as text, but 1.0e-7 as a number.
function decimal(value) {
  const text = String(value);
  return /^-?\d+e/.test(text) ? text.replace("e", ".0e") : text;
}

// A YAML scalar or flow collection; `plain` leaves quotes away where no reader can mistake the text.
function yaml(value, plain = true) {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return `[${value.map((item) => yaml(item, plain)).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value).map(([name, item]) => `${yaml(name, plain)}: ${yaml(item, plain)}`).join(", ")}}`;
  if (typeof value !== "string") return typeof value === "number" ? decimal(value) : String(value);
  const safe = /^[A-Za-z_][\w./-]*$/.test(value) && !/^(true|false|yes|no|on|off|null|y|n)$/i.test(value);
  return plain && safe ? value : quoted(value);
}

function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

function cellText(source, setting) {
  const values = { ...source, ...setting };
  return Object.entries(values).filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name} = ${python(value)}\n`).join("");
}

function commandText(source, setting) {
  const empty = (value) => value === null || value === undefined || (typeof value === "object" && !Object.keys(value).length);
  const given = Object.entries({ ...source, ...setting }).filter(([, value]) => !empty(value));
  const flags = given.map(([name, value]) => `-p ${name} ${shell(typeof value === "object" ? yaml(value, false) : String(value))}`);
  return ["mimlab run notebooks/03_pretrain.ipynb", ...flags].join(" ");
}

function presetText({ mask, mask_ratio, mask_args }) {
  const lines = Object.entries(mask_args).map(([name, value]) => `  ${yaml(name)}: ${yaml(value)}\n`).join("");
  return `mask: ${yaml(mask)}\nmask_ratio: ${decimal(mask_ratio)}\n` + (lines ? `mask_args:\n${lines}` : "mask_args: {}\n");
}

// ---------------------------------------------------------------------------------------------- option controls

const start = (option) => {
  if (option.default !== null && option.default !== undefined) return option.default;
  if (option.kind === "bool") return false;
  if (option.choices?.length) return option.choices[0];
  if (typeof option.low !== "number") return option.kind === "text" ? "" : 1;
  const step = option.step || 1;
  return Number((option.low + Math.round((option.high - option.low) / 2 / step) * step).toPrecision(10));
};

const spoken = (value) => (value === null ? "auto" : typeof value === "string" ? value : JSON.stringify(value));

function menuOf(values, attributes, change) {
  const select = h("select", attributes, ...values.map((value, k) => h("option", { value: k }, spoken(value))));
  select.addEventListener("change", () => change(values[select.value]));
  return { nodes: [select], show: (value) => { select.value = values.findIndex((each) => same(each, value)); } };
}

// One option as controls: {nodes, show(value)}; `change(value, settled)` is called with what the user sets.
function control(option, change, saved, disabled) {
  const common = { "data-role": "option", "data-name": option.name, "aria-label": option.name, disabled };
  const numeric = option.kind === "int" || option.kind === "float";
  if (saved && !disabled && option.kind !== "bool") return menuOf(saved, common, (value) => change(value, true));
  if (option.kind === "choice" || (option.kind === "bool" && option.none)) {
    const choices = option.kind === "bool" ? [true, false] : option.choices ?? [];
    return menuOf(option.none ? [null, ...choices] : choices, common, (value) => change(value, true));
  }
  if (option.kind === "bool") {
    const check = h("input", { type: "checkbox", ...common, onchange: () => change(check.checked, true) });
    return { nodes: [check], show: (value) => { check.checked = Boolean(value); } };
  }
  const bounded = numeric && typeof option.low === "number" && typeof option.high === "number";
  const step = option.kind === "int" ? option.step || 1 : "any"; // a typed number may lie between two steps
  const field = h("input", { ...common, type: numeric ? "number" : "text", step: numeric ? step : null,
    min: option.low, max: option.high, ...(bounded ? { "data-role": "option-number" } : {}) });
  const typed = () => {
    if (!numeric) return typeof option.default === "string" || option.default === null ? field.value : parsed(field.value);
    return field.value.trim() === "" || !Number.isFinite(Number(field.value)) ? undefined : Number(field.value);
  };
  const commit = (settled) => { const value = typed(); if (value !== undefined) change(value, settled); };
  field.addEventListener("change", () => commit(true));
  if (numeric) field.addEventListener("input", () => commit(false));
  const range = bounded && h("input", { ...common, type: "range", min: option.low, max: option.high, step: option.step || "any" });
  if (range) {
    range.addEventListener("input", () => { field.value = range.value; change(Number(range.value), false); });
    range.addEventListener("change", () => change(Number(range.value), true));
  }
  const inputs = range ? [range, field] : [field];
  const auto = option.none && h("input", { type: "checkbox", "data-role": "option-auto", "data-name": option.name, disabled,
    "aria-label": `${option.name}: auto`,
    onchange: () => change(auto.checked ? null : parsed(field.dataset.last ?? JSON.stringify(start(option))), true) });
  const show = (value) => {
    if (auto) auto.checked = value === null;
    for (const input of inputs) input.hidden = value === null;
    if (value === null) return;
    field.dataset.last = JSON.stringify(value);
    if (range) range.value = value;
    const current = numeric ? Number(field.value) === value && field.value !== "" : same(typed(), value);
    if (!current) field.value = typeof value === "string" ? value : JSON.stringify(value);
  };
  return { nodes: auto ? [...inputs, h("label", { class: "soft" }, auto, "auto")] : inputs, show };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// ---------------------------------------------------------------------------------------------- a standalone page

// Everything inline, nothing fetched; "<" is escaped, so that no text can end the script.
function pageOf(state, source) {
  const json = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Masks</title><style>body { margin: 16px; background: #fff; }</style></head>
<body><div id="explorer"></div>
<script id="state" type="application/json">${json(state)}<\/script>
<script id="source" type="application/json">${json(source)}<\/script>
<script type="module">
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const state = { ...read("state"), _esm: read("source") }, heard = {};
const model = {
  get: (name) => state[name],
  set(name, value) { state[name] = value; (heard["change:" + name] ?? []).slice().forEach((hear) => hear()); },
  on(name, hear) { (heard[name] ??= []).push(hear); },
  off(name, hear) { heard[name] = (heard[name] ?? []).filter((other) => other !== hear); },
  save_changes() {}, send() {},
};
const module = await import(URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" })));
module.default.render({ model, el: document.getElementById("explorer") });
<\/script></body></html>
`;
}

function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link); // Firefox follows only links in the page
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---------------------------------------------------------------------------------------------- one panel

// an image without a source, given one while its text is laid out in its place, can keep no height for good in Chromium
const BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const RESULTS = { filled: "filled in", pasted: "completed", error: "error" };
const TOLD = { filled: "what the run predicts everywhere", pasted: "its prediction in the hidden patches, the picture elsewhere",
  error: "absolute difference between the completed picture and the original" };

class Panel {
  constructor(explorer, index) {
    Object.assign(this, { explorer, index, mask: null, state: "waiting", signature: null, asked: 0, askedFor: null, shown: null,
      answer: {}, stroke: null, cursor: null, queued: {}, frame: 0 });
    const field = { type: "number", min: 0, step: 1, "data-role": "panel-seed", "aria-label": "seed of this panel", title: "seed" };
    this.select = h("select", { "data-role": "mask", "aria-label": "strategy", onchange: () => this.choose() });
    this.seed = h("input", { ...field, oninput: () => explorer.setSeed(this.seed.value, this) });
    this.removal = h("button", { type: "button", "data-role": "remove", "aria-label": "remove this panel",
      title: "remove this panel", onclick: () => explorer.remove(this) }, "×");
    this.tiles = h("div", { class: "tiles" });
    this.read = h("div", { class: "read" });
    const titles = { hidden: "patches hidden, with those set by hand", regions: "hidden areas, connected over edges",
      distance: "mean distance of a hidden patch to the nearest visible one, in patches" };
    this.reads = Object.entries(titles).map(([role, title]) => this.read.appendChild(h("span", { "data-role": role, title })));
    this.numbers = h("div", { class: "read numbers", "data-role": "numbers" });
    this.place = h("div", { class: "place", "data-role": "place", role: "status", hidden: true });
    this.problem = h("div", { class: "bad", "data-role": "problem", role: "alert" });
    this.about = h("div", { class: "about soft" });
    this.options = h("div", { class: "options" });
    this.why = h("div", { class: "soft", "data-role": "why" });
    this.summary = h("summary", { onclick: () => { this.unfolded = !this.fold.open; } });
    this.fold = h("details", {}, this.summary, this.options, this.why);
    this.root = h("div", { class: "panel", "data-role": "panel", role: "group" }, this.tiles, h("div", { class: "side" },
      h("div", { class: "head" }, this.select, this.seed, this.removal), this.problem, this.read, this.numbers, this.about,
      this.fold));
  }

  get setting() { return this.explorer.list[this.index]; }

  // Bring the controls in line with the state; only what has changed is built anew, so that focus stays.
  sync() {
    const { explorer, setting } = this, alone = explorer.list.length === 1;
    const strategy = explorer.strategy(setting.mask);
    this.root.dataset.index = this.index;
    this.root.setAttribute("aria-label", `panel ${this.index + 1}: ${setting.mask}`);
    this.syncMenu(setting.mask);
    this.removal.hidden = alone;
    this.seed.hidden = alone || explorer.linked;
    if (Number(this.seed.value) !== setting.seed) this.seed.value = setting.seed;
    put(this.about, strategy?.about ?? "");
    this.about.title = strategy?.about ?? "";
    this.syncTiles();
    this.syncOptions(strategy, setting);
    this.fold.hidden = !this.controls.length;
    this.fold.open = alone || (this.unfolded ?? explorer.list.length <= 3); // six with all their options fill a screen
    const told = Object.entries(setting.args).map(([name, value]) => `${name.replaceAll("_", " ")} ${spoken(value)}`);
    put(this.summary, told.length ? `Options: ${told.join(", ")}` : "Options");
  }

  syncMenu(name) {
    const { explorer } = this, items = explorer.menu.map((item) => [item.name, item.blocked ?? explorer.unsaved(item)]);
    if (!items.some(([each]) => each === name)) items.push([name, "not on this menu"]);
    const text = JSON.stringify(items);
    if (this.items !== text) {
      this.items = text;
      const option = ([each, why]) => h("option", { value: each, disabled: Boolean(why), title: why },
        why ? `${each} (${why.length > 60 ? `${why.slice(0, 57)}...` : why})` : each);
      this.select.replaceChildren(...items.map(option));
    }
    this.select.value = name;
  }

  syncTiles() {
    const { explorer } = this, { complement, run } = explorer;
    const wanted = [...(run && explorer.list.length === 1 ? ["original"] : []), "masked", ...(complement ? ["rest"] : []),
      ...(run ? Object.keys(RESULTS) : [])];
    if (this.wanted === wanted.join()) return;
    this.wanted = wanted.join();
    this.tile = {};
    const captions = { original: "original", masked: complement ? "A sees" : "visible", rest: "B sees", ...RESULTS };
    this.tiles.replaceChildren(...wanted.map((role) => {
      const drawn = role === "masked" || role === "rest";
      const picture = drawn ? this.canvas(role) : h("img", { "data-role": role, alt: captions[role],
        class: role in RESULTS ? "result" : null, src: BLANK, title: TOLD[role], draggable: "false" });
      const frame = h("div", { class: "frame" }, picture);
      const figure = h("figure", {}, frame, ...(wanted.length > 1 ? [h("figcaption", {}, captions[role])] : []));
      this.tile[role] = { picture, figure, caption: captions[role], overlay: drawn ? this.overlay(frame) : null };
      return figure;
    }));
    this.tiles.style.setProperty("--tiles", Math.min(wanted.length, 2));
    this.resize();
    this.showAnswer();
  }

  canvas(role) {
    const canvas = h("canvas", { "data-role": role, tabindex: 0, role: "application" });
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "keydown", "blur"])
      canvas.addEventListener(kind, (event) => this[kind]?.(event, canvas));
    return canvas;
  }

  overlay(frame) {
    const svg = frame.appendChild(document.createElementNS(NS, "svg"));
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const nodes = ["halo", "outline", "pointed"].map((name) => {
      const node = svg.appendChild(document.createElementNS(NS, "path"));
      node.setAttribute("class", name);
      return node;
    });
    return { svg, nodes };
  }

  resize() {
    const { source } = this.explorer;
    if (!source) return;
    for (const { picture, overlay } of Object.values(this.tile)) {
      if (!overlay) continue;
      picture.width = source.width;
      picture.height = source.height;
      overlay.svg.setAttribute("viewBox", `0 0 ${source.w} ${source.rows}`);
    }
    if (this.tile.original) this.tile.original.picture.src = this.explorer.picture.src;
  }

  syncOptions(strategy, setting) {
    const { explorer } = this, options = strategy?.options ?? [];
    const saved = options.map((option) => (explorer.live ? null : explorer.saved(option, setting)));
    const shape = JSON.stringify([setting.mask, explorer.live, options, saved]);
    if (this.shape !== shape) {
      this.shape = shape;
      const focused = document.activeElement?.dataset?.name;
      this.controls = options.map((option, k) => control(option, (value, settled) => this.set(option.name, value, settled),
        saved[k], saved[k] !== null && saved[k].length < 2));
      this.options.replaceChildren(...options.flatMap((option, k) => [
        h("span", { class: "name", title: option.name }, option.name.replaceAll("_", " ")),
        h("span", { class: "value" }, ...this.controls[k].nodes)]));
      if (focused) this.options.querySelector(`[data-name="${escaped(focused)}"]`)?.focus();
      put(this.why, saved.some((values) => values !== null && values.length < 2)
        ? "Greyed options need a kernel: open the notebook to change them." : "");
      this.why.hidden = !this.why.textContent;
    }
    options.forEach((option, k) => this.controls[k].show(option.name in setting.args ? setting.args[option.name] : option.default));
  }

  choose() {
    this.queued = {};
    this.explorer.choose(this.index, this.select.value);
  }

  // Changes of options meet in one update a frame.
  set(name, value, settled) {
    this.queued[name] = value;
    if (settled) this.flush();
    else this.frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const queued = this.queued;
    this.queued = {};
    if (Object.keys(queued).length && this.setting) this.explorer.setArgs(this.index, queued);
  }

  // Cut, draw and tell, all at once; while a rank is on its way the last mask stays, dimmed.
  draw() {
    const { explorer, setting } = this, { mask, state, why } = explorer.maskOf(setting, this.index);
    this.state = state;
    this.root.dataset.waiting = state === "waiting" ? 1 : 0;
    put(this.problem, why ?? "");
    this.problem.hidden = !why;
    if (!mask || !explorer.source) return;
    const { source, grid, complement } = explorer;
    if (source.rows * source.w !== mask.length) return; // the picture for this grid is being decoded
    const hidden = mask.reduce((sum, value) => sum + value, 0);
    this.mask = mask;
    const { masked, rest } = this.tile, style = source.style(explorer.fill);
    draw(masked.picture.getContext("2d"), source, style, mask, 1);
    masked.picture.dataset.hidden = hidden;
    masked.picture.dataset.mask = mask.join("");
    if (complement) draw(rest.picture.getContext("2d"), source, style, mask, 0);
    const label = `${setting.mask}: ${hidden} of ${mask.length} patches hidden; arrow keys move, space hides or shows a patch`;
    masked.picture.setAttribute("aria-label", label);
    rest?.picture.setAttribute("aria-label", `the complement of ${label}`);
    put(this.reads[0], `${hidden} hidden (${digits((100 * hidden) / mask.length)} %)`);
    const areas = regions(mask, grid);
    put(this.reads[1], `${areas} region${areas === 1 ? "" : "s"}`);
    put(this.reads[2], `distance to visible ${digits(distance(mask, grid))}`);
    this.outline();
    const run = explorer.run;
    this.signature = run && state === "ready" ? `${base64(packed(mask))}|${run.name}|${run.step}|${explorer.version}` : null;
    if (run) this.adopt();
  }

  outline() {
    const painted = Object.keys(this.explorer.painted[this.index] ?? {}).map(Number);
    const path = edges(painted, this.explorer.grid).map(([r0, c0, r1, c1]) => `M${c0} ${r0}L${c1} ${r1}`).join("");
    if (this.path === path + this.wanted) return;
    this.path = path + this.wanted;
    for (const { overlay } of Object.values(this.tile))
      for (const node of overlay?.nodes.slice(0, 2) ?? []) node.setAttribute("d", path);
  }

  // ------------------------------------------------------------------------------------------ painting

  cellAt(event, canvas) {
    const area = canvas.getBoundingClientRect(), [rows, w] = this.explorer.grid;
    return [Math.floor(((event.clientY - area.top) / area.height) * rows), Math.floor(((event.clientX - area.left) / area.width) * w)];
  }

  inside([r, c]) {
    const [rows, w] = this.explorer.grid;
    return r >= 0 && r < rows && c >= 0 && c < w;
  }

  paint(cells, value, onto) {
    const { explorer } = this, w = explorer.grid[1], mine = { ...onto };
    for (const cell of cells) if (this.inside(cell)) mine[cell[0] * w + cell[1]] = value;
    explorer.set({ painted: { ...explorer.painted, [this.index]: mine } });
    this.draw();
    explorer.afterPaint();
  }

  pointerdown(event, canvas) {
    const cell = this.cellAt(event, canvas);
    if (event.button !== 0 || !this.mask || this.state !== "ready" || !this.inside(cell)) return;
    event.preventDefault(); // no text selection, no scrolling
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture?.(event.pointerId);
    const value = 1 - this.mask[cell[0] * this.explorer.grid[1] + cell[1]];
    this.stroke = { value, from: cell, last: cell, shift: event.shiftKey, before: this.explorer.painted[this.index] ?? {} };
    this.paint([cell], value, this.stroke.before);
  }

  pointermove(event, canvas) {
    const { stroke } = this;
    if (stroke) {
      const fine = event.getCoalescedEvents?.() ?? [], events = fine.length ? fine : [event];
      const last = this.cellAt(events.at(-1), canvas);
      if (stroke.shift) {
        this.paint(box(stroke.from, last), stroke.value, stroke.before);
      } else {
        const cells = events.flatMap((each) => { // without gaps, however fast the hand is
          const cell = this.cellAt(each, canvas), between = line(stroke.last, cell);
          stroke.last = cell;
          return between;
        });
        this.paint(cells, stroke.value, this.explorer.painted[this.index] ?? {});
      }
    }
    this.cursor = this.cellAt(event, canvas);
    this.point(canvas);
  }

  pointerup() {
    if (!this.stroke) return;
    this.stroke = null;
    this.explorer.lookNow();
  }

  pointercancel() { this.pointerup(); }

  pointerleave() { this.unpoint(); }

  blur() { this.unpoint(); }

  unpoint() {
    if (this.stroke) return;
    this.cursor = null;
    this.point();
  }

  keydown(event, canvas) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }, move = moves[event.key];
    if (!move && event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation(); // the arrows belong to the picture while it has the focus
    const [rows, w] = this.explorer.grid, [r, c] = this.cursor ?? [0, 0];
    if (move) {
      this.cursor = this.cursor ? [Math.min(rows - 1, Math.max(0, r + move[0])), Math.min(w - 1, Math.max(0, c + move[1]))] : [0, 0];
    } else if (this.mask && this.state === "ready") {
      this.cursor = [r, c];
      this.paint([[r, c]], 1 - this.mask[r * w + c], this.explorer.painted[this.index] ?? {});
      this.explorer.lookNow();
    }
    this.point(canvas);
  }

  // The patch under the pointer or the keyboard's cursor: its frame, and what is known of it.
  point(canvas = null) {
    const { cursor, mask } = this, [rows, w] = this.explorer.grid;
    const shown = cursor && mask && this.inside(cursor) ? cursor : null;
    for (const { overlay } of Object.values(this.tile))
      overlay?.nodes[2].setAttribute("d", shown ? `M${shown[1]} ${shown[0]}h1v1h-1z` : "");
    this.place.hidden = !shown;
    if (!shown) return;
    if (canvas) canvas.parentElement.append(this.place);
    this.place.classList.toggle("above", shown[0] >= rows / 2);
    const p = shown[0] * w + shown[1], loss = this.shown === this.signature ? this.answer.loss?.[p] : NaN;
    const said = [`row ${shown[0]}, column ${shown[1]}`, mask[p] ? "hidden" : "visible"];
    if (String(p) in (this.explorer.painted[this.index] ?? {})) said.push("set by hand");
    if (Number.isFinite(loss)) said.push(`loss ${digits(loss)}`);
    put(this.place, said.join(" · "));
  }

  // ------------------------------------------------------------------------------------------ a run's answers

  get due() { return this.signature !== null && this.signature !== this.askedFor; }

  ask() {
    this.asked = nextId();
    this.askedFor = this.signature;
    asked.set(this.asked, this.signature);
    for (const old of asked.keys()) if (asked.size > 200) asked.delete(old); else break;
    const content = { type: "look", id: this.asked, panel: this.index, bits: base64(packed(this.mask)), step: this.explorer.run.step };
    this.explorer.model.send(content);
  }

  hear(message) {
    if (message.id < this.asked) return;
    this.shown = asked.get(message.id) ?? this.signature; // another page may have asked for the same state
    let loss = null;
    if (message.loss) loss = new Float32Array(bytes(message.loss).buffer);
    this.answer = { ...message, loss };
    this.showAnswer();
    this.point();
  }

  // A saved page keeps the answer to what it showed when it was saved.
  adopt() {
    const kept = this.explorer.live ? null : this.explorer.kept[this.index];
    if (kept && this.answer.id !== kept.id && kept.bits === base64(packed(this.mask)) && kept.step === this.explorer.run.step) {
      this.hear(kept);
      this.shown = this.signature;
    }
    this.showStale();
  }

  forget() {
    Object.assign(this, { answer: {}, shown: null, askedFor: null });
    this.showAnswer();
  }

  showAnswer() {
    const { answer } = this;
    for (const role of Object.keys(RESULTS)) {
      const tile = this.tile[role];
      if (!tile) continue;
      tile.figure.hidden = answer.id !== undefined && !answer[role];
      tile.picture.src = answer[role] ?? BLANK;
      tile.picture.toggleAttribute("data-empty", !answer[role]);
    }
    this.showStale();
  }

  showStale() {
    const { answer, explorer } = this, stale = this.shown !== this.signature || this.shown === null;
    this.root.dataset.stale = explorer.run && stale ? 1 : 0;
    const said = Object.entries(answer.numbers ?? {}).filter(([, value]) => typeof value === "number")
      .map(([name, value]) => (name === "psnr" ? `PSNR ${digits(value)} dB` : `${name} ${digits(value)}`));
    if (explorer.run && !explorer.live && stale) said.splice(0, Infinity, "another mask needs a kernel");
    else if (answer.refused && !stale) said.unshift(answer.refused);
    put(this.numbers, said.join(" · "));
    this.numbers.hidden = !explorer.run;
  }

  close() { cancelAnimationFrame(this.frame); }
}

const escaped = (text) => text.replace(/["\\]/g, "\\$&");

// ---------------------------------------------------------------------------------------------- the texts "Use in a run"

class Texts {
  constructor(explorer) {
    this.explorer = explorer;
    this.which = h("select", { "data-role": "use-panel", onchange: () => this.show() });
    this.whose = h("label", { class: "full" }, "Panel ", this.which);
    this.note = h("div", { class: "full soft", "data-role": "use-note" });
    this.path = h("input", { type: "text", "data-role": "preset-path", "aria-label": "file of the preset", spellcheck: "false" });
    this.save = h("button", { type: "button", "data-role": "preset-save", onclick: () => this.preset() });
    this.pre = {};
    const blocks = [["use-cell", "Parameters cell"], ["use-command", "Command"], ["use-study", "Study row"], ["use-preset", "Preset"]];
    this.root = h("div", { class: "texts", hidden: true }, this.whose, this.note, ...blocks.map(([role, title]) => {
      this.pre[role] = h("pre", { "data-role": role, tabindex: 0, "aria-label": title });
      const copy = h("button", { type: "button", "data-role": "copy", "aria-label": `copy: ${title}`,
        onclick: () => this.copy(this.pre[role], title) }, "Copy");
      return h("div", { class: "text" }, h("div", { class: "bar" }, h("span", {}, title), copy), this.pre[role],
        ...(role === "use-preset" ? [h("div", { class: "bar foot" }, this.path, this.save)] : []));
    }));
  }

  get setting() { return this.explorer.usable(Math.min(Number(this.which.value) || 0, this.explorer.list.length - 1)); }

  show() {
    if (this.root.hidden) return;
    const { explorer } = this, { list } = explorer;
    const names = list.map(({ mask }, k) => `${k + 1}: ${mask}`), chosen = Math.min(Number(this.which.value) || 0, list.length - 1);
    if (this.names !== names.join("\n")) {
      this.names = names.join("\n");
      this.which.replaceChildren(...names.map((name, k) => h("option", { value: k }, name)));
      this.which.value = chosen;
    }
    this.whose.hidden = list.length === 1;
    const { setting } = this, source = explorer.get("source", {});
    put(this.pre["use-cell"], cellText(source, setting));
    put(this.pre["use-command"], commandText(source, setting));
    put(this.pre["use-study"], list.map((_, k) => `- ${yaml(explorer.usable(k))}\n`).join(""));
    put(this.pre["use-preset"], presetText(setting));
    put(this.save, explorer.live ? "Save" : "Download");
    const path = `presets/${setting.mask.replace(/\W+/g, "_")}-${Math.round(setting.mask_ratio * 100)}.yaml`;
    if (this.path.value === "" || this.path.value === this.suggested) this.path.value = path;
    this.suggested = path;
    const notes = [];
    if (Object.values(explorer.painted).some((patches) => Object.keys(patches).length))
      notes.push("Patches set by hand are not part of these texts: a painted mask is one mask, " +
        "not a strategy that draws a new one for each image.");
    if (explorer.strategy(setting.mask)?.function)
      notes.push(`${setting.mask} is a function of this notebook: in its kernel pass it as mask=${setting.mask}; ` +
        "elsewhere put it into a module of yours and give its dotted name.");
    put(this.note, notes.join(" "));
    this.note.hidden = !notes.length;
  }

  async copy(pre, title) {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      this.explorer.say(`${title} copied.`);
    } catch { // no permission, or an old or insecure page
      const range = document.createRange();
      range.selectNodeContents(pre);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      this.explorer.say(`${title} selected: press Ctrl-C (or Cmd-C) to copy it.`);
    }
  }

  preset() {
    const { explorer, setting } = this, path = this.path.value.trim();
    if (!path) explorer.say("Give the preset a file name, such as presets/grid.yaml.", true);
    else if (explorer.live) explorer.model.send({ type: "preset", path, ...setting });
    else download(path.split("/").pop(), new Blob([presetText(setting)], { type: "application/yaml" }));
  }
}

// ---------------------------------------------------------------------------------------------- the explorer

class Explorer {
  constructor(model, el) {
    Object.assign(this, { model, views: [], source: null, version: 0, turn: 0, found: new Map(), extra: new Map(), bases: new Map(),
      flight: new Map(), memory: new Map(), changed: new Set(), queued: false, own: false, gone: false, playing: null, mine: false,
      looked: -Infinity, lookTimer: null, saveTimer: null, silenceTimer: null, silent: false, clamped: false,
      falling: false, kept: model.get("seen") ?? {} });
    this.linked = new Set(this.list.map(({ seed }) => seed)).size === 1;
    this.runShown = this.run?.name;
    this.build(el);
    this.listeners = [...STATE.map((name) => [`change:${name}`, () => this.heardChange(name)]),
      ["msg:custom", (message) => this.heard(message)]];
    for (const [event, listener] of this.listeners) model.on(event, listener);
    this.index();
    this.update();
    this.load();
    requestAnimationFrame(() => this.scheme());
    if (this.get("said", "")) this.say(this.get("said"), true);
  }

  // ------------------------------------------------------------------------------------------ the state

  get(name, otherwise) { return this.model.get(name) ?? otherwise; }
  get live() { return Boolean(this.model.get("live")); }
  get menu() { return this.get("menu", []); }
  get grid() { return this.get("grid", [1, 1]); }
  get picture() { return this.get("picture", {}); }
  get painted() { return this.get("painted", {}); }
  get run() { return this.get("run", null); }
  get complement() { return Boolean(this.model.get("complement")); }

  get fill() {
    const fill = this.get("fill", "grey");
    return !(fill in FILLS) || (fill === "token" && !this.source?.token) ? "grey" : fill;
  }

  get list() {
    const panels = this.get("panels", []).slice(0, MOST);
    const each = panels.length ? panels : [{ mask: this.menu[0]?.name ?? "none" }];
    return each.map(({ mask, args, seed }) => ({ mask, args: args ?? {}, seed: seed ?? 0 }));
  }

  // Change the state here and, a moment later, in the kernel.
  set(changes) {
    this.own = true;
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.own = false;
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(() => this.save(), PAUSE);
  }

  save() {
    clearTimeout(this.saveTimer);
    this.saveTimer = null;
    this.model.save_changes();
  }

  heardChange(name) {
    if (this.own || this.gone) return;
    this.changed.add(name);
    if (this.queued) return;
    this.queued = true; // traits that change together are drawn once
    queueMicrotask(() => this.refresh());
  }

  refresh() {
    this.queued = false;
    if (this.gone) return;
    const changed = this.changed;
    this.changed = new Set();
    const any = (...names) => names.some((name) => changed.has(name));
    if (any("ranks", "picture", "grid", "menu")) {
      this.extra.clear();
      this.flight.clear();
      this.index();
    }
    if (any("picture", "grid")) this.mine = false;
    if (any("grid") && Object.keys(this.painted).length) this.set({ painted: {} }); // patches are others now
    if (any("picture", "grid", "token")) this.load();
    if (any("run") && this.run?.name !== this.runShown) for (const view of this.views) view.forget();
    this.runShown = this.run?.name;
    if (any("panels")) this.linked &&= new Set(this.list.map(({ seed }) => seed)).size === 1;
    if (any("said")) this.say(this.get("said", ""), true);
    this.update();
  }

  strategy(name) { return this.menu.find((item) => item.name === name); }

  // Only what differs from the default belongs to the key of a setting.
  minimal(name, args) {
    const options = this.strategy(name)?.options ?? [];
    const kept = Object.entries(args).filter(([option, value]) => {
      const known = options.find((each) => each.name === option);
      return !known || !same(value, known.default ?? null);
    });
    return Object.fromEntries(kept);
  }

  // Read all keys once: key -> entry, and per strategy and arguments the seeds that are there.
  index() {
    this.found.clear();
    this.bases.clear();
    for (const [raw, entry] of Object.entries(this.get("ranks", {}))) {
      const key = parts(raw);
      if (!key) continue;
      const args = this.minimal(key.name, key.args), base = `${key.name}|${argsText(args)}`;
      this.found.set(keyOf(key.name, key.seed, args), entry);
      if (!this.bases.has(base)) this.bases.set(base, { name: key.name, args, seeds: [] });
      this.bases.get(base).seeds.push(key.seed);
    }
    for (const { seeds } of this.bases.values()) seeds.sort((a, b) => a - b);
  }

  // Without a kernel a seed beyond those saved is wrapped to one that is there.
  seedOf({ mask, args, seed }) {
    if (this.live) return seed;
    const seeds = this.bases.get(`${mask}|${argsText(this.minimal(mask, args))}`)?.seeds ?? [];
    return !seeds.length || seeds.includes(seed) ? seed : seeds[seed % seeds.length];
  }

  keyOf(setting) { return keyOf(setting.mask, this.seedOf(setting), this.minimal(setting.mask, setting.args)); }

  entry(setting) {
    const key = this.keyOf(setting);
    return this.extra.get(key) ?? this.found.get(key);
  }

  // Why a strategy cannot be shown without a kernel, or null.
  unsaved({ name }) {
    return this.live || [...this.bases.values()].some((base) => base.name === name) ? null : "needs a kernel";
  }

  // The values of an option for which ranks were saved, the other options as they are.
  saved(option, { mask, args }) {
    const others = (all) => argsText(Object.fromEntries(Object.entries(all).filter(([name]) => name !== option.name)));
    const wanted = others(this.minimal(mask, args));
    const values = [...this.bases.values()].filter((base) => base.name === mask && others(base.args) === wanted)
      .map((base) => (option.name in base.args ? base.args[option.name] : option.default ?? null));
    return values.sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : 0));
  }

  // The percents that hide at least one patch and not all: [first, last].
  get allowed() {
    const known = this.get("counts", []).map((count, percent) => (count === null ? -1 : percent)).filter((percent) => percent > 0);
    return known.length ? [known[0], known.at(-1)] : [1, 99];
  }

  get percent() {
    const [low, high] = this.allowed, percent = Math.round(this.get("ratio", 0.5) * 100);
    return Math.min(high, Math.max(low, percent));
  }

  get count() { return this.get("counts", [])[this.percent] ?? 0; }

  maskOf(setting, panel) {
    const n = this.grid[0] * this.grid[1], strategy = this.strategy(setting.mask), entry = this.entry(setting);
    const failed = (why) => ({ state: "error", why, mask: new Uint8Array(n) });
    if (!strategy) return failed(`No strategy ${setting.mask} is on this menu.`);
    if (strategy.blocked) return failed(`${setting.mask}: ${strategy.blocked}`);
    if (this.mine && strategy.looks) return failed(`${setting.mask} looks at the picture: for one of your own it needs a kernel.`);
    if (entry?.error) return failed(entry.error);
    const mask = entry ? cut(entry, n, this.percent, this.count) : null;
    if (!mask) return this.live ? { state: "waiting" } : failed("Not saved with this page: open the notebook to see it.");
    for (const [p, hidden] of Object.entries(this.painted[panel] ?? {})) if (p < n) mask[p] = hidden;
    return { state: "ready", mask };
  }

  // What a run would be given for a panel.
  usable(panel) {
    const { mask, args } = this.list[panel];
    return { mask, mask_ratio: this.percent / 100, mask_args: this.minimal(mask, args) };
  }

  // ------------------------------------------------------------------------------------------ drawing

  async load() {
    const turn = ++this.turn, { src, width, height } = this.picture, token = this.get("token", null), grid = this.grid;
    if (!src) { this.say("There is no picture yet."); return; }
    let image, decodedToken = null;
    try {
      image = await decode(src);
      if (token) decodedToken = await decode(token).catch(() => null);
    } catch {
      if (turn === this.turn && !this.gone) this.say("This picture cannot be shown.", true);
      return;
    }
    if (turn !== this.turn || this.gone) return; // a newer picture is on its way
    if (this.source?.src !== src) {
      this.version++;
      for (const view of this.views) view.forget();
    }
    this.source = { ...sources(image, decodedToken, { width, height }, grid), src, token: decodedToken };
    this.root.classList.toggle("small", width < 160);
    this.root.style.setProperty("--aspect", `${width} / ${height}`);
    for (const view of this.views) view.resize();
    this.update();
    this.root.dataset.ready = "1";
  }

  // Everything that follows the hand: no timers, no promises.
  draw() {
    this.showRatio();
    for (const view of this.views) view.draw();
    this.texts.show();
    if (!this.live) return;
    this.request();
    this.lookSoon();
  }

  update() {
    const { list } = this;
    while (this.views.length > list.length) this.drop(this.views.length - 1);
    while (this.views.length < list.length) {
      const view = new Panel(this, this.views.length);
      this.views.push(view);
      this.stage.append(view.root);
    }
    const across = [1, 2, 3, 2, 3, 3][list.length - 1], tiles = 1 + this.complement + (this.run ? 3 : 0);
    this.stage.style.setProperty("--across", across);
    this.stage.className = `panels${list.length === 1 ? " alone" : ""}${tiles === 1 ? " one" : tiles > 2 ? " many" : ""}`;
    for (const view of this.views) view.sync();
    this.showControls();
    this.draw();
  }

  drop(position) {
    const [view] = this.views.splice(position, 1);
    view.close();
    view.root.remove();
  }

  showRatio() {
    const { percent, count } = this, n = this.grid[0] * this.grid[1];
    if (Number(this.ratio.value) !== percent) this.ratio.value = percent;
    put(this.ratioValue, `${percent} % · ${count} of ${n} hidden`);
    this.ratio.setAttribute("aria-valuetext", `${percent} percent, ${count} of ${n} patches hidden`);
  }

  showControls() {
    const { list, run, live } = this, first = this.seedOf(list[0]);
    if (Number(this.seed.value) !== first || this.seed.value === "") this.seed.value = first;
    this.seed.disabled = !this.linked && list.length > 1;
    this.link.parentElement.hidden = list.length === 1;
    this.link.checked = this.linked;
    this.adder.hidden = list.length >= MOST;
    this.fillMenu.value = this.fill;
    this.fillMenu.querySelector("[value=token]").disabled = !this.get("token", null);
    this.complementBox.checked = this.complement;
    this.clearer.disabled = !Object.values(this.painted).some((patches) => Object.keys(patches).length);
    this.runBar.hidden = !run;
    if (run) {
      put(this.runName, run.name ?? "");
      const steps = run.steps ?? [], at = Math.max(0, steps.findIndex((step) => same(step, run.step)));
      Object.assign(this.step, { min: 0, max: Math.max(0, steps.length - 1), value: at, disabled: steps.length < 2 || !live });
      put(this.stepValue, String(run.step ?? ""));
      this.step.setAttribute("aria-valuetext", `checkpoint ${run.step}`);
      put(this.runNote, run.note ?? "");
    }
    this.htmlButton.disabled = !this.model.get("_esm");
    const meaning = this.complement ? "not seen; A gets the visible patches, B the hidden ones." : "hidden from the encoder.";
    put(this.legend, `${FILLS[this.fill][1]}: ${meaning} Click or drag on a picture to hide or show patches ` +
      "(Shift: a rectangle); patches set by hand have an outline.");
  }

  say(text, bad = false) {
    put(this.said, text);
    this.said.hidden = !text;
    this.said.classList.toggle("bad", bad);
  }

  // Native controls follow the theme around them, not the system's.
  scheme() {
    if (this.gone) return;
    const [r, g, b] = getComputedStyle(this.root).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    this.root.style.colorScheme = 0.3 * r + 0.6 * g + 0.1 * b < 110 ? "dark" : "light";
  }

  // ------------------------------------------------------------------------------------------ what the user does

  build(el) {
    const button = (role, text, onclick, more = {}) => h("button", { type: "button", "data-role": role, onclick, ...more }, text);
    this.ratio = h("input", { type: "range", min: 1, max: 99, step: 1, "data-role": "ratio", "aria-label": "share of patches hidden",
      oninput: () => this.setRatio(Number(this.ratio.value)), onchange: () => this.lookNow() });
    this.ratioValue = h("output", { "data-role": "ratio-value" });
    this.seed = h("input", { type: "number", min: 0, step: 1, "data-role": "seed", oninput: () => this.setSeed(this.seed.value) });
    this.player = button("play", "Play", () => (this.playing ? this.stop() : this.play()), { "aria-pressed": "false" });
    this.playWhat = h("select", { "data-role": "play-what", "aria-label": "what to play through" },
      h("option", { value: "seeds" }, "seeds"), h("option", { value: "ratios" }, "ratios"));
    this.fillMenu = h("select", { "data-role": "fill", class: "short",
      onchange: () => { this.set({ fill: this.fillMenu.value }); this.update(); } },
      ...Object.entries(FILLS).map(([name, [text]]) => h("option", { value: name }, text)));
    this.complementBox = h("input", { type: "checkbox", "data-role": "complement",
      onchange: () => { this.set({ complement: this.complementBox.checked }); this.update(); } });
    this.link = h("input", { type: "checkbox", "data-role": "link", onchange: () => this.setLinked(this.link.checked) });
    this.adder = button("add", "Compare +", () => this.add(), { title: `another strategy beside these, up to ${MOST}` });
    this.clearer = button("clear", "Clear painting", () => { this.set({ painted: {} }); this.update(); });
    this.runName = h("span", { class: "number" });
    this.step = h("input", { type: "range", step: 1, "data-role": "step", "aria-label": "checkpoint",
      oninput: () => this.setStep(Number(this.step.value)), onchange: () => this.lookNow() });
    this.stepValue = h("output", { "data-role": "step-value" });
    this.runNote = h("span", { class: "soft" });
    this.runBar = h("div", { class: "bar" }, h("span", { class: "group" }, "Run ", this.runName),
      h("label", {}, "Checkpoint ", this.step, this.stepValue), this.runNote);
    this.stage = h("div", { class: "panels" });
    this.legend = h("div", { class: "soft legend", "data-role": "legend" });
    this.texts = new Texts(this);
    this.user = button("use", "Use in a run", () => this.use(), { "aria-expanded": "false" });
    this.htmlButton = button("html", "HTML", () => this.exportPage(), { title: "this explorer as a page that works offline" });
    this.said = h("div", { class: "said", "data-role": "said", role: "status", "aria-live": "polite", hidden: true });
    this.root = h("div", { class: "mimlab-masks", "data-lm-suppress-shortcuts": "true", tabindex: -1 }, h("style", {}, CSS),
      h("div", { class: "bar" }, h("label", { class: "wide" }, "Hidden ", this.ratio, this.ratioValue), this.adder),
      h("div", { class: "bar" },
        h("span", { class: "group" }, h("label", {}, "Seed ", this.seed), button("next", "Next mask", () => this.next())),
        h("span", { class: "group" }, this.player, this.playWhat), h("label", {}, this.link, "Same seed"),
        h("label", { title: "how hidden patches are shown" }, "Fill ", this.fillMenu), h("label", {}, this.complementBox, "Complement")),
      this.runBar, this.said, this.stage,
      h("div", { class: "bar foot" }, this.user, this.clearer, h("span", { class: "group push" }, "Save as ",
        button("png", "PNG", () => this.exportPicture()), this.htmlButton)),
      this.texts.root, this.legend);
    const stop = (event) => { if (!this.player.contains(event.target)) this.stop(); };
    for (const kind of ["pointerdown", "keydown", "input"]) this.root.addEventListener(kind, stop, true);
    this.root.addEventListener("pointerenter", () => this.scheme());
    this.root.addEventListener("paste", (event) => this.take(event, event.clipboardData));
    this.root.addEventListener("drop", (event) => this.take(event, event.dataTransfer));
    for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
      this.root.addEventListener(kind, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault(); // else the browser leaves the page for the file
        this.root.classList.toggle("over", over);
      });
    el.replaceChildren(this.root);
  }

  setRatio(percent) {
    const [low, high] = this.allowed, fitting = Math.min(high, Math.max(low, percent)), n = this.grid[0] * this.grid[1];
    if (fitting !== percent) {
      this.say(`At ${percent} % of ${n} patches ${percent < low ? "none" : "all"} would be hidden; ` +
        "at least one must be hidden and one visible.", true);
      this.clamped = true;
    } else if (this.clamped) {
      this.say("");
      this.clamped = false;
    }
    this.set({ ratio: fitting / 100 });
    this.draw();
  }

  setSeed(text, view = null) {
    const seed = Number(text);
    if (text === "" || !Number.isInteger(seed) || seed < 0) {
      this.say(text === "" ? "" : `seed = ${text} is not a whole number from 0 on.`, true);
      return;
    }
    const list = this.list, asks = view ? list[view.index] : list[0], fitting = this.seedOf({ ...asks, seed });
    this.say(fitting === seed ? "" : `Seed ${seed} was not saved with this page; seed ${fitting} is shown.`);
    this.set({ panels: list.map((each, k) => (!view || view.index === k ? { ...each, seed: fitting } : each)) });
    this.update();
  }

  next(by = 1) {
    const list = this.list.map((each) => ({ ...each, seed: this.seedOf({ ...each, seed: this.seedOf(each) + by }) }));
    this.set({ panels: this.linked ? list.map((each) => ({ ...each, seed: list[0].seed })) : list });
    this.update();
  }

  setLinked(linked) {
    this.linked = linked;
    if (linked) this.set({ panels: this.list.map((each) => ({ ...each, seed: this.list[0].seed })) });
    this.update();
  }

  // A strategy comes back with the options it had in this panel.
  choose(panel, mask) {
    const list = this.list, old = list[panel], args = this.memory.get(`${panel}|${mask}`) ?? {};
    this.memory.set(`${panel}|${old.mask}`, old.args);
    list[panel] = { ...old, mask, args };
    this.set({ panels: list });
    this.update();
  }

  setArgs(panel, changes) {
    const list = this.list, { mask, args } = list[panel];
    list[panel] = { ...list[panel], args: this.minimal(mask, { ...args, ...changes }) };
    this.set({ panels: list });
    this.update();
  }

  add() {
    const list = this.list, shown = new Set(list.map(({ mask }) => mask));
    const open = this.menu.filter((item) => !item.blocked && !this.unsaved(item));
    const mask = (open.find((item) => !shown.has(item.name)) ?? open[0])?.name;
    if (!mask || list.length >= MOST) return;
    this.set({ panels: [...list, { mask, args: {}, seed: list[0].seed }] });
    this.update();
  }

  remove(view) {
    const list = this.list, at = view.index;
    if (list.length === 1) return;
    const painted = Object.entries(this.painted).filter(([k]) => Number(k) !== at)
      .map(([k, patches]) => [Number(k) > at ? k - 1 : k, patches]);
    this.drop(at);
    this.views.forEach((each, k) => { each.index = k; });
    for (const each of this.views.slice(at)) each.askedFor = null; // its number has changed, so it asks anew
    this.set({ panels: list.filter((_, k) => k !== at), painted: Object.fromEntries(painted) });
    this.memory.clear();
    this.update();
  }

  setStep(position) {
    const step = this.run.steps[position];
    if (step === undefined) return;
    this.set({ run: { ...this.run, step } });
    this.update();
  }

  afterPaint() {
    this.clearer.disabled = false;
    this.texts.show();
    if (this.live) this.lookSoon();
  }

  use() {
    this.texts.root.hidden = !this.texts.root.hidden;
    this.user.setAttribute("aria-expanded", String(!this.texts.root.hidden));
    this.texts.show();
  }

  // ------------------------------------------------------------------------------------------ playing

  play() {
    const what = this.playWhat.value, begun = performance.now();
    let done = 0;
    const frame = (now) => {
      if (!this.playing) return;
      this.playing = requestAnimationFrame(frame);
      const due = Math.floor(((now - begun) / 1000) * PACE[what]);
      if (due <= done) return;
      if (what === "ratios") this.sweep(due - done);
      else if (this.views.every(({ state }) => state !== "waiting")) this.next();
      done = due;
    };
    this.player.textContent = "Stop";
    this.player.setAttribute("aria-pressed", "true");
    this.playing = requestAnimationFrame(frame);
  }

  // There and back between the lowest and the highest ratio.
  sweep(by) {
    const [low, high] = this.allowed, to = this.percent + (this.falling ? -by : by);
    if (to >= high || to <= low) this.falling = to >= high;
    this.setRatio(Math.min(high, Math.max(low, to)));
  }

  stop() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = null;
    this.player.textContent = "Play";
    this.player.setAttribute("aria-pressed", "false");
  }

  // ------------------------------------------------------------------------------------------ the kernel

  // Ask for what is shown and not there, one question a panel at a time; while seeds play, also for the next ones.
  request() {
    const now = performance.now(), want = [];
    for (const [key, { since }] of this.flight) if (now - since > PATIENCE) this.flight.delete(key);
    const busy = new Set([...this.flight.values()].map(({ view }) => view));
    const ask = (setting, view) => {
      const key = this.keyOf(setting);
      if (this.flight.has(key) || this.entry(setting)) return;
      this.flight.set(key, { view, since: now });
      want.push({ mask: setting.mask, args: this.minimal(setting.mask, setting.args), seed: setting.seed });
    };
    for (const view of this.views) if (view.state === "waiting" && !busy.has(view)) ask(view.setting, view);
    if (this.playing && this.playWhat.value === "seeds")
      for (const view of this.views)
        if (view.state === "ready") for (const by of [1, 2]) ask({ ...view.setting, seed: view.setting.seed + by }, null);
    if (!want.length) return;
    this.model.send({ type: "rank", want });
    this.silenceTimer ??= setTimeout(() => this.silence(), SILENCE);
  }

  // A busy kernel, or a notebook that was opened without one.
  silence() {
    if (!this.views.some(({ state }) => state === "waiting")) return;
    this.say("The kernel has not answered yet: it is busy, or there is none. " +
      "What is dimmed waits; masks that were saved still show.", true);
    this.silent = true;
  }

  lookSoon() {
    if (!this.run || !this.views.some((view) => view.due)) return;
    const wait = this.looked + PAUSE - performance.now();
    if (wait <= 0) this.lookNow();
    else this.lookTimer ??= setTimeout(() => this.lookNow(), wait);
  }

  lookNow() {
    clearTimeout(this.lookTimer);
    this.lookTimer = null;
    if (!this.live || !this.run || this.gone) return;
    for (const view of this.views) {
      if (!view.due) continue;
      view.ask();
      this.looked = performance.now();
    }
  }

  heard(message) {
    if (this.gone || !message) return;
    clearTimeout(this.silenceTimer);
    this.silenceTimer = null;
    if (this.silent) this.say("");
    this.silent = false;
    if (message.type === "ranks") {
      for (const [raw, entry] of Object.entries(message.ranks ?? {})) {
        const key = parts(raw);
        if (!key) continue;
        const clean = keyOf(key.name, key.seed, this.minimal(key.name, key.args));
        this.extra.set(clean, entry);
        this.flight.delete(clean);
      }
      this.draw();
    } else if (message.type === "seen") {
      this.views[message.panel]?.hear(message);
    } else if (message.type === "said") {
      this.say(message.text ?? "", message.bad ?? true);
    }
  }

  // A picture that was pasted or dropped.
  async take(event, data) {
    const file = [...(data?.files ?? [])][0];
    if (!file) return; // text: none of our business
    event.preventDefault();
    event.stopPropagation();
    const name = file.name || "pasted picture";
    let image = null;
    try {
      image = await createImageBitmap(file);
    } catch { /* the kernel may know formats that the browser does not */ }
    if (this.gone) return;
    if (!image && (!this.live || file.size > HEAVY)) {
      this.say(`${name} is no image that can be read here; PNG, JPEG and WebP work.`, true);
    } else if (this.live) {
      const scale = image ? Math.min(1, 2048 / Math.max(image.width, image.height)) : 1;
      const light = file.size <= HEAVY ? await read(file)
        : cropped(image, Math.round(image.width * scale), Math.round(image.height * scale)).toDataURL("image/jpeg", 0.92);
      this.say("");
      if (!this.gone) this.model.send({ type: "upload", name, data: light });
    } else {
      const { width, height } = this.picture;
      this.mine = true;
      this.say("");
      this.set({ picture: { src: cropped(image, width, height).toDataURL("image/png"), width, height, name }, token: null });
      await this.load();
    }
  }

  // ------------------------------------------------------------------------------------------ export

  exportPicture() {
    pictureOf(this).toBlob((blob) => download("masks.png", blob), "image/png");
  }

  exportPage() {
    const state = Object.fromEntries(STATE.map((name) => [name, this.model.get(name)]));
    const seen = Object.fromEntries(this.views.filter(({ answer, shown, signature }) => answer.id && shown === signature)
      .map(({ answer, index, mask }) => [index, { ...answer, loss: null, bits: base64(packed(mask)), step: this.run?.step }]));
    const ranks = { ...state.ranks, ...Object.fromEntries(this.extra) };
    const page = pageOf({ ...state, ranks, seen, live: false, said: "" }, this.model.get("_esm"));
    download("masks.html", new Blob([page], { type: "text/html" }));
  }

  close() {
    this.stop();
    this.gone = true;
    clearTimeout(this.lookTimer);
    clearTimeout(this.silenceTimer);
    if (this.saveTimer !== null) this.save();
    for (const view of this.views) view.close();
    for (const [event, listener] of this.listeners) this.model.off(event, listener);
    this.root.remove();
  }
}

// All panels as they are shown, with captions, on one canvas of twice their size, so that the text is sharp in print.
function pictureOf(explorer) {
  const { views, source, grid } = explorer, EDGE = 12, GAP = 8, HEAD = 36, FOOT = 18, SHARP = 2;
  const scale = Math.max(1, Math.ceil(224 / source.width)), width = source.width * scale, height = source.height * scale;
  const shown = views.map((view) => Object.values(view.tile).filter(({ figure }) => !figure.hidden));
  const tiles = Math.max(...shown.map((list) => list.length)), across = tiles > 2 ? 1 : Math.min(views.length, tiles === 2 ? 2 : 3);
  const wide = tiles * width + (tiles - 1) * GAP, tall = HEAD + height + (tiles > 1 ? FOOT : 0);
  const size = [across * (wide + EDGE) + EDGE, Math.ceil(views.length / across) * (tall + EDGE) + EDGE];
  const canvas = canvasOf(SHARP * size[0], SHARP * size[1]), context = canvas.getContext("2d");
  const text = (words, x, y, room, font, colour) => {
    Object.assign(context, { font: `${font} system-ui, Helvetica, Arial, sans-serif`, fillStyle: colour });
    let fitting = words;
    while (fitting.length > 4 && context.measureText(fitting).width > room) fitting = `${fitting.slice(0, -4)}...`;
    context.fillText(fitting, x, y);
  };
  context.scale(SHARP, SHARP);
  context.imageSmoothingEnabled = false; // the borders of patches stay where they are
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...size);
  views.forEach((view, k) => {
    const left = EDGE + (k % across) * (wide + EDGE), top = EDGE + Math.floor(k / across) * (tall + EDGE);
    const { mask, args } = view.setting, options = Object.entries(args).map(([name, value]) => `${name} ${spoken(value)}`);
    const hidden = Number(view.tile.masked.picture.dataset.hidden), n = grid[0] * grid[1], stale = view.root.dataset.stale === "1";
    const byHand = Object.keys(explorer.painted[view.index] ?? {}).length;
    const told = `${hidden} of ${n} hidden (${digits((100 * hidden) / n)} %)${byHand ? `, ${byHand} set by hand` : ""}`;
    text([mask, ...options, `seed ${explorer.seedOf(view.setting)}`].join(" · "), left, top + 13, wide, "bold 13px", "#1f2328");
    text(told, left, top + 29, wide, "12px", "#59636e");
    shown[k].forEach(({ picture, caption, overlay }, t) => {
      const x = left + t * (width + GAP), y = top + HEAD;
      context.globalAlpha = stale && picture.className === "result" ? 0.3 : 1;
      if (overlay || picture.naturalWidth) context.drawImage(picture, x, y, width, height);
      context.globalAlpha = 1;
      if (overlay) {
        context.save();
        context.translate(x, y);
        context.scale(width / source.w, height / source.rows);
        const path = new Path2D(overlay.nodes[1].getAttribute("d") ?? "");
        for (const [colour, thick] of [["rgba(255, 255, 255, .8)", 3], ["#d1490c", 1.3]]) {
          Object.assign(context, { strokeStyle: colour, lineWidth: (thick * source.w) / width });
          context.stroke(path);
        }
        context.restore();
      }
      if (tiles > 1) text(caption, x, y + height + 14, width, "12px", "#59636e");
    });
  });
  return canvas;
}

function render({ model, el }) {
  const explorer = new Explorer(model, el);
  return () => explorer.close();
}

export default { render };
