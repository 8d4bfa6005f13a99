/* Draws the map on a canvas. A lasso, or a frame that the keyboard moves, selects faces. */
"use strict";

const SIDE = 65535;
const MARGIN = 10; // width of the border in pixels, so that points at the edge of the map are drawn completely
const ALONE = 360; // this number in place of a hue means a person with one face

class FaceMap {
  constructor(canvas, points) {
    this.canvas = canvas; this.points = points; this.count = points.length / 3;
    this.key = canvas.dataset.key;
    this.scale = 1; this.left = 0; this.top = 0; // the visible square; its side is 1 / scale, as a share of the map
    this.lasso = []; this.selected = []; this.frame = null; this.isMoving = false;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", () => this.end());
    canvas.addEventListener("pointercancel", () => { this.lasso = []; this.grip = null; this.draw(); });
    canvas.addEventListener("pointerleave", () => this.peek(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, ...this.place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => { if (this.press(event)) event.preventDefault(); });
    canvas.addEventListener("blur", () => { this.frame = null; this.draw(); });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    const press = (id, act) => document.getElementById(id).addEventListener("click", act);
    press("zoom-in", () => this.zoom(1.5, 0.5, 0.5));
    press("zoom-out", () => this.zoom(1 / 1.5, 0.5, 0.5));
    press("whole", () => { this.scale = 1; this.left = this.top = 0; this.draw(); });
    press("move", (event) => {
      this.isMoving = !this.isMoving;
      event.currentTarget.setAttribute("aria-pressed", this.isMoving);
      canvas.style.cursor = this.isMoving ? "grab" : "crosshair";
    });
    press("show", () => this.show());
  }

  resize() {
    const width = this.canvas.parentElement.clientWidth;
    const top = this.canvas.getBoundingClientRect().top + scrollY;
    const side = Math.min(width, Math.max(320, innerHeight - top - 16));
    this.canvas.style.height = `${side}px`;
    this.canvas.width = width * devicePixelRatio;
    this.canvas.height = side * devicePixelRatio;
    this.draw();
  }

  /* The map is a square in the middle of the canvas. Returns its side, its left edge and its top in canvas pixels. */
  square() {
    const side = Math.min(this.canvas.width, this.canvas.height) - 2 * MARGIN * devicePixelRatio;
    return [side, (this.canvas.width - side) / 2, (this.canvas.height - side) / 2];
  }

  /* Returns where an event is, as shares of the visible square. */
  place(event) {
    const box = this.canvas.getBoundingClientRect(), [side, edge, top] = this.square();
    return [((event.clientX - box.left) * devicePixelRatio - edge) / side, ((event.clientY - box.top) * devicePixelRatio - top) / side];
  }

  /* Converts a place in the visible square to a place on the map, as shares of the map. */
  onMap(x, y) { return [this.left + x / this.scale, this.top + y / this.scale]; }

  zoom(factor, x, y) {
    const [mapX, mapY] = this.onMap(x, y);
    this.scale = Math.min(64, Math.max(1, this.scale * factor));
    this.shift(mapX - x / this.scale, mapY - y / this.scale);
  }

  shift(left, top) {
    const most = 1 - 1 / this.scale;
    this.left = Math.min(most, Math.max(0, left)); this.top = Math.min(most, Math.max(0, top));
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    const pen = this.canvas.getContext("2d"), [side, edge, top] = this.square();
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const size = Math.max(1.5, Math.min(10, 3 + Math.log2(this.scale) - Math.log10(Math.max(20, this.count) / 2000))) * devicePixelRatio;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const unit = (side * this.scale) / SIDE, x0 = edge - this.left * side * this.scale, y0 = top - this.top * side * this.scale;
    const pale = isDark ? 0.4 : 0.25; // the opacity of faces that are not selected
    let hue = -1;
    for (const row of this.order()) {
      const at = row * 3;
      if (this.points[at + 2] !== hue) {
        hue = this.points[at + 2];
        pen.fillStyle = hue === ALONE ? (isDark ? "#8b8f96" : "#8a8a88") : `hsl(${hue} 70% ${isDark ? 65 : 42}%)`;
      }
      pen.globalAlpha = this.chosen && !this.chosen[row] ? pale : 1;
      pen.fillRect(x0 + this.points[at] * unit - size / 2, y0 + this.points[at + 1] * unit - size / 2, size, size);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = pen.fillStyle = isDark ? "#ffffff" : "#000000";
    pen.lineWidth = 1.5 * devicePixelRatio;
    const outline = this.lasso.length ? this.lasso : this.frame ? this.corners() : [];
    if (!outline.length) return;
    pen.beginPath();
    for (const [x, y] of outline) pen.lineTo(x0 + x * SIDE * unit, y0 + y * SIDE * unit);
    pen.closePath();
    pen.stroke();
    pen.globalAlpha = 0.08; pen.fill(); pen.globalAlpha = 1;
  }

  /* Returns the rows sorted by hue, so that the colour of the pen changes at most 361 times. */
  order() {
    if (!this.rows) this.rows = Uint32Array.from({ length: this.count }, (_, row) => row).sort((a, b) => this.points[b * 3 + 2] - this.points[a * 3 + 2]);
    return this.rows;
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.frame = null;
    const place = this.place(event);
    if (this.isMoving) this.grip = this.onMap(...place);
    else this.lasso = [this.onMap(...place)];
  }

  drag(event) {
    const place = this.place(event);
    if (this.grip) this.shift(this.grip[0] - place[0] / this.scale, this.grip[1] - place[1] / this.scale);
    else if (this.lasso.length) { this.lasso.push(this.onMap(...place)); this.draw(); } else this.peek(event);
  }

  end() {
    const outline = this.lasso;
    this.lasso = []; this.grip = null;
    if (outline.length > 2) this.select(outline);
    this.draw();
  }

  corners() { const { x, y, width, height } = this.frame; return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]; }

  select(outline) {
    const flat = outline.map(([x, y]) => [x * SIDE, y * SIDE]), rows = [];
    for (let row = 0; row < this.count; row += 1) {
      const x = this.points[row * 3], y = this.points[row * 3 + 1];
      let isInside = false; // a point is inside if a ray from the point to the right crosses the outline an odd number of times
      for (let i = 0, j = flat.length - 1; i < flat.length; j = i, i += 1) {
        const [xi, yi] = flat[i], [xj, yj] = flat[j];
        if ((yi > y) !== (yj > y) && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) isInside = !isInside;
      }
      if (isInside) rows.push(row);
    }
    this.selected = rows;
    this.chosen = rows.length ? new Uint8Array(this.count) : null;
    for (const row of rows) this.chosen[row] = 1;
    document.getElementById("chosen").textContent = rows.length ? `${count(rows.length, "face")} selected.` : "No face is selected.";
    document.getElementById("show").disabled = !rows.length;
    this.draw();
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) {
      const step = 0.04 / this.scale, [dx, dy] = steps[event.key];
      this.frame ||= { x: this.left + 0.4 / this.scale, y: this.top + 0.4 / this.scale, width: 0.2 / this.scale, height: 0.2 / this.scale };
      if (event.shiftKey) {
        this.frame.width = Math.max(step, this.frame.width + dx * step); this.frame.height = Math.max(step, this.frame.height + dy * step);
      } else { this.frame.x += dx * step; this.frame.y += dy * step; }
      this.draw();
    } else if (event.key === "Enter" && this.frame) this.select(this.corners());
    else if (event.key === "+" || event.key === "=") this.zoom(1.5, ...this.middle());
    else if (event.key === "-") this.zoom(1 / 1.5, ...this.middle());
    else if (event.key === "Escape") { this.frame = null; this.select([]); } else return false;
    return true;
  }

  /* Returns the middle of the frame, in shares of the visible square. Without a frame, returns the middle of the square. */
  middle() {
    if (!this.frame) return [0.5, 0.5];
    const { x, y, width, height } = this.frame;
    return [(x + width / 2 - this.left) * this.scale, (y + height / 2 - this.top) * this.scale];
  }

  /* Shows the face that is nearest to the pointer. */
  peek(event) {
    const box = document.getElementById("peek");
    let best = -1;
    if (event && event.pointerType === "mouse") {
      const [x, y] = this.onMap(...this.place(event)).map((share) => share * SIDE);
      let least = ((0.012 / this.scale) * SIDE) ** 2;
      for (let row = 0; row < this.count; row += 1) {
        const far = (this.points[row * 3] - x) ** 2 + (this.points[row * 3 + 1] - y) ** 2;
        if (far < least) { least = far; best = row; }
      }
    }
    if (best < 0) { this.shown = -1; box.hidden = true; return; }
    const frame = this.canvas.getBoundingClientRect();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    box.style.left = `${x > frame.width - 160 ? x - 124 : x + 14}px`;
    box.style.top = `${y > frame.height - 150 ? y - 134 : y + 14}px`;
    if (best === this.shown) return;
    this.shown = best;
    request(`/api/map/face/${best}?key=${this.key}`).then((face) => {
      if (this.shown !== best) return;
      box.querySelector("img").src = `/thumbnail/${face.face}.webp`;
      box.querySelector("span").textContent = face.person;
      box.hidden = false;
    }).catch(() => { box.hidden = true; });
  }

  show() {
    request(`/api/map/selection?key=${this.key}`, { rows: this.selected })
      .then((answer) => { location.href = answer.link; })
      .catch((error) => say(error.message, true));
  }
}

const progress = document.getElementById("progress");
if (progress) waitForWork(progress.dataset.work, progress).then(() => location.reload()).catch((error) => say(error.message, true));

const map = document.getElementById("map");
if (map) {
  fetch(`/api/map/points?key=${map.dataset.key}`).then(async (answer) => {
    if (!answer.ok) throw new Error((await answer.json()).error);
    new FaceMap(map, new Uint16Array(await answer.arrayBuffer()));
    map.removeAttribute("aria-busy"); // the map now shows its faces, and reacts to keys and the pointer
  }).catch((error) => say(error.message, true));
}
