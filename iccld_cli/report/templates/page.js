"use strict";
// Tables whose heads sort. A cell without a value stays at the end in both orders.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows];
      const numeric = rows.some((row) => key(row) !== undefined);
      rows.sort((a, b) => {
        if (!numeric) return a.cells[column].textContent.localeCompare(b.cells[column].textContent) * (down ? -1 : 1);
        if (key(a) === undefined || key(b) === undefined) return (key(a) === undefined) - (key(b) === undefined);
        return (key(a) - key(b)) * (down ? 1 : -1);
      });
      body.append(...rows);
    });
  });
}
// Frames: two layers over each other, and a slider between them.
for (const block of document.querySelectorAll(".frames")) {
  const tools = block.querySelector(".tools");
  const frames = [...block.querySelectorAll(".frame")];
  if (!frames.length) continue;
  const [left, right] = tools.querySelectorAll("select");
  const blend = tools.querySelector("input");
  const make = (name, kind) => {
    const element = document.createElement(name);
    element.className = kind;
    return element;
  };
  const shown = frames.map((frame) => {
    const layers = [...frame.querySelectorAll(".layers img")];
    const stage = make("div", "stage");
    const [under, over] = ["under", "over"].map((kind) => make("span", kind));
    const [l, r] = ["tag l", "tag r"].map((kind) => make("span", kind));
    for (const part of [under, over, make("span", "line"), l, r]) stage.append(part);
    const range = make("input", "");
    range.type = "range";
    range.min = 0;
    range.max = 100;
    range.value = 50;
    range.setAttribute("aria-label", "Left and right layer");
    const cut = () => stage.style.setProperty("--cut", range.value + "%");
    range.addEventListener("input", cut);
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      range.value = (100 * (event.clientX - box.left)) / box.width;
      cut();
    };
    stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); follow(event); });
    stage.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
    cut();
    frame.querySelector(".layers").before(stage, range);
    return { layers, under, over, l, r };
  });
  // The first layer is the picture, the others are maps that may let it through.
  const fill = (place, layers, number) => {
    const images = [layers[0], ...(number ? [layers[number]] : [])].map((layer, depth) => {
      const image = new Image();
      image.src = layer.src;
      image.alt = layer.alt;
      image.draggable = false;
      if (depth) image.style.cssText = "position:absolute;inset:0;height:100%;opacity:" + blend.value / 100;
      return image;
    });
    place.replaceChildren(...images);
  };
  const draw = () => {
    for (const { layers, under, over, l, r } of shown) {
      fill(over, layers, left.selectedIndex);
      fill(under, layers, right.selectedIndex);
      l.textContent = left.value;
      r.textContent = right.value;
    }
  };
  for (const control of [left, right, blend]) control.addEventListener("input", draw);
  tools.hidden = false;
  draw();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const step = { j: 1, k: -1 }[event.key];
    if (!step) return;
    const from = frames.findIndex((frame) => frame.contains(document.activeElement));
    const next = frames[Math.max(0, Math.min(frames.length - 1, from + step))];
    next.querySelector("input").focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
    event.preventDefault();
  });
}
