"use strict";
// Draws cloud and boxes of all panels from one point of view, which dragging, wheel, fingers and keys change, and the
// attention of a query on the ground and on the images.
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  const START = { yaw: -Math.PI / 2, pitch: 0.62, distance: 68, x: 0, y: 0 };
  const TOP = { yaw: -Math.PI / 2, pitch: Math.PI / 2, distance: 85, x: 0, y: 0 };
  const NEAR = 0.5, STYLE = { tp: [2, []], fp: [2, []], fn: [1.6, [6, 4]], gt: [1, []] };
  const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7], [8, 9]];
  // Viridis, sampled; low points are dark on light ground and light on dark ground.
  const RAMP = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#a8c93a"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const view = { ...START };

  function corners([, , x, y, z, l, w, h, yaw]) {
    const c = Math.cos(yaw), s = Math.sin(yaw);
    const at = (a, b, up) => [x + a * l * c - b * w * s, y + a * l * s + b * w * c, z + up * h];
    const flat = [[.5, .5], [.5, -.5], [-.5, -.5], [-.5, .5]];
    const both = [-.5, .5].flatMap((up) => flat.map(([a, b]) => at(a, b, up)));
    return [...both, at(0, 0, -.5), at(.5, 0, -.5)];  // and from the centre to the front
  }

  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", GROUND = -1.8;
  // From yellow to red; alpha grows as well. Of level 0 nothing is drawn.
  const STOPS = [[255, 237, 160], [254, 178, 76], [252, 78, 42], [177, 0, 38]];
  const HEAT = [...DIGITS].map((_, level) => {
    const at = level / 63 * (STOPS.length - 1), i = Math.min(Math.floor(at), STOPS.length - 2);
    return [...STOPS[i].map((v, c) => Math.round(v + (at - i) * (STOPS[i + 1][c] - v))), level ? Math.round(20 + 205 * level / 63) : 0];
  });

  const panels = [...document.querySelectorAll("section > canvas")].map((canvas) => {
    const { points, boxes, attention } = JSON.parse(canvas.nextElementSibling.textContent);
    const bytes = Uint8Array.from(atob(points.xyz), (c) => c.charCodeAt(0));
    const data = new DataView(bytes.buffer), xyz = new Float32Array(bytes.length / 2);
    for (let i = 0; i < xyz.length; i++) xyz[i] = data.getInt16(2 * i, true) * points.unit;
    const drawn = boxes.map((b) => ({ outcome: b[0], text: b[1], corners: corners(b) }));
    return { canvas, xyz, ends: points.ends, boxes: drawn, attention, heat: null };
  });

  // What is chosen in the panel's lists: the query and the levels of its maps; null without one.
  function choose(panel) {
    const section = panel.canvas.parentElement, value = (name) => section.querySelector(`[data-${name}]`)?.value;
    const query = panel.attention.queries[value("query")];
    panel.heat = null;
    if (query) {
      const layer = query.layers[value("layer")], text = layer.maps[value("side") ?? 0];
      panel.heat = { query, levels: Uint8Array.from(text, (c) => DIGITS.indexOf(c)) };
      const { bev, camera } = panel.attention;
      const parts = [...(bev ? ["BEV"] : []), ...(camera ? ["the images"] : [])];
      section.querySelector("output").textContent =
        "darkest: " + parts.map((part, i) => `${(100 * layer.largest[i]).toPrecision(2)}\u00a0% of the attention in one cell of ${part}`).join(", ");
    } else section.querySelector("output").textContent = "";
    for (const area of section.querySelectorAll("[data-camera]")) paint(area, panel);
    redraw();
  }

  const element = (parent, name, style) => Object.assign(parent.appendChild(document.createElement(name)).style, style);
  const percent = (value) => `${100 * value}%`;
  function paint(area, { attention, heat }) {
    area.replaceChildren();
    if (!heat || !attention.camera) return;
    const number = Number(area.dataset.camera), [, rows, cols] = attention.camera;
    const from = (attention.bev ? attention.bev[0] * attention.bev[1] : 0) + number * rows * cols;
    const canvas = area.appendChild(document.createElement("canvas"));
    canvas.width = cols;
    canvas.height = rows;
    const image = new ImageData(cols, rows);
    for (let i = 0; i < rows * cols; i++) image.data.set(HEAT[heat.levels[from + i]], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
    const rectangle = heat.query.camera_windows[number], pixel = heat.query.pixels[number];
    if (rectangle) {
      const [left, top, right, bottom] = rectangle;
      element(area, "i", { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) });
    }
    if (pixel) {
      element(area, "i", { left: percent(pixel[0]), top: percent(pixel[1]) });
      area.lastElementChild.className = "point";
    }
  }

  // The BEV map on the ground, its window, and the reference point as a cross.
  function drawHeat(context, project, { attention, heat }, p, q) {
    if (!heat || !attention.bev) return;
    const [rows, cols, x0, y0, x1, y1] = attention.bev, dx = (x1 - x0) / cols, dy = (y1 - y0) / rows;
    for (let i = 0; i < rows * cols; i++) {
      const level = heat.levels[i];
      if (!level) continue;
      const x = x0 + (i % cols) * dx, y = y0 + Math.floor(i / cols) * dy;
      const cell = [[x, y], [x + dx, y], [x + dx, y + dy], [x, y + dy]].map(([a, b]) => project(a, b, GROUND, [0, 0, 0]));
      if (cell.some((corner) => corner[2] < NEAR)) continue;
      const [red, green, blue, alpha] = HEAT[level];
      context.fillStyle = `rgba(${red},${green},${blue},${alpha / 255})`;
      context.beginPath();
      cell.forEach((corner) => context.lineTo(corner[0], corner[1]));
      context.fill();
    }
    context.strokeStyle = getComputedStyle(context.canvas).color;
    context.lineWidth = 2;
    context.beginPath();
    if (heat.query.bev_window) {
      const [left, low, right, high] = heat.query.bev_window;
      const ring = [[left, low, GROUND], [right, low, GROUND], [right, high, GROUND], [left, high, GROUND]];
      ring.forEach((corner, i) => line(context, project, corner, ring[(i + 1) % 4], p, q));
    }
    const [x, y] = heat.query.at;
    line(context, project, [x - 0.7, y, GROUND], [x + 0.7, y, GROUND], p, q);
    line(context, project, [x, y - 0.7, GROUND], [x, y + 0.7, GROUND], p, q);
    context.stroke();
  }

  // Axes of the camera: right, up, and out of the picture; the target is on the plane z = 0.
  function camera(width, height) {
    const cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
    const focal = 0.9 * Math.max(width, height * 4 / 3);
    return (x, y, z, out) => {
      const dx = x - view.x, dy = y - view.y;
      const along = dx * cy + dy * sy;
      const depth = view.distance - along * cp - z * sp;
      out[2] = depth;
      out[0] = width / 2 + focal * (dy * cy - dx * sy) / depth;
      out[1] = height / 2 - focal * (z * cp - along * sp) / depth;
      return out;
    };
  }

  function line(context, project, a, b, p, q) {
    project(...a, p);
    project(...b, q);
    if (p[2] < NEAR && q[2] < NEAR) return;
    if (p[2] < NEAR || q[2] < NEAR) {  // cut where it passes the camera
      const t = (p[2] - NEAR) / (p[2] - q[2]), cut = a.map((v, i) => v + t * (b[i] - v));
      project(...cut, p[2] < NEAR ? p : q);
    }
    context.moveTo(p[0], p[1]);
    context.lineTo(q[0], q[1]);
  }

  function draw(panel) {
    const { canvas, xyz, ends, boxes } = panel;
    const ratio = Math.min(devicePixelRatio || 1, 2), width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d"), project = camera(width, height), p = [0, 0, 0], q = [0, 0, 0];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.strokeStyle = "#888";
    context.globalAlpha = 0.35;
    context.beginPath();
    for (const r of [10, 20, 30, 40]) {
      for (let i = 0; i < 60; i++) {
        const a = i * Math.PI / 30, b = a + Math.PI / 30;
        line(context, project, [r * Math.cos(a), r * Math.sin(a), -1.8], [r * Math.cos(b), r * Math.sin(b), -1.8], p, q);
      }
    }
    context.stroke();
    context.globalAlpha = 1;
    drawHeat(context, project, panel, p, q);
    if (!root.classList.contains("hide-points")) {
      const size = Math.max(1, Math.min(3, 90 / view.distance));
      let from = 0;
      ends.forEach((end, shade) => {
        const at = Math.round(shade / (ends.length - 1) * (RAMP.length - 1));
        context.fillStyle = RAMP[dark.matches ? Math.max(at, 3) : at];
        for (let i = from; i < end; i++) {
          project(xyz[3 * i], xyz[3 * i + 1], xyz[3 * i + 2], p);
          if (p[2] > NEAR && p[0] >= 0 && p[0] < width && p[1] >= 0 && p[1] < height) context.fillRect(p[0], p[1], size, size);
        }
        from = end;
      });
    }
    const labelled = document.querySelector("[data-labels]").checked;
    context.font = "11px system-ui, sans-serif";
    for (const box of boxes) {
      if (root.classList.contains("hide-" + box.outcome)) continue;
      const style = getComputedStyle(document.querySelector(`label.${box.outcome} .mark`)).color;
      context.strokeStyle = context.fillStyle = style;
      context.lineWidth = STYLE[box.outcome][0];
      context.setLineDash(STYLE[box.outcome][1]);
      context.beginPath();
      for (const [a, b] of EDGES) line(context, project, box.corners[a], box.corners[b], p, q);
      context.stroke();
      if (labelled && project(...box.corners[4], p)[2] > NEAR) context.fillText(box.text, p[0] + 3, p[1] - 3);
    }
    context.setLineDash([]);
    context.lineWidth = 1;
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; panels.forEach(draw); });
  }

  const limit = (value, low, high) => Math.min(high, Math.max(low, value));
  function turn(dx, dy) {
    view.yaw -= dx * 0.008;
    view.pitch = limit(view.pitch + dy * 0.008, 0.02, Math.PI / 2);
    redraw();
  }
  function move(dx, dy) {
    const step = view.distance / 600, cy = Math.cos(view.yaw), sy = Math.sin(view.yaw);
    view.x += (sy * dx - cy * dy) * step;
    view.y += (-cy * dx - sy * dy) * step;
    redraw();
  }
  function zoom(factor) {
    view.distance = limit(view.distance * factor, 3, 300);
    redraw();
  }

  for (const { canvas } of panels) {
    const fingers = new Map();
    canvas.addEventListener("pointerdown", (e) => {
      fingers.set(e.pointerId, e);
      canvas.setPointerCapture(e.pointerId);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
    canvas.addEventListener("pointermove", (e) => {
      const before = fingers.get(e.pointerId);
      if (!before) return;
      const dx = e.clientX - before.clientX, dy = e.clientY - before.clientY;
      if (fingers.size === 2) {
        const other = [...fingers.values()].find((f) => f.pointerId !== e.pointerId);
        const apart = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY) || 1;
        zoom(apart(before) / apart(e));
        move(dx / 2, dy / 2);
      } else if (e.shiftKey || e.buttons & 2) move(dx, dy);
      else turn(dx, dy);
      fingers.set(e.pointerId, e);
    });
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(e.deltaY * 0.001)); }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const keys = { ArrowLeft: [-20, 0], ArrowRight: [20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] };
      if (keys[e.key]) (e.shiftKey ? move : turn)(...keys[e.key]);
      else if (e.key === "+" || e.key === "-") zoom(e.key === "+" ? 0.85 : 1.18);
      else return;
      e.preventDefault();
    });
  }
  for (const box of document.querySelectorAll("[data-hides]")) {
    const apply = () => { root.classList.toggle("hide-" + box.dataset.hides, !box.checked); redraw(); };
    box.addEventListener("change", apply);
    apply();  // browsers restore boxes of an earlier visit
  }
  document.querySelector("[data-labels]").addEventListener("change", redraw);
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => { Object.assign(view, button.dataset.view === "top" ? TOP : START); redraw(); });
  }
  for (const panel of panels.filter(({ attention }) => attention)) {
    for (const list of panel.canvas.parentElement.querySelectorAll("select")) {
      list.addEventListener("change", () => choose(panel));
    }
    choose(panel);  // browsers restore lists of an earlier visit
  }
  dark.addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(document.querySelector("main"));
  redraw();
})();
