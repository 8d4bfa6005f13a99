/* The behaviour of all pages: requests, a grid that keeps only its visible cells, and messages.
   Every text is set with textContent, so a name with HTML in it stays text. */
"use strict";

/* --- requests --- */

async function request(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The review does not answer. The command `likeness review` may have ended.");
  }
  const isJson = (answer.headers.get("Content-Type") || "").startsWith("application/json");
  const value = isJson ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Error(value.error || `The request failed with the status ${answer.status}.`);
  if (value.state) showState(value.state);
  return value;
}

function showState(state) {
  const notice = document.getElementById("notice");
  const sentence = state.read_only || state.notice;
  notice.hidden = !sentence;
  if (notice.textContent !== sentence) notice.textContent = sentence;
  document.dispatchEvent(new CustomEvent("state", { detail: state }));
}

let messageTimer = 0;
function say(sentence, isBad = false) {
  const box = document.getElementById("message");
  box.textContent = sentence;
  box.classList.toggle("bad", isBad);
  box.hidden = false;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { box.hidden = true; }, isBad ? 12000 : 5000);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function count(number, one, several) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several || one + "s"}`;
}

/* --- a grid of any length: only the visible cells are in the document --- */

const PART = 100; // rows in one request (ours)

class Grid {
  /* `source` returns the path of a request for `start` and `count`. `draw` fills a cell with a row. */
  constructor(root, { source, draw, label, minWidth = 150, extraHeight = 62, open = () => {} }) {
    Object.assign(this, { root, source, draw, label, minWidth, extraHeight, open });
    this.rows = []; this.total = 0; this.cells = new Map(); this.parts = new Map();
    this.selected = new Set(); this.focusIndex = 0; this.anchor = 0; this.generation = 0;
    root.setAttribute("role", "listbox");
    root.setAttribute("aria-multiselectable", "true");
    root.setAttribute("aria-label", label);
    root.addEventListener("click", (event) => this.click(event));
    root.addEventListener("focusin", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) this.focusIndex = Number(cell.dataset.index);
    });
    addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(root);
  }

  /* Reads the rows again. The selection stays where the rows are still there. */
  async reload(keepPlace = true) {
    this.generation += 1;
    this.parts.clear();
    this.stale = this.rows;
    this.rows = [];
    if (!keepPlace) { this.focusIndex = 0; scrollTo(0, 0); }
    const first = Math.floor((keepPlace ? this.firstVisible() : 0) / PART);
    await this.fetchPart(first);
    this.stale = null;
    this.focusIndex = Math.max(0, Math.min(this.focusIndex, this.total - 1));
    this.layout();
  }

  fetchPart(part) {
    if (!this.parts.has(part)) {
      const generation = this.generation;
      this.parts.set(part, request(this.source(part * PART, PART)).then((answer) => {
        if (generation !== this.generation) return;
        answer.rows.forEach((row, place) => { this.rows[answer.start + place] = row; });
        this.total = answer.total;
        this.answer = answer;
        this.root.dispatchEvent(new CustomEvent("rows", { detail: answer }));
        if (!this.stale) this.layout();
      }).catch((error) => { this.parts.delete(part); say(error.message, true); }));
    }
    return this.parts.get(part);
  }

  layout() {
    const width = this.root.clientWidth;
    if (!width) return;
    const gap = 12, least = Math.min(this.minWidth, (width - gap) / 2);
    this.columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
    this.cellWidth = Math.floor((width - gap * (this.columns - 1)) / this.columns);
    this.cellHeight = this.cellWidth + this.extraHeight;
    this.gap = gap;
    const lines = Math.ceil(this.total / this.columns);
    this.root.style.height = `${Math.max(0, lines * (this.cellHeight + gap) - gap)}px`;
    this.paint(true);
  }

  firstVisible() {
    if (!this.columns) return 0;
    const top = Math.max(0, -this.root.getBoundingClientRect().top);
    return Math.floor(top / (this.cellHeight + this.gap)) * this.columns;
  }

  paint(again = false) {
    if (!this.columns) return;
    const line = this.cellHeight + this.gap, top = -this.root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - line) / line)) * this.columns;
    const last = Math.min(this.total, (Math.floor((top + innerHeight + line) / line) + 1) * this.columns);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) wanted.add(index);
    if (this.hasFocus() && this.focusIndex < this.total) wanted.add(this.focusIndex); // the focus must not get lost
    for (const [index, cell] of this.cells) if (!wanted.has(index)) { cell.remove(); this.cells.delete(index); }
    let previous = null;
    for (const index of [...wanted].sort((a, b) => a - b)) {
      const row = this.rows[index];
      if (!row) this.fetchPart(Math.floor(index / PART));
      let cell = this.cells.get(index);
      if (!cell) {
        cell = make("div", { class: "cell", role: "option", tabindex: -1, "data-index": index });
        this.cells.set(index, cell);
      }
      if (again || cell.row !== row) this.fill(cell, index, row);
      // the order in the document is the order on the screen, for readers of screens
      if (!cell.isConnected) { if (previous) previous.after(cell); else this.root.prepend(cell); }
      previous = cell;
    }
    const focused = this.cells.get(Math.min(this.focusIndex, this.total - 1)) || this.cells.get(first);
    for (const cell of this.cells.values()) cell.tabIndex = cell === focused ? 0 : -1;
  }

  fill(cell, index, row) {
    const x = (index % this.columns) * (this.cellWidth + this.gap);
    const y = Math.floor(index / this.columns) * (this.cellHeight + this.gap);
    cell.style.transform = `translate(${x}px, ${y}px)`;
    cell.style.width = `${this.cellWidth}px`;
    cell.style.height = `${this.cellHeight}px`;
    cell.setAttribute("aria-setsize", this.total);
    cell.setAttribute("aria-posinset", index + 1);
    cell.setAttribute("aria-selected", row ? this.selected.has(row.id) : false);
    if (row && cell.row !== row) { cell.replaceChildren(); this.draw(cell, row); }
    cell.row = row;
  }

  hasFocus() { return this.root.contains(document.activeElement); }

  current() { return this.rows[this.focusIndex]; }

  focus(index) {
    if (!this.total) return;
    this.focusIndex = Math.max(0, Math.min(index, this.total - 1));
    const line = this.cellHeight + this.gap;
    const y = this.root.getBoundingClientRect().top + scrollY + Math.floor(this.focusIndex / this.columns) * line;
    const bar = document.querySelector(".bar"), dock = document.querySelector(".dock");
    const head = bar && getComputedStyle(bar).position === "sticky" ? bar.offsetHeight + 8 : 8;
    const foot = dock && !dock.hidden ? dock.offsetHeight + 8 : 8;
    if (y - head < scrollY) scrollTo(0, y - head);
    else if (y + line > scrollY + innerHeight - foot) scrollTo(0, y + line - innerHeight + foot);
    this.paint();
    const cell = this.cells.get(this.focusIndex);
    if (cell) cell.focus({ preventScroll: true });
  }

  select(ids) {
    this.selected = new Set(ids);
    for (const cell of this.cells.values()) cell.setAttribute("aria-selected", cell.row ? this.selected.has(cell.row.id) : false);
    this.root.dispatchEvent(new CustomEvent("selection"));
  }

  toggle(index) {
    const row = this.rows[index];
    if (!row) return;
    const ids = new Set(this.selected);
    if (!ids.delete(row.id)) ids.add(row.id);
    this.anchor = index;
    this.select(ids);
  }

  async selectRange(index) {
    const low = Math.min(this.anchor, index), high = Math.max(this.anchor, index);
    const parts = [];
    for (let part = Math.floor(low / PART); part <= Math.floor(high / PART); part += 1) parts.push(this.fetchPart(part));
    await Promise.all(parts);
    this.select([...this.selected, ...this.rows.slice(low, high + 1).filter(Boolean).map((row) => row.id)]);
  }

  click(event) {
    const cell = event.target.closest(".cell");
    if (!cell || !cell.row) return;
    const index = Number(cell.dataset.index);
    this.focus(index);
    if (event.shiftKey) this.selectRange(index);
    else if (event.ctrlKey || event.metaKey || event.target.closest(".pick")) this.toggle(index);
    else this.open(cell.row, index);
  }

  /* Returns true if the key belongs to the grid. */
  key(event) {
    const steps = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    const row = this.current();
    if (event.key in steps) {
      const from = this.focusIndex;
      this.focus(this.hasFocus() ? from + steps[event.key] : from);
      if (event.shiftKey) { if (!this.selected.size) this.anchor = from; this.selectRange(this.focusIndex); }
    } else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(this.total - 1);
    else if (event.key === "x" || (event.key === " " && this.hasFocus())) { this.focus(this.focusIndex); this.toggle(this.focusIndex); }
    else if (event.key === "X") this.selectRange(this.focusIndex);
    else if (event.key === "Enter" && this.hasFocus() && row) this.open(row, this.focusIndex);
    else return false;
    return true;
  }
}

/* --- keys --- */

function isTyping(event) {
  return event.target.closest && event.target.closest("input, select, textarea, dialog, [contenteditable]");
}

/* --- the wall of people --- */

function number(value) { return value.toFixed(2).replace(/^(-?)0\./, "$1."); }

function shortId(id) { return id.slice(0, 10); }

function drawPerson(cell, row) {
  const name = row.name || shortId(row.id);
  const facts = row.faces > 1 ? `similarity ${number(row.mean)}, least ${number(row.weakest)}` : "";
  cell.setAttribute("aria-label", `${name}, ${count(row.faces, "face")}${row.locked ? ", locked" : ""}`);
  const tags = [row.locked && "locked", row.doubtful && "doubtful", row.split].filter(Boolean);
  cell.append(
    make("img", { src: `/thumbnail/${row.best}.webp`, alt: "", loading: "lazy", draggable: "false" }),
    make("div", { class: "tags" }, ...tags.map((tag) => make("span", { class: "tag", text: tag }))),
    make("div", { class: "text" }, make("b", { text: name }), make("span", { text: count(row.faces, "face") }),
      make("span", { text: facts })),
  );
}

function parameters(form) {
  return new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
}

function startPeople(root) {
  const form = document.getElementById("filters");
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  const grid = new Grid(root, {
    label: "People", draw: drawPerson,
    source: (start, rows) => `${root.dataset.source}?${parameters(form)}&start=${start}&count=${rows}`,
    open: (row) => { location.href = `/person/${row.id}`; },
  });
  root.addEventListener("rows", (event) => {
    document.getElementById("total").textContent = event.detail.total.toLocaleString("en");
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  let timer = 0;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const words = String(parameters(form));
      history.replaceState(null, "", words ? `?${words}` : location.pathname);
      grid.reload(false);
    }, 150);
  });
  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { form.elements.search.focus(); event.preventDefault(); } else if (grid.key(event)) event.preventDefault();
  });
  grid.reload(false);
}

const grid = document.getElementById("grid");
if (grid && grid.dataset.kind === "person") startPeople(grid);
