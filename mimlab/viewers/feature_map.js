// A map of images: points (0 to 10,000) with labels; the nearest one's image shows under the mouse. The state is given by
// feature_map.py: points, labels or null, classes, sprite {src, side, columns} or null, title, note, colours.
const WIDE = 640, TALL = 520, EDGE = 26, NEAR = 14; // px; NEAR: from the mouse to a point that is meant

const CSS = `
.mimlab-map { --ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1f2328));
  --soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #59636e));
  --back: var(--jp-layout-color0, var(--vscode-editor-background, #fff));
  --line: var(--jp-border-color1, var(--vscode-widget-border, #c9d1d9));
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, Helvetica, Arial, sans-serif); color: var(--ink);
  background: var(--back); padding: 6px 4px; box-sizing: border-box; max-width: 900px; }
.mimlab-map .name { font-weight: 600; overflow-wrap: anywhere; }
.mimlab-map .soft { color: var(--soft); font-size: 12px; }
.mimlab-map .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px; margin: 6px 0; }
.mimlab-map .body { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
.mimlab-map .plot { position: relative; flex: 1 1 420px; max-width: 640px; border: 1px solid var(--line); }
.mimlab-map canvas.points { width: 100%; display: block; cursor: crosshair; touch-action: pan-y; }
.mimlab-map .tip { position: absolute; pointer-events: none; padding: 5px; border: 1px solid var(--line); border-radius: 4px;
  background: var(--back); box-shadow: 0 2px 8px rgba(0, 0, 0, .3); font-size: 12px; }
.mimlab-map .tip canvas { display: block; width: 112px; height: 112px; image-rendering: auto; margin-bottom: 3px; }
.mimlab-map .legend { flex: 0 1 170px; max-height: 500px; overflow: auto; display: grid; gap: 2px; }
.mimlab-map button { font: inherit; color: inherit; background: none; border: 1px solid transparent; border-radius: 4px;
  padding: 1px 5px; cursor: pointer; text-align: left; display: flex; gap: 6px; align-items: center; }
.mimlab-map .bar button { border-color: var(--line); }
.mimlab-map button[aria-pressed=false] { opacity: .35; }
.mimlab-map label { display: inline-flex; gap: 5px; align-items: center; margin: 0; }
.mimlab-map [hidden] { display: none !important; }
`;

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// A mark at (x, y): colours repeat with another shape
function mark(brush, label, colours, x, y, r) {
  brush.fillStyle = colours[label % colours.length];
  brush.beginPath();
  const shape = Math.floor(label / colours.length) % 4;
  if (shape === 0) brush.arc(x, y, r, 0, 7);
  if (shape === 1) brush.rect(x - r, y - r, 2 * r, 2 * r);
  if (shape === 2) [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]].forEach(([a, b]) => brush.lineTo(x + a * r, y + b * r));
  if (shape === 3) [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]].forEach(([a, b]) => brush.lineTo(x + a * r, y + b * r));
  brush.closePath();
  brush.fill();
}

async function render({ model, el }) {
  const points = model.get("points"), labels = model.get("labels"), classes = model.get("classes");
  const sprite = model.get("sprite"), colours = model.get("colours");
  const label = (k) => (labels ? labels[k] : 0), hidden = new Set();
  const view = { x: 0, y: 0, zoom: 1 };
  let pictured = false, over = -1, held = null;
  const sheet = sprite && new Image();
  if (sheet) {
    sheet.src = sprite.src;
    await sheet.decode();
  }
  const dense = Math.max(1, Math.min(3, window.devicePixelRatio || 1));
  const canvas = h("canvas", { class: "points", width: WIDE * dense, height: TALL * dense, role: "img",
    "aria-label": `${model.get("title")}: a map of ${points.length} images`, "data-role": "points" });
  const thumb = h("canvas", { width: 112 * dense, height: 112 * dense }), words = h("div", { "data-role": "tip" });
  const tip = h("div", { class: "tip" }, ...(sheet ? [thumb] : []), words);
  tip.hidden = true;
  const zoom = (by) => { const cx = (WIDE / 2 - view.x) / view.zoom, cy = (TALL / 2 - view.y) / view.zoom;
    view.zoom = Math.min(Math.max(view.zoom * by, 1), 40);
    [view.x, view.y] = view.zoom === 1 ? [0, 0] : [WIDE / 2 - cx * view.zoom, TALL / 2 - cy * view.zoom]; draw(); };
  const bar = h("div", { class: "bar" },
    h("button", { "data-role": "in", onclick: () => zoom(1.6) }, "Zoom in"),
    h("button", { "data-role": "out", onclick: () => zoom(1 / 1.6) }, "Zoom out"));
  if (sheet) bar.append(h("label", {}, h("input", { type: "checkbox", "data-role": "pictures",
    onchange: (event) => { pictured = event.target.checked; draw(); } }), "images in place of points"));
  bar.append(h("span", { class: "soft" }, "drag to move, Ctrl and wheel to zoom"));
  const legend = h("div", { class: "legend" });
  if (labels) {
    const counts = new Map();
    labels.forEach((one) => counts.set(one, (counts.get(one) || 0) + 1));
    [...counts.keys()].sort((a, b) => a - b).forEach((one) => {
      const dot = h("canvas", { width: 28, height: 28, style: "width:14px;height:14px;flex:none" });
      mark(dot.getContext("2d"), one, colours, 14, 14, 9);
      const button = h("button", { "aria-pressed": "true", "data-class": one, title: "show or hide" }, dot,
        `${classes[one] ?? `class ${one}`} (${counts.get(one)})`);
      button.onclick = () => {
        if (!hidden.delete(one)) hidden.add(one);
        button.setAttribute("aria-pressed", String(!hidden.has(one)));
        draw();
      };
      legend.append(button);
    });
  }
  const plot = h("div", { class: "plot" }, canvas, tip);
  const root = h("div", { class: "mimlab-map" }, h("style", {}, CSS), h("div", { class: "name" }, model.get("title")),
    h("div", { class: "soft" }, model.get("note")), bar, h("div", { class: "body" }, plot, legend));
  el.append(root);

  // the place of a point on the canvas, in px of WIDE x TALL
  function at(k) {
    const side = TALL - 2 * EDGE, left = (WIDE - side) / 2;
    return [(left + (points[k][0] / 1e4) * side) * view.zoom + view.x,
      (EDGE + (1 - points[k][1] / 1e4) * side) * view.zoom + view.y];
  }

  function cut(brush, k, x, y, side) {
    const from = sprite.side;
    brush.drawImage(sheet, (k % sprite.columns) * from, Math.floor(k / sprite.columns) * from, from, from, x, y, side, side);
  }

  function draw() {
    const brush = canvas.getContext("2d");
    brush.setTransform(dense, 0, 0, dense, 0, 0);
    brush.clearRect(0, 0, WIDE, TALL);
    brush.globalAlpha = pictured ? 1 : 0.8;
    const side = Math.max(14, Math.min(sprite?.side ?? 0, 360 / Math.sqrt(points.length)) * Math.sqrt(view.zoom));
    points.forEach((_, k) => {
      if (hidden.has(label(k))) return;
      const [x, y] = at(k);
      if (pictured) cut(brush, k, x - side / 2, y - side / 2, side);
      else mark(brush, label(k), colours, x, y, points.length > 800 ? 3 : 4);
    });
    brush.globalAlpha = 1;
    if (over >= 0) {
      const [x, y] = at(over);
      brush.lineWidth = 2;
      brush.strokeStyle = getComputedStyle(root).color;
      brush.beginPath();
      brush.arc(x, y, 8, 0, 7);
      brush.stroke();
    }
    root.dataset.shown = String(points.filter((_, k) => !hidden.has(label(k))).length);
    root.dataset.over = String(over);
    root.dataset.ready = "1";
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * WIDE, ((event.clientY - box.top) / box.height) * TALL];
  }

  function look(event) {
    const [mx, my] = place(event);
    let best = NEAR ** 2, found = -1;
    points.forEach((_, k) => {
      if (hidden.has(label(k))) return;
      const [x, y] = at(k), far = (x - mx) ** 2 + (y - my) ** 2;
      if (far < best) [best, found] = [far, k];
    });
    if (found !== over) {
      over = found;
      draw();
    }
    tip.hidden = over < 0;
    if (over < 0) return;
    if (sheet) {
      const brush = thumb.getContext("2d");
      brush.imageSmoothingEnabled = sprite.side >= 48;
      cut(brush, over, 0, 0, thumb.width);
    }
    words.textContent = `image ${over}` + (labels ? `: ${classes[labels[over]] ?? `class ${labels[over]}`}` : "");
    const [x, y] = [mx / WIDE, my / TALL];
    tip.style.left = x < 0.6 ? `calc(${x * 100}% + 16px)` : "";
    tip.style.right = x < 0.6 ? "" : `calc(${(1 - x) * 100}% + 16px)`;
    tip.style.top = y < 0.6 ? `calc(${y * 100}% + 8px)` : "";
    tip.style.bottom = y < 0.6 ? "" : `calc(${(1 - y) * 100}% + 8px)`;
  }

  canvas.addEventListener("pointerdown", (event) => { held = place(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (held && view.zoom > 1) {
      const now = place(event);
      view.x += now[0] - held[0];
      view.y += now[1] - held[1];
      held = now;
      draw();
    } else look(event);
  });
  canvas.addEventListener("pointerleave", () => { over = -1; tip.hidden = true; draw(); });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    const [mx, my] = place(event), before = view.zoom;
    view.zoom = Math.min(Math.max(before * (event.deltaY < 0 ? 1.25 : 0.8), 1), 40);
    const share = view.zoom / before;
    [view.x, view.y] = view.zoom === 1 ? [0, 0] : [mx - (mx - view.x) * share, my - (my - view.y) * share];
    draw();
  }, { passive: false });
  draw();
}

export default { render };
