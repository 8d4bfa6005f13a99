/* Zooms all images of the page together. Every image shows the same part at the same scale. */
"use strict";

function startZoom(images) {
  const slider = document.getElementById("zoom"), value = document.getElementById("zoom-value");
  let x = 0.5, y = 0.5; // the point of each image that does not move, as shares of the width and the height

  function paint() {
    const zoom = Number(slider.value);
    value.textContent = `${zoom}×`;
    for (const image of images) {
      image.style.transformOrigin = `${x * 100}% ${y * 100}%`;
      image.style.transform = zoom === 1 ? "" : `scale(${zoom})`;
      image.style.imageRendering = zoom > 2 ? "pixelated" : "auto";
    }
  }

  function change(step) {
    slider.value = Number(slider.value) + step;
    paint();
  }

  function follow(event) {
    const frame = event.currentTarget.getBoundingClientRect();
    x = Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width));
    y = Math.min(1, Math.max(0, (event.clientY - frame.top) / frame.height));
    paint();
  }

  for (const frame of document.querySelectorAll(".zoom")) {
    frame.addEventListener("pointermove", follow);
    frame.addEventListener("pointerdown", follow);
    frame.addEventListener("click", (event) => { follow(event); if (slider.value === "1") change(2); });
  }
  slider.addEventListener("input", paint);
  document.getElementById("zoom-reset").addEventListener("click", () => { slider.value = 1; x = y = 0.5; paint(); });
  document.addEventListener("keydown", (event) => {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "+" || event.key === "=") change(0.5);
    else if (event.key === "-") change(-0.5);
    else if (event.key === "0") { slider.value = 1; paint(); }
    else if (move && slider.value !== "1") {
      x = Math.min(1, Math.max(0, x + move[0] / 10)); y = Math.min(1, Math.max(0, y + move[1] / 10));
      paint();
    } else return;
    event.preventDefault();
  });
  paint();
}

if (document.getElementById("zoom")) startZoom([...document.querySelectorAll(".zoom img")]);
