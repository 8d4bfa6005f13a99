/* The page of the faces that a lasso on the map selected. Needs review.js and grid.js. */
"use strict";

function drawSelectedFace(cell, row) {
  const person = row.person ? row.title || shortId(row.person) : "no person";
  cell.setAttribute("aria-label", `Face of ${person}, ${row.pixels} pixels, ${row.file}`);
  const picture = row.has_crop
    ? make("img", { src: `/thumbnail/${row.id}.webp`, alt: "", loading: "lazy", draggable: "false" })
    : make("div", { class: "missing", text: "no crop" });
  cell.append(
    picture,
    make("div", { class: "tags" }, make("span", { class: "tag", text: `${row.pixels} px` })),
    make("span", { class: "pick", title: "Select" }),
    make("div", { class: "text" }, make("b", { text: person }), make("span", { text: row.file })),
  );
}

(function startSelection() {
  const root = document.getElementById("grid"), dock = document.getElementById("dock");
  const grid = new Grid(root, {
    label: "Selected faces", draw: drawSelectedFace, extraHeight: 46,
    source: (start, rows) => `${root.dataset.source}&start=${start}&count=${rows}`,
    open: (row) => { if (row.person) location.href = `/person/${row.person}`; },
  });
  root.addEventListener("rows", (event) => {
    document.getElementById("total").textContent = `${count(event.detail.total, "face")} of ${count(event.detail.people, "person", "people")}`;
    document.getElementById("empty").hidden = event.detail.total > 0;
  });
  root.addEventListener("selection", () => {
    dock.hidden = !grid.selected.size;
    dock.querySelector(".chosen").textContent = `${count(grid.selected.size, "face")} chosen`;
  });
  document.addEventListener("change", () => grid.reload());

  function targets() {
    const row = grid.current();
    return grid.selected.size ? [...grid.selected] : row && grid.hasFocus() ? [row.id] : [];
  }

  /* Records the requests that `make_requests(faces)` resolves to. `make_requests` resolves to null if the user cancels. */
  async function perform(make_requests) {
    const faces = targets();
    if (!faces.length) { say("Choose faces first.", true); return; }
    const requests = await make_requests(faces);
    if (!requests) return;
    const chosen = [...grid.selected];
    if (!await act({ requests })) return;
    grid.unselect(chosen);
    if (grid.total) grid.focus(grid.focusIndex);
  }

  const acts = {
    async move() {
      const faces = targets();
      if (!faces.length) { say("Choose faces first.", true); return; }
      const other = await choosePerson(`Move ${count(faces.length, "face")} to …`, [], faces);
      if (!other) return;
      if (await act({ requests: [{ kind: "move", faces, to: other.id }] })) grid.unselect(faces);
    },
    out() {
      const title = "Not this person";
      return perform(async (faces) => {
        const text = `${count(faces.length, "face")} leave their people. Each face becomes a person of its own.`;
        if (faces.length > 1 && !await ask({ title: `${title}?`, text, yes: title })) return null; // for one face, the user need not confirm
        return faces.map((face) => ({ kind: "split", faces: [face] }));
      });
    },
    drop() {
      return perform(async (faces) => {
        const drop = await askDrop(faces);
        return drop && [drop];
      });
    },
    clear() { if (grid.selected.size) grid.select([]); else location.href = "/map"; },
  };
  dock.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) acts[button.dataset.act]();
  });
  const keys = { v: "move", o: "out", d: "drop" };
  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || hasModifier(event)) return;
    if (keys[event.key]) acts[keys[event.key]]();
    else if (event.key === "a") grid.selectAll();
    else if (event.key === "Escape") acts.clear();
    else if (!grid.key(event)) return;
    event.preventDefault();
  });
  grid.reload(false);
})();
