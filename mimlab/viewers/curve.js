// Live training curve: draws model.series = {step, loss, knn: [[step, value]]} and the line model.text.
const NS = "http://www.w3.org/2000/svg";
const W = 720, H = 270, LEFT = 56, RIGHT = 52, TOP = 14, BOTTOM = 34;

const CSS = `
.mimlab-curve { font: 13px var(--jp-ui-font-family, Helvetica, Arial, sans-serif); max-width: 780px; padding: 4px 0;
  color: var(--jp-ui-font-color1, #222); background: var(--jp-layout-color0, white); }
.mimlab-curve .head { display: flex; justify-content: space-between; align-items: center; gap: 1em; padding: 0 8px; }
.mimlab-curve button { font: inherit; font-size: 12px; padding: 2px 10px; cursor: pointer; border-radius: 3px;
  color: inherit; background: var(--jp-layout-color2, #eee); border: 1px solid var(--jp-border-color1, #bbb); }
.mimlab-curve .text { font-variant-numeric: tabular-nums; }
.mimlab-curve svg { display: block; width: 100%; height: auto; }
.mimlab-curve text { fill: var(--jp-ui-font-color2, #555); font-size: 11.5px; }
.mimlab-curve .gridline { stroke: var(--jp-border-color2, #ddd); stroke-width: 1; }
.mimlab-curve .loss { fill: none; stroke: var(--jp-brand-color1, #0072b2); stroke-width: 1.6; stroke-linejoin: round; }
.mimlab-curve .last { fill: var(--jp-brand-color1, #0072b2); }
.mimlab-curve .knn { fill: none; stroke: var(--jp-warn-color1, #d55e00); stroke-width: 1.4; }
.mimlab-curve .dot { fill: var(--jp-warn-color1, #d55e00); }
.mimlab-curve text.right { fill: var(--jp-warn-color1, #d55e00); }
.mimlab-curve .cursor { stroke: var(--jp-ui-font-color3, #999); stroke-dasharray: 3 3; }
`;

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4));
}

function ticks(low, high, about) {
  const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const m of [1, 2, 5]) if (m * 10 ** power >= low && m * 10 ** power <= high) found.push(m * 10 ** power);
  return found.length > 1 ? found : ticks(low, high, 4);
}

function range(values, room) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  return [low - (high - low) * room, high + (high - low) * room];
}

function add(parent, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function path(xs, ys) {
  let d = "", pen = "M";
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) { pen = "M"; continue; } // a NaN loss leaves a gap
    d += `${pen}${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    pen = "L";
  }
  return d;
}

function render({ model, el }) {
  el.innerHTML = `<div class="mimlab-curve"><style>${CSS}</style>
    <div class="head"><span class="text"></span><button title="scale of the loss axis"></button></div></div>`;
  const box = el.firstElementChild, text = box.querySelector(".text"), button = box.querySelector("button");
  const svg = add(box, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "loss against step" });
  let log = false, frame = 0, place = null;

  function draw() {
    frame = 0;
    const { step = [], loss = [], knn = [] } = model.get("series");
    text.textContent = model.get("text");
    button.textContent = log ? "log scale" : "linear scale";
    svg.replaceChildren();
    const usable = (v) => v !== null && Number.isFinite(v) && (!log || v > 0);
    const seen = loss.filter(usable);
    if (!seen.length) {
      add(svg, "text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, "waiting for the first step");
      return;
    }
    const map = log ? Math.log10 : (v) => v;
    const steps = step.concat(knn.map((p) => p[0]));
    const x0 = Math.min(...steps), x1 = Math.max(...steps, x0 + 1);
    const [y0, y1] = range(seen.map(map), 0.05);
    const x = (s) => LEFT + ((s - x0) / (x1 - x0)) * (W - LEFT - RIGHT);
    const y = (v) => (usable(v) ? TOP + ((y1 - map(v)) / (y1 - y0)) * (H - TOP - BOTTOM) : NaN);
    for (const v of log ? decades(10 ** y0, 10 ** y1) : ticks(y0, y1, 5)) {
      add(svg, "line", { class: "gridline", x1: LEFT, x2: W - RIGHT, y1: y(v), y2: y(v) });
      add(svg, "text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, number(v));
    }
    for (const s of ticks(x0, x1, 7)) {
      if (!Number.isInteger(s)) continue;
      add(svg, "text", { x: x(s), y: H - BOTTOM + 17, "text-anchor": "middle" }, s.toLocaleString("en"));
    }
    add(svg, "text", { x: (LEFT + W - RIGHT) / 2, y: H - 2, "text-anchor": "middle" }, "step");
    add(svg, "text", { x: 12, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${H / 2})` }, "loss");
    const xs = step.map(x), ys = loss.map(y);
    add(svg, "path", { class: "loss", d: path(xs, ys) });
    const end = ys.findLastIndex(Number.isFinite);
    add(svg, "circle", { class: "last", cx: xs[end], cy: ys[end], r: 3 });
    if (knn.length) {
      const [k0, k1] = range(knn.map((p) => p[1]), 0.1);
      const yk = (v) => TOP + ((k1 - v) / (k1 - k0)) * (H - TOP - BOTTOM);
      add(svg, "path", { class: "knn", d: path(knn.map((p) => x(p[0])), knn.map((p) => yk(p[1]))) });
      for (const [s, v] of knn) add(svg, "circle", { class: "dot", cx: x(s), cy: yk(v), r: 3.2 });
      for (const v of ticks(k0, k1, 4))
        add(svg, "text", { class: "right", x: W - RIGHT + 6, y: yk(v) + 4 }, number(v));
      const at = `rotate(90 ${W - 8} ${H / 2})`;
      add(svg, "text", { class: "right", x: W - 8, y: H / 2, "text-anchor": "middle", transform: at }, "k-NN top-1");
    }
    if (place !== null) {
      let near = 0;
      xs.forEach((at, i) => { if (Math.abs(at - place) < Math.abs(xs[near] - place)) near = i; });
      add(svg, "line", { class: "cursor", x1: xs[near], x2: xs[near], y1: TOP, y2: H - BOTTOM });
      const said = `step ${step[near].toLocaleString("en")}: ${loss[near] === null ? "NaN" : number(loss[near])}`;
      const side = xs[near] > W / 2 ? "end" : "start";
      add(svg, "text", { x: xs[near] + (side === "end" ? -6 : 6), y: TOP + 10, "text-anchor": side }, said);
    }
  }

  const soon = () => { frame ||= requestAnimationFrame(draw); };
  button.onclick = () => { log = !log; draw(); };
  svg.onpointermove = (event) => {
    const frame_box = svg.getBoundingClientRect();
    place = ((event.clientX - frame_box.left) / frame_box.width) * W;
    soon();
  };
  svg.onpointerleave = () => { place = null; soon(); };
  model.on("change:series", soon);
  model.on("change:text", soon);
  draw();
  return () => { cancelAnimationFrame(frame); model.off("change:series", soon); model.off("change:text", soon); };
}

export default { render };
