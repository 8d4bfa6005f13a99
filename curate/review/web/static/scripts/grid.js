/* A grid of any length: only the visible cells are in the document. Needs review.js. */
"use strict";

const PART = 100; // number of rows in one request (ours)

class Grid {
  /* A row describes one face or one other thing, as the server sends it. `source(start, count)` returns the path of a
     request for rows. `draw(cell, row)` shows the row in a cell. */
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

  /* Reads the rows again. Selected rows that still exist stay selected. The focus stays on its row.
     If the row of the focus does not exist any more, the focus goes to the row that takes its place. */
  async reload(keepPlace = true) {
    this.generation += 1;
    const generation = this.generation;
    this.parts.clear();
    this.stale ||= this.rows; // the rows on the screen; an earlier call that still waits for its rows has already set them
    this.rows = [];
    if (!keepPlace) { this.focusIndex = 0; scrollTo(0, 0); }
    const places = keepPlace ? [this.firstVisible(), this.focusIndex] : [0];
    await Promise.all(places.map((place) => this.fetchPart(Math.floor(place / PART))));
    if (generation !== this.generation) return;
    const hadFocus = this.hasFocus();
    this.anchor = keepPlace ? this.follow(this.anchor) : 0;
    this.focusIndex = keepPlace ? this.follow(this.focusIndex) : 0;
    this.stale = null;
    this.layout();
    if (hadFocus) this.cells.get(this.focusIndex)?.focus({ preventScroll: true });
  }

  /* Returns the new index of the row that was at an index before the rows were read again. */
  follow(index) {
    const old = this.stale[index];
    const found = old ? this.rows.findIndex((row) => row && row.id === old.id) : -1;
    return found >= 0 ? found : Math.max(0, Math.min(index, this.total - 1));
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
    if (this.hasFocus() && this.focusIndex < this.total) wanted.add(this.focusIndex); // the cell with the focus must stay in the document
    for (const [index, cell] of this.cells) if (!wanted.has(index)) { cell.remove(); this.cells.delete(index); }
    let previous = null;
    for (const index of [...wanted].sort((a, b) => a - b)) {
      if (!this.rows[index]) this.fetchPart(Math.floor(index / PART));
      const row = this.rows[index] || this.stale?.[index]; // the old rows stay until the new rows are there
      let cell = this.cells.get(index);
      if (!cell) {
        cell = make("div", { class: "cell", role: "option", tabindex: -1, "data-index": index });
        this.cells.set(index, cell);
      }
      if (again || cell.row !== row) this.fill(cell, index, row);
      // screen readers need the cells in the order of the screen
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
    if (row && cell.row !== row) { cell.replaceChildren(); cell.dataset.id = row.id; this.draw(cell, row); }
    cell.row = row;
  }

  hasFocus() { return this.root.contains(document.activeElement); }

  /* Returns the row that the user sees at an index. While the rows are read again, the cells still show the old rows. */
  rowAt(index) { return this.cells.get(index)?.row || this.rows[index]; }

  current() { return this.rowAt(this.focusIndex); }

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

  /* Takes the rows of an act out of the selection. Rows that the user selected while the server worked stay selected. */
  unselect(ids) {
    const gone = new Set(ids);
    this.select([...this.selected].filter((id) => !gone.has(id)));
  }

  toggle(index) {
    const row = this.rowAt(index);
    if (!row) return;
    const ids = new Set(this.selected);
    if (!ids.delete(row.id)) ids.add(row.id);
    this.anchor = index;
    this.select(ids);
  }

  /* Selects all rows, including rows that are not read yet. */
  async selectAll() {
    if (!this.total) return;
    this.anchor = 0;
    await this.selectRange(this.total - 1);
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

  /* Performs the act of a key. Returns true if the key has an act in the grid. */
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
