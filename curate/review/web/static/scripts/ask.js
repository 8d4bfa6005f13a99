/* Shows one question after the other. An answer is recorded at once, and the next question follows. */
"use strict";

let question = null, isBusy = false, turn = 0;

function makeSide(side, isFace) {
  const faces = side.faces.map((face) => make("img", {
    src: `/${face.has_crop ? (isFace ? "crop" : "thumbnail") : "source"}/${face.id}.webp`, loading: "lazy",
    alt: `Face in ${face.file || "a photo that is gone"}`, title: `${face.file}, ${face.pixels} px`,
    width: 200, height: 200,
  }));
  const more = side.count - side.faces.length;
  return make("section", { class: isFace ? "side one" : "side" },
    make("h2", {}, make("a", { href: `/person/${side.person}`, text: side.name || shortId(side.person) }),
      make("span", { class: "count", text: ` ${count(side.count, "face")}` })),
    make("div", { class: "faces" }, ...faces),
    make("p", { class: "quiet", text: more ? `and ${count(more, "more face")}` : "" }));
}

function show(answer) {
  question = answer.question;
  document.getElementById("waiting").hidden = true;
  for (const id of ["sides", "reason", "answers"]) document.getElementById(id).hidden = !question;
  document.getElementById("remaining").textContent = answer.likely
    ? `about ${count(answer.likely, "answer")} until no error is likely`
    : "no error is likely any more";
  const title = document.getElementById("question");
  if (!question) {
    title.textContent = "No question is left";
    return;
  }
  title.textContent = question.title;
  document.getElementById("sides").dataset.question = question.id;
  document.getElementById("sides").replaceChildren(...question.sides.map((side) => makeSide(side, side.count === 1)));
  const chance = question.probability < 0.01 ? "less than 1%" : `about ${Math.round(100 * question.probability)}%`;
  document.getElementById("reason").textContent = `The present grouping is wrong here with a probability of ${chance}. `
    + `The answer applies to ${count(question.pairs, "pair")} of faces. Yes: ${question.yes} No: ${question.no} `
    + `Mixed: ${question.mixed}`;
  for (const button of document.querySelectorAll("#answers button")) button.disabled = !state.can_write && !["mixed", "skip"].includes(button.dataset.answer);
}

async function load() {
  turn += 1;
  const own = turn;
  try {
    const answer = await request("/api/ask");
    if (own === turn) show(answer);
  } catch (error) {
    say(error.message, true);
  }
}

async function reply(word) {
  if (!question || isBusy) return;
  isBusy = true;
  turn += 1;
  try {
    const answer = await request("/api/ask", { question: question.id, answer: word });
    if (answer.notices.length) say(answer.notices.join(" "));
    if (!answer.open) { show(answer); return; }
    question = null; // without a question, keys do nothing until the page of the person opens
    location.href = `/person/${answer.open}?mixed=1`;
  } catch (error) {
    say(error.message, true);
    await load();
  } finally {
    isBusy = false;
  }
}

document.getElementById("answers").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) reply(button.dataset.answer);
});
document.addEventListener("keydown", (event) => {
  const word = { y: "yes", n: "no", m: "mixed", s: "skip" }[event.key];
  if (!word || isTyping(event) || hasModifier(event) || event.repeat) return;
  event.preventDefault();
  reply(word);
});
document.addEventListener("change", (event) => { if (event instanceof CustomEvent && !isBusy) load(); });
load();
