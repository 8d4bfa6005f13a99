/* Two images on top of each other, with a border that a pointer or a slider moves. */
"use strict";

const TITLES = { lq: "LQ", restored: "restored", truth: "truth" };

function startCompare(stacks) {
  const pair = document.getElementById("pair"), scale = document.getElementById("scale");
  const painters = [];

  for (const stack of stacks) {
    const slider = stack.parentElement.parentElement.querySelector("input[type=range]");
    const image = (name) => stack.querySelector(`img.${name}`);
    const painter = () => {
      const side = Number(stack.dataset.size) * Number(scale.value);
      stack.style.width = stack.style.height = `${side}px`;
      slider.style.maxWidth = `${side}px`;
      let [left, right] = pair.value.split(" ");
      // without a restored image, the other two images are compared
      if (!image(left)) left = "lq";
      if (!image(right)) right = "truth";
      const share = Number(slider.value);
      for (const name of Object.keys(TITLES)) {
        const layer = image(name);
        if (!layer) continue;
        layer.hidden = name !== left && name !== right;
        layer.style.imageRendering = scale.value === "2" ? "pixelated" : "auto";
        layer.style.clipPath = name === left ? `inset(0 ${100 - share}% 0 0)` : `inset(0 0 0 ${share}%)`;
      }
      stack.querySelector(".left").textContent = TITLES[left];
      stack.querySelector(".right").textContent = TITLES[right];
      stack.querySelector(".edge").style.left = `${share}%`;
      slider.setAttribute("aria-valuetext", `${share}% ${TITLES[left]}, ${100 - share}% ${TITLES[right]}`);
    };
    stack.addEventListener("pointermove", (event) => {
      const frame = stack.getBoundingClientRect();
      slider.value = Math.round(((event.clientX - frame.left) / frame.width) * 100);
      painter();
    });
    slider.addEventListener("input", painter);
    painters.push(painter);
  }

  const paint = () => { for (const painter of painters) painter(); };
  pair.addEventListener("change", paint);
  scale.addEventListener("change", paint);
  for (const select of document.querySelectorAll("#choice select")) {
    select.addEventListener("change", () => select.form.submit());
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "c" || isTyping(event) && event.target.type !== "range" || event.ctrlKey || event.metaKey || event.altKey) return;
    pair.selectedIndex = (pair.selectedIndex + 1) % pair.options.length;
    paint();
    say(pair.selectedOptions[0].textContent);
  });
  paint();
}

if (document.getElementById("pair")) startCompare([...document.querySelectorAll(".stack")]);
