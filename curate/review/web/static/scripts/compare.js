/* Two images on top of each other, with a border that a pointer or a slider moves. */
"use strict";

const LEAST_FOR_LABELS = 150; // a narrower image has no labels, because they would cover the image (in pixels, ours)
const TITLES = { lq: "before", restored: "restored", truth: "truth" };

function startCompare(stacks) {
  const pair = document.getElementById("pair"), scale = document.getElementById("scale");
  const painters = [];

  for (const stack of stacks) {
    const slider = stack.closest(".case").querySelector("input[type=range]");
    const image = (name) => stack.querySelector(`img.${name}`);
    const restored = image("restored") || image("lq");

    const painter = () => {
      const width = (Number(stack.dataset.size) || restored.naturalWidth || 256) * Number(scale.value);
      const height = restored.naturalWidth ? (width * restored.naturalHeight) / restored.naturalWidth : width;
      stack.style.width = `${width}px`;
      stack.style.height = `${height}px`;
      // if one of the two chosen images is missing, the images that exist are shown
      const there = Object.keys(TITLES).filter(image);
      let [left, right] = pair.value.split(" ");
      if (!image(left) || !image(right)) [left, right] = there;
      const isSingle = there.length < 2, share = isSingle ? 100 : Number(slider.value);
      for (const name of there) {
        const layer = image(name);
        layer.hidden = name !== left && name !== right;
        layer.style.imageRendering = scale.value === "2" ? "pixelated" : "auto";
        layer.style.clipPath = name === left ? `inset(0 ${100 - share}% 0 0)` : `inset(0 0 0 ${share}%)`;
      }
      stack.querySelector(".left").textContent = TITLES[left];
      stack.querySelector(".right").textContent = isSingle ? "" : TITLES[right];
      const isSmall = width < LEAST_FOR_LABELS; // a small image has no labels; the menu of the page says which image is on the left
      stack.querySelector(".left").hidden = isSmall;
      stack.querySelector(".right").hidden = isSmall || isSingle;
      stack.querySelector(".edge").hidden = isSingle;
      stack.querySelector(".edge").style.left = `${share}%`;
      if (isSingle) return;
      slider.style.width = `${Math.max(width, LEAST_FOR_LABELS)}px`;
      slider.setAttribute("aria-valuetext", `${share}% ${TITLES[left]}, ${100 - share}% ${TITLES[right]}`);
    };
    if (slider) {
      stack.addEventListener("pointermove", (event) => {
        const frame = stack.getBoundingClientRect();
        slider.value = Math.round(((event.clientX - frame.left) / frame.width) * 100);
        painter();
      });
      slider.addEventListener("input", painter);
    }
    restored.addEventListener("load", painter);
    painters.push(painter);
  }

  const paint = () => { for (const painter of painters) painter(); };
  pair.addEventListener("change", paint);
  scale.addEventListener("change", paint);
  for (const select of document.querySelectorAll("#choice select")) {
    select.addEventListener("change", () => select.form.submit());
  }
  document.addEventListener("keydown", (event) => {
    const isSlider = event.target.type === "range";
    if (event.key !== "c" || (isTyping(event) && !isSlider) || event.ctrlKey || event.metaKey || event.altKey) return;
    pair.selectedIndex = (pair.selectedIndex + 1) % pair.options.length;
    paint();
    say(pair.selectedOptions[0].textContent);
  });
  paint();
}

if (document.getElementById("pair")) startCompare([...document.querySelectorAll(".stack")]);
