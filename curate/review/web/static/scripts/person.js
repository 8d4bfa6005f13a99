/* The page of a person. Needs review.js and grid.js. */
"use strict";

function drawFace(cell, row) {
  const alike = row.confidence === null ? "" : `alike ${twoPlaces(row.confidence)}`;
  cell.setAttribute("aria-label", `Face, ${row.pixels} pixels, ${alike || "not compared yet"}, ${row.file}`);
  cell.classList.toggle("stack", row.copies > 0);
  const picture = row.has_crop
    ? make("img", { src: `/thumbnail/${row.id}.webp`, alt: "", loading: "lazy", draggable: "false" })
    : make("div", { class: "missing", text: "no crop" });
  const tags = [`${row.pixels} px`, `sharp ${twoPlaces(row.sharpness)}`, row.copies && `+${row.copies}`].filter(Boolean);
  const fresh = row.joined ? [make("span", { class: "tag new", text: "joined" })] : [];
  cell.append(
    picture,
    make("div", { class: "tags" }, ...fresh, ...tags.map((tag) => make("span", { class: "tag", text: tag }))),
    make("span", { class: "pick", title: "Select" }),
    make("div", { class: "text" }, make("b", { text: alike || "decided" }), make("span", { text: row.file })),
  );
}

(function startPerson() {
  const root = document.getElementById("grid"), form = document.getElementById("filters");
  const dock = document.getElementById("dock"), person = root.dataset.person;
  const grid = new Grid(root, {
    label: "Faces", draw: drawFace, extraHeight: 46,
    source: (start, rows) => `${root.dataset.source}?${parameters(form)}&start=${start}&count=${rows}`,
    open: (row, index) => viewer.show(index),
  });
  const back = document.getElementById("back");
  let row = null;
  rememberForm(form, () => { grid.select([]); grid.reload(false); });
  root.addEventListener("rows", (event) => {
    document.getElementById("total").textContent = event.detail.total.toLocaleString("en");
    document.getElementById("empty").hidden = event.detail.total > 0;
    showPerson(event.detail.person);
    showDock();
  });
  root.addEventListener("selection", () => {
    showDock();
    if (viewer.isOpen()) viewer.showPick();
  });

  function showDock() {
    dock.hidden = !grid.selected.size;
    dock.querySelector(".chosen").textContent = `${count(grid.selected.size, "face")} of ${row ? row.faces : ""}`;
  }

  function showPerson(news) {
    const isNew = !row || row.faces !== news.faces;
    row = news;
    document.getElementById("name").textContent = row.name || shortId(row.id);
    document.title = document.title.replace(/^.*? – /, `${row.name || shortId(row.id)} – `);
    const facts = [
      count(row.faces, "face"), `alike ${twoPlaces(row.mean)}`, `least ${twoPlaces(row.weakest)}`,
      row.locked && "locked", row.doubtful && "doubtful", row.split && `split ${row.split}`, `id ${row.id}`,
    ].filter(Boolean);
    document.getElementById("facts").replaceChildren(...facts.flatMap((fact, place) => [place ? " · " : "", make("span", { text: fact })]));
    document.querySelector(".head [data-act=seen]").hidden = !row.joined;
    document.querySelector(".head [data-act=two]").disabled = row.faces < 3;
    document.getElementById("split").value = row.assigned || "";
    document.getElementById("consent").value = row.consent.value;
    document.getElementById("consent-title").textContent = row.consent.photos === 1 ? "Consent for the photo of this person"
      : `Consent for all ${row.consent.photos.toLocaleString("en")} photos of this person`;
    if (isNew) showClosest();
  }

  async function showClosest() {
    let rows = [];
    try { ({ rows } = await request(`/api/people/${person}/closest`)); } catch { return; }
    const section = document.getElementById("closest");
    section.hidden = !rows.length;
    section.querySelector(".strip").replaceChildren(...rows.map((one) => {
      const name = one.name || shortId(one.id);
      return make("div", { class: "near" },
        make("a", { href: `/person/${one.id}` }, make("img", { src: `/thumbnail/${one.best}.webp`, alt: "" }),
          make("b", { text: name })),
        make("span", { class: "quiet", text: count(one.faces, "face") }),
        make("span", { class: "quiet", text: `alike ${twoPlaces(one.cosine)}` }),
        make("button", { type: "button", text: "Same person", "aria-label": `${name} is the same person`,
          onclick: () => merge(one) }));
    }));
  }

  /* After a change of the dataset, the person may have another id, or may not exist any more. */
  document.addEventListener("change", async () => {
    try {
      await request(`/api/people/${person}`);
      await grid.reload();
      await viewer.refresh();
    } catch (error) {
      say(error.message, true);
      if (!(error instanceof NoAnswer)) setTimeout(() => { location.href = "/"; }, 1500);
    }
  });

  function targets() {
    const current = grid.current();
    const hasFocus = grid.hasFocus() || viewer.isOpen();
    return grid.selected.size ? [...grid.selected] : current && hasFocus ? [current.id] : [];
  }

  async function perform(body) {
    const chosen = [...grid.selected];
    const answer = await act(body);
    if (!answer) return;
    viewer.close();
    grid.unselect(chosen);
    if (grid.total) grid.focus(grid.focusIndex);
  }

  /* The user must confirm an act on more than MANY faces. */
  const MANY = 1;
  async function confirmed(faces, title, text, yes) {
    if (!faces.length) { say("Select faces first.", true); return false; }
    return faces.length <= MANY || await ask({ title, text: `${count(faces.length, "face")} ${text}`, yes });
  }

  async function merge(other) {
    const answer = await act({ requests: [{ kind: "merge", sides: [person, other.id] }] });
    if (!answer) return;
    try { await request(`/api/people/${person}`); } catch { location.href = `/person/${other.id}`; }
  }

  const acts = {
    async split() {
      const faces = targets();
      if (!await confirmed(faces, "New person?", "become one new person.", "New person")) return;
      await perform({ requests: [{ kind: "split", faces }] });
    },
    async out() {
      const faces = targets();
      const text = "leave this person. Each face becomes a person of its own.";
      if (!await confirmed(faces, "Not this person?", text, "Not this person")) return;
      await perform({ requests: faces.map((face) => ({ kind: "split", faces: [face] })) });
    },
    async move() {
      const faces = targets();
      if (!faces.length) { say("Select faces first.", true); return; }
      const other = await choosePerson(`Move ${count(faces.length, "face")} to …`, [person], faces);
      if (other) await perform({ requests: [{ kind: "move", faces, to: other.id }] });
    },
    async drop() {
      const faces = targets();
      if (!faces.length) { say("Select faces first.", true); return; }
      const drop = await askDrop(faces);
      if (drop) await perform({ requests: [drop] });
    },
    async merge() {
      const other = await choosePerson("Merge with …", [person]);
      if (other) await merge(other);
    },
    async rename() {
      const name = await ask({ title: "Name the person", label: "Name", value: row.name || "", yes: "Name" });
      if (name) await perform({ requests: [{ kind: "rename", faces: [person], name }] });
    },
    async lock() { await perform({ requests: [{ kind: "lock", faces: [person] }] }); },
    async two() {
      const { faces } = await request(`/api/people/${person}/two`);
      if (!faces.length) { say("No second person can be proposed."); return; }
      grid.select(faces);
      grid.focus(Math.max(0, grid.rows.findIndex((one) => one && faces.includes(one.id))));
      say(`${count(faces.length, "face")} may show another person. “New person” makes a new person of these faces.`);
    },
    seen() { act({ act: "seen", person }); },
    clear() { if (grid.selected.size) grid.select([]); else location.href = back.href; },
  };
  for (const bar of [dock, document.querySelector(".head")]) {
    bar.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      if (button) acts[button.dataset.act]();
    });
  }

  document.getElementById("split").addEventListener("change", async (event) => {
    if (event.target.value) await act({ requests: [{ kind: "assign", faces: [person], split: event.target.value }] });
    else say("To let Likeness choose the split again, undo the decision.", true);
    event.target.value = row.assigned || "";
  });

  watchConsent(document.getElementById("consent"), () => ({
    photos: [person], value: row.consent.value, several: row.consent.photos, others: row.consent.others,
  }), () => {});

  /* --- the dialog with one face --- */

  const viewer = {
    box: document.getElementById("face"),
    face: null, // the id of the face that the dialog shows
    consent: null, // the consent for the photo of this face, or null until the server has answered
    turn: 0, // counts the calls of `show`, so that only the answer to the newest call is shown
    isOpen() { return this.box.open; },
    close() { if (this.box.open) this.box.close(); },
    async show(index) {
      await grid.fetchPart(Math.floor(index / PART));
      const face = grid.rows[index];
      if (!face) return;
      grid.focusIndex = index;
      if (!this.box.open || face.id !== this.face) {
        this.face = face.id;
        this.consent = null;
        photoConsent.disabled = true;
      }
      this.turn += 1;
      const turn = this.turn;
      if (!this.box.open) this.box.showModal();
      document.getElementById("face-title").textContent = `Face ${index + 1} of ${grid.total}`;
      document.getElementById("face-crop").src = `/crop/${face.id}.webp`;
      document.getElementById("face-source").src = `/source/${face.id}.webp`;
      document.getElementById("face-previous").disabled = index === 0;
      document.getElementById("face-next").disabled = index === grid.total - 1;
      this.showPick();
      let facts;
      try { facts = await request(`/api/faces/${face.id}`); } catch (error) { say(error.message, true); return; }
      if (turn !== this.turn) return;
      const gone = facts.is_gone ? " The photo is gone or was moved since the curation." : "";
      document.getElementById("face-path").textContent = `${facts.path}${gone}`;
      document.getElementById("face-source").alt = facts.is_gone ? "The photo is gone" : "The photo, with a frame around the face";
      this.consent = { photos: [face.id], ...facts.consent };
      photoConsent.value = facts.consent.value;
      photoConsent.disabled = false;
      document.getElementById("face-why").textContent = `Why the face is here: ${facts.why}`;
      this.showClosest(facts);
      document.getElementById("face-numbers").replaceChildren(...facts.numbers.map(([title, value]) =>
        make("div", {}, make("dt", { text: title }), make("dd", { text: value }))));
      const copies = document.getElementById("face-copies");
      copies.hidden = !facts.copies.length;
      copies.querySelector(".strip").replaceChildren(...facts.copies.map((copy) => make("div", { class: "near" },
        make("img", { src: `/thumbnail/${copy.id}.webp`, alt: "" }), make("span", { text: copy.file }))));
    },
    /* Says which other person the face is most like. */
    showClosest({ closest, own }) {
      const line = document.getElementById("face-closest");
      line.hidden = !closest;
      if (!closest) return;
      const here = own === null ? "" : `, this person ${twoPlaces(own)}`;
      line.replaceChildren("Most like: ", make("a", { href: `/person/${closest.id}`, text: closest.name || shortId(closest.id) }),
        ` (cosine ${twoPlaces(closest.cosine)}${here})`);
    },
    /* Shows the face again after the dataset has changed. If the face has left the person, the dialog closes. */
    async refresh() {
      if (!this.box.open) return;
      await grid.fetchPart(Math.floor(grid.focusIndex / PART));
      const index = grid.rows.findIndex((one) => one && one.id === this.face);
      if (index >= 0) await this.show(index);
      else if (!grid.stale) this.close(); // while the grid still loads its rows, the dialog stays open until the next call of `refresh`
    },
    showPick() {
      const face = grid.current();
      document.getElementById("face-pick").firstChild.textContent = face && grid.selected.has(face.id) ? "Unselect " : "Select ";
    },
    step(by) {
      const index = grid.focusIndex + by;
      if (index >= 0 && index < grid.total) this.show(index);
    },
  };
  document.getElementById("face-previous").addEventListener("click", () => viewer.step(-1));
  document.getElementById("face-next").addEventListener("click", () => viewer.step(1));
  document.getElementById("face-pick").addEventListener("click", () => grid.toggle(grid.focusIndex));
  const photoConsent = document.getElementById("face-consent");
  watchConsent(photoConsent, () => viewer.consent, (chosen) => {
    if (REFUSALS.includes(chosen)) viewer.close();
  });
  document.getElementById("face-close").addEventListener("click", () => viewer.close());
  viewer.box.addEventListener("close", () => { if (grid.total) grid.focus(grid.focusIndex); });

  const keys = { s: "split", o: "out", v: "move", d: "drop", m: "merge", n: "rename", l: "lock" };
  const steps = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || hasModifier(event)) return;
    if (keys[event.key]) acts[keys[event.key]]();
    else if (viewer.isOpen()) {
      if (steps[event.key]) viewer.step(steps[event.key]);
      else if (event.key === "x") grid.toggle(grid.focusIndex);
      else return;
    } else if (event.key === "a") grid.selectAll();
    else if (event.key === "Escape") acts.clear();
    else if (!grid.key(event)) return;
    event.preventDefault();
  });
  /* The page Questions opens this page after the answer "mixed". The proposed faces are then selected at once. */
  const isMixed = new URLSearchParams(location.search).has("mixed");
  if (isMixed) { back.href = "/ask"; back.textContent = "← Questions"; }
  grid.reload(false).then(() => { if (isMixed) acts.two(); });
})();
