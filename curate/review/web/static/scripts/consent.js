/* Menus for the consent for photos. Needs review.js. */
"use strict";

const REFUSALS = ["no", "withdrawn"];
let isOwnConsent = false; // true while a menu of this page records a decision

/* Records what the user chooses in a menu. Calls `done` with the new consent. `read` returns facts about the menu:
   - `photos`: the ids for the request
   - `value`: the present consent, or "" if it is unknown
   - `several`: the number of photos, if the menu is about all photos of a person
   - `others`: the number of other people's faces in the photos */
function watchConsent(menu, read, done) {
  menu.addEventListener("change", async (event) => {
    event.stopPropagation(); // for the document, the event `change` means that the dataset has changed
    const { photos, value, several = 0, others } = read(), chosen = menu.value;
    menu.value = value;
    if (chosen === value) return;
    const refuses = REFUSALS.includes(chosen);
    if ((several || refuses) && !await ask(describeConsent(chosen, several, others))) { menu.focus(); return; }
    isOwnConsent = true;
    const answer = await act({ requests: [{ kind: "consent", photos, consent: chosen }] });
    isOwnConsent = false;
    if (answer) done(chosen);
    else menu.focus();
  });
}

/* Returns the question that the user must confirm before the consent is set. */
function describeConsent(chosen, several, others) {
  const photos = several > 1 ? "photos" : "photo", Their = several > 1 ? "Their" : "Its";
  const number = several ? `The consent is set for ${count(several, "photo")} of this person. ` : "";
  const faces = others ? `The ${photos} also ${several > 1 ? "show" : "shows"} ${count(others, "face")} of other people. ` : "";
  const refusal = `The ${photos} ${several > 1 ? "are" : "is"} not shown any more. ${Their} crops and embeddings are erased when `
    + "the decision is applied. Until then, undo brings everything back.";
  const text = `${number}${faces}${REFUSALS.includes(chosen) ? refusal : ""}`.trim();
  return { title: `Consent: ${chosen}?`, text, yes: REFUSALS.includes(chosen) ? "Refuse" : "Allow" };
}

/* The menus of the page of unused items. The page is loaded again when an undo, a redo or another command has changed the dataset. */
for (const menu of document.querySelectorAll("select[data-photo]")) {
  watchConsent(menu, () => ({ photos: [menu.dataset.photo], value: menu.dataset.value, others: 0 }),
    (chosen) => { menu.value = menu.dataset.value = chosen; });
}
document.addEventListener("change", () => {
  if (!isOwnConsent && document.querySelector("select[data-photo]")) location.reload();
});
