/* Waits for the search, then repairs the leaks in two steps. The first step shows a plan. The second step is the repair. */
"use strict";

async function work(name, label) {
  const { key } = await request(`/api/leaks/${name}`, {});
  const box = makeProgress(label);
  document.querySelector(".repair").append(box);
  try {
    return await waitForWork(`/api/leaks/${name}?key=${key}`, box);
  } finally {
    box.remove();
  }
}

let hasPlan = false; // whether a plan is being made or is shown

function startRepair() {
  const plan = document.getElementById("plan"), repair = document.getElementById("repair");
  const text = document.getElementById("plan-text");

  async function run(button, name, label, then) {
    button.disabled = true;
    try {
      const answer = await work(name, label);
      text.textContent = answer.sentence;
      text.hidden = false;
      then(answer);
    } catch (error) {
      say(error.message, true);
      button.disabled = false;
    }
  }

  plan.addEventListener("click", () => {
    hasPlan = true;
    run(plan, "plan", "The repair is being planned.", (answer) => {
      plan.hidden = true;
      repair.hidden = !answer.decides;
      repair.focus();
    });
  });
  repair.addEventListener("click", () => run(repair, "repair", "The leaks are being repaired.", () => {
    repair.hidden = true;
    document.querySelector(".repair").append(make("a", { href: "/leaks", class: "button", text: "Search again" }));
  }));
}

/* Loads the page again after the search. A page that shows a plan gets a link instead, because its plan would be lost. */
function showPairs(search) {
  if (!hasPlan) location.reload();
  else search.replaceChildren(make("a", { href: "/leaks", class: "button", text: "Show the pairs" }));
}

const search = document.getElementById("search");
if (search) waitForWork(search.dataset.work, search).then(() => showPairs(search)).catch((error) => say(error.message, true));
if (document.getElementById("plan")) startRepair();
