/* What all pages share: requests, the state of the session, messages, dialogs, undo and redo.
   Every text is set with textContent, so a name with HTML in it stays text. */
"use strict";

/* --- requests --- */

/* The error of a request if the server does not answer. */
class NoAnswer extends Error {}

async function request(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new NoAnswer("The review does not answer. The command `likeness review` may have ended.");
    }
    const isJson = (answer.headers.get("Content-Type") || "").startsWith("application/json");
    const value = isJson ? await answer.json() : { error: await answer.text() };
    if (value.again) { // the server is applying decisions, so the request is sent again after a second
      say(value.error);
      await new Promise((done) => { setTimeout(done, 1000); });
      continue;
    }
    if (!answer.ok) throw new Error(value.error || `The request failed with the status ${answer.status}.`);
    if (value.state) showState(value.state);
    return value;
  }
}

/* --- the state of the session --- */

// The revision of the state that the page shows.
// The page contains this number, because an act can come before the first answer of /api/state.
let revision = Number(document.body.dataset.revision);
const state = { can_write: true };

function showState(news) {
  Object.assign(state, news);
  const notice = document.getElementById("notice");
  notice.hidden = !state.notice;
  if (notice.textContent !== state.notice) notice.textContent = state.notice;
  const unapplied = document.getElementById("unapplied");
  unapplied.hidden = !state.unapplied;
  const sentence = state.applying ? `Applying ${count(state.unapplied, "decision")} …`
    : `${count(state.unapplied, "decision")} not yet applied. All decisions are recorded.`;
  const text = unapplied.querySelector("span");
  if (text.textContent !== sentence) text.textContent = sentence;
  document.getElementById("apply").disabled = state.applying;
  for (const name of ["undo", "redo"]) {
    const button = document.getElementById(name);
    button.disabled = !state[name] || !state.can_write;
    button.title = state[name] ? `${name}: ${state[name]}` : "";
  }
  const isNew = revision !== state.revision;
  revision = state.revision;
  if (isNew) document.dispatchEvent(new CustomEvent("change"));
}

async function look() {
  try { await request("/api/state"); } catch (error) { say(error.message, true); }
}
setInterval(() => { if (!document.hidden && (state.applying || state.unapplied || document.hasFocus())) look(); }, 3000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

/* Performs an act, and says what happened. Returns the answer, or null after an error. */
async function act(body) {
  try {
    const answer = await request("/api/act", body);
    say([answer.sentence, ...answer.notices].join(" "));
    return answer;
  } catch (error) {
    say(error.message, true);
    if (!(error instanceof NoAnswer)) document.dispatchEvent(new CustomEvent("change"));
    return null;
  }
}

/* --- messages --- */

let messageTimer = 0;
function say(sentence, isBad = false) {
  const box = document.getElementById("message");
  const dialog = document.querySelector("dialog[open]");
  (dialog || document.body).append(box); // a modal dialog would cover a message outside the dialog
  box.textContent = sentence;
  box.classList.toggle("bad", isBad);
  const dock = dialog ? null : document.querySelector(".dock:not([hidden])");
  box.style.bottom = dock ? `${dock.offsetHeight + 12}px` : ""; // the message must not cover the buttons of the dock
  box.hidden = false;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { box.hidden = true; }, isBad ? 12000 : 5000);
}

/* --- small helpers --- */

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

/* Returns a number with two decimal places, such as .50, -.25 and 1.00. There is no -.00. */
function twoPlaces(value) { return value.toFixed(2).replace("-0.00", "0.00").replace(/^(-?)0\./, "$1."); }

function shortId(id) { return id.slice(0, 10); }

function parameters(form) {
  return new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
}

/* Keeps the values of the form in the address of the page, and calls `change` after each change of a value. */
function rememberForm(form, change) {
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const words = String(parameters(form));
      history.replaceState(null, "", words ? `?${words}` : location.pathname);
      change();
    }, 150);
  });
}

/* --- dialogs --- */

/* With a `label`, asks for a text, and resolves to the text. `suggestions` are texts that the field offers.
   Without a `label`, asks for a confirmation, and resolves to true. After Cancel, resolves to null. */
function ask({ title, text = "", label = "", value = "", yes = "OK", suggestions = [] }) {
  const dialog = document.getElementById("ask"), input = document.getElementById("ask-input");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-text").textContent = text;
  document.getElementById("ask-text").hidden = !text;
  document.getElementById("ask-label").hidden = !label;
  document.querySelector("#ask-label span").textContent = label;
  document.getElementById("ask-yes").textContent = yes;
  input.value = value;
  if (suggestions.length) input.setAttribute("list", "ask-suggestions");
  else input.removeAttribute("list");
  document.getElementById("ask-suggestions").replaceChildren(...suggestions.map((one) => make("option", { value: one })));
  dialog.returnValue = "no";
  dialog.showModal();
  (label ? input : document.getElementById("ask-yes")).focus();
  input.select();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      done(dialog.returnValue === "yes" ? (label ? input.value.trim() : true) : null);
    }, { once: true });
  });
}

/* Asks why faces are dropped. Resolves to the request of the drop, or to null after Cancel. */
async function askDrop(faces) {
  const reason = await ask({
    title: "Drop?", text: `${count(faces.length, "face")} ${faces.length === 1 ? "is" : "are"} taken out of use.`,
    label: "Why? (optional)", yes: "Drop",
    suggestions: ["not a face", "drawing or statue", "too blurred to tell", "not for publication"],
  });
  if (reason === null) return null;
  return { kind: "drop", faces, ...(reason && { reason }) };
}

/* Lets the user choose a person who is not in `without`. The people who are most similar to `faces` come first.
   Without faces, the people who are most similar to the first person of `without` come first.
   Resolves to the row of the chosen person, or to null after Cancel. */
function choosePerson(title, without = [], faces = []) {
  const dialog = document.getElementById("choose"), input = document.getElementById("choose-input");
  const list = document.getElementById("choose-list");
  document.getElementById("choose-title").textContent = title;
  input.value = "";
  let chosen = null, turn = 0, shown = null;
  const show = async () => {
    turn += 1;
    const own = turn, search = input.value, words = new URLSearchParams({ search, count: 30 });
    const path = search || !without.length ? `/api/people?${words}` : `/api/people/${without[0]}/closest`;
    let rows = [];
    try {
      ({ rows } = await (faces.length ? request("/api/similar", { faces, without, search }) : request(path)));
    } catch (error) { say(error.message, true); }
    if (own !== turn) return;
    list.replaceChildren(...rows.filter((row) => !without.includes(row.id)).map((row) => make("button", {
      type: "button", onclick: () => { chosen = row; dialog.close(); },
    }, make("img", { src: `/thumbnail/${row.best}.webp`, alt: "" }),
    make("span", { text: `${row.name || shortId(row.id)}, ${count(row.faces, "face")}` }),
    make("span", { class: "cosine", text: row.cosine === undefined ? "" : `cosine ${twoPlaces(row.cosine)}` }))));
  };
  const onKey = (event) => {
    const buttons = [...list.children], place = buttons.indexOf(document.activeElement);
    if (event.key === "ArrowDown") buttons[Math.min(place + 1, buttons.length - 1)]?.focus();
    else if (event.key === "ArrowUp") (place > 0 ? buttons[place - 1] : input).focus();
    // the list may still show the people for the text before the last letter
    else if (event.key === "Enter" && event.target === input) shown.then(() => list.firstElementChild?.click());
    else return;
    event.preventDefault();
  };
  input.oninput = () => { shown = show(); };
  dialog.onkeydown = onKey;
  document.getElementById("choose-close").onclick = () => dialog.close();
  list.replaceChildren();
  dialog.showModal();
  input.focus();
  shown = show();
  return new Promise((done) => { dialog.addEventListener("close", () => done(chosen), { once: true }); });
}

/* --- keys and buttons of all pages --- */

function isTyping(event) {
  if (document.querySelector("dialog[open]:not(.face)")) return true;
  return Boolean(event.target.closest && event.target.closest("input, select, textarea, [contenteditable]"));
}

function hasModifier(event) { return event.ctrlKey || event.metaKey || event.altKey; }

document.getElementById("undo").addEventListener("click", () => act({ act: "undo" }));
document.getElementById("redo").addEventListener("click", () => act({ act: "redo" }));
document.getElementById("apply").addEventListener("click", () => act({ act: "apply" }));
document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if (isUndo) act({ act: event.shiftKey ? "redo" : "undo" });
  else if (hasModifier(event)) return;
  else if (event.key === "u") act({ act: "undo" });
  else if (event.key === "U") act({ act: "redo" });
  else if (event.key === "?") document.getElementById("help").showModal();
  else return;
  event.preventDefault();
});
look();
