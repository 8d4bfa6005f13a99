/* What several areas need: buttons that record a decision, and waiting for work in the background. */
"use strict";

/* A click on a button with the attribute data-done performs the act in the attribute data-act.
   If the button has the attribute data-ask, the user must first confirm the sentence in this attribute.
   After the act, the button has the text of data-done. If an element of the class `then` follows, it is shown. */
let isOwnAct = false;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-done]");
  if (!button) return;
  const { act: body, ask: sentence, done } = button.dataset;
  if (sentence && !await ask({ title: button.textContent, text: sentence, yes: button.textContent })) return;
  button.disabled = isOwnAct = true;
  if (await act(JSON.parse(body))) {
    button.textContent = done;
    const then = button.nextElementSibling;
    if (then && then.matches(".then")) then.hidden = false;
  } else button.disabled = false;
  isOwnAct = false;
});

/* A page with such buttons is loaded again when an undo, a redo or another command has changed the dataset. */
document.addEventListener("change", () => {
  if (!isOwnAct && document.querySelector("button[data-done]")) location.reload();
});

/* Requests `path` until the work is done. Shows the progress in `box`, which has a paragraph and a progress bar.
   Returns the last answer. */
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
