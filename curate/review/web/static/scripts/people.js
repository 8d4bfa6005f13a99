/* The page of all people. Needs review.js and grid.js. */
"use strict";

function drawPerson(cell, row) {
  const name = row.name || shortId(row.id);
  const facts = row.faces > 1 ? `alike ${twoPlaces(row.mean)}, least ${twoPlaces(row.weakest)}` : "";
  cell.setAttribute("aria-label", `${name}, ${count(row.faces, "face")}${row.locked ? ", locked" : ""}`);
  const tags = [row.locked && "locked", row.doubtful && "doubtful", row.split].filter(Boolean);
  const fresh = row.joined ? [make("span", { class: "tag new", text: `${row.joined} joined` })] : [];
  cell.append(
    make("img", { src: `/thumbnail/${row.best}.webp`, alt: "", loading: "lazy", draggable: "false" }),
    make("div", { class: "tags" }, ...fresh, ...tags.map((tag) => make("span", { class: "tag", text: tag }))),
    make("span", { class: "pick", title: "Select" }),
    make("div", { class: "text" }, make("b", { text: name }), make("span", { text: count(row.faces, "face") }),
      make("span", { text: facts, title: "The mean similarity of the faces, and the similarity of the least typical face" })),
  );
}

(function startPeople() {
  const root = document.getElementById("grid"), form = document.getElementById("filters");
  const dock = document.getElementById("dock"), seen = document.getElementById("seen");
  const grid = new Grid(root, {
    label: "People", draw: drawPerson, extraHeight: 66,
    source: (start, rows) => `${root.dataset.source}?${parameters(form)}&start=${start}&count=${rows}`,
    open: (row) => { location.href = `/person/${row.id}${form.elements.show.value === "joined" ? "?show=joined" : ""}`; },
  });
  rememberForm(form, () => { grid.select([]); grid.reload(false); });
  root.addEventListener("rows", (event) => {
    document.getElementById("total").textContent = event.detail.total.toLocaleString("en");
    document.getElementById("empty").hidden = event.detail.total > 0;
    seen.hidden = !event.detail.state.joined;
    seen.textContent = `Mark ${count(event.detail.state.joined, "joined face")} as seen`;
  });
  root.addEventListener("selection", () => {
    dock.hidden = !grid.selected.size;
    dock.querySelector(".chosen").textContent = count(grid.selected.size, "person", "people");
    dock.querySelector("[data-act=merge]").disabled = grid.selected.size < 2;
    dock.querySelector("[data-act=rename]").disabled = grid.selected.size !== 1;
  });
  document.addEventListener("change", () => grid.reload());
  seen.addEventListener("click", () => act({ act: "seen" }));

  /* Returns the people whom an act changes: the selected people, or else the person with the focus. */
  function targets() {
    const row = grid.current();
    return grid.selected.size ? [...grid.selected] : row && grid.hasFocus() ? [row.id] : [];
  }

  async function perform(body) {
    const chosen = [...grid.selected];
    const answer = await act(body);
    if (answer) { grid.unselect(chosen); grid.focus(grid.focusIndex); }
  }

  const acts = {
    async merge() {
      const people = targets();
      if (people.length < 2) { say("Select two people or more, then merge them.", true); return; }
      const rows = grid.rows.filter((row) => row && grid.selected.has(row.id));
      const faces = rows.reduce((sum, row) => sum + row.faces, 0);
      const text = `${count(people.length, "person", "people")} with ${count(faces, "face")} become one person.`;
      if (people.length > 2 && !await ask({ title: "Merge?", text, yes: "Merge" })) return;
      await perform({ requests: [{ kind: "merge", sides: people }] });
    },
    async rename() {
      const [person, ...more] = targets();
      if (!person || more.length) { say("Select one person, then give the name.", true); return; }
      const row = grid.rows.find((one) => one && one.id === person);
      const name = await ask({ title: "Name the person", label: "Name", value: (row && row.name) || "", yes: "Name" });
      if (name) await perform({ requests: [{ kind: "rename", faces: [person], name }] });
    },
    async lock() {
      const people = targets();
      if (!people.length) { say("Select a person, then lock the person.", true); return; }
      if (people.length > 1 && !await ask({ title: "Lock?", text: `${people.length} people are locked.`, yes: "Lock" })) return;
      await perform({ requests: people.map((person) => ({ kind: "lock", faces: [person] })) });
    },
    clear() { grid.select([]); },
  };
  dock.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) acts[button.dataset.act]();
  });
  const keys = { m: acts.merge, n: acts.rename, l: acts.lock, Escape: acts.clear };
  document.addEventListener("keydown", (event) => {
    if (isTyping(event)) { if (event.key === "Escape") event.target.blur(); return; }
    if (hasModifier(event)) return;
    if (event.key === "/") form.elements.search.focus();
    else if (event.key === "a") grid.selectAll();
    else if (keys[event.key]) keys[event.key]();
    else if (!grid.key(event)) return;
    event.preventDefault();
  });
  grid.reload(false);
})();
