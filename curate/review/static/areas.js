/* What several areas need: waiting for work in the background. */
"use strict";

/* Asks `path` until the work is done, and shows in `box` how far it is. Returns the answer of the finished work.
   `box` has a paragraph and a progress bar. */
async function waitForWork(path, box) {
  const text = box.querySelector("p"), bar = box.querySelector("progress");
  for (;;) {
    const answer = await request(path);
    if (answer.work === "done") return answer;
    if (answer.work !== "running") throw new Error(answer.problem || "The work did not start. Load the page again.");
    if (answer.step && text.textContent !== `${answer.step}.`) text.textContent = `${answer.step}.`;
    bar.value = answer.share;
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

function makeProgress(label) {
  return make("div", { class: "progress" }, make("p", { role: "status", text: label }), make("progress", { max: 1, value: 0, "aria-label": label }));
}
