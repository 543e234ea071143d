// The explorer's picture: tells the kernel how wide it is shown, what is under the mouse, and where one clicks.
function element(kind, name, parent) {
  const made = parent.appendChild(document.createElement(kind));
  made.className = name;
  return made;
}

// Screen readers hear the name of a slider, and its value as it is written beside it.
function nameSliders(panel) {
  for (const handle of panel.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const box = handle.closest(".widget-inline-hbox"), value = box.querySelector(".widget-readout");
    handle.setAttribute("aria-label", box.querySelector("label").textContent);
    const say = () => {
      if (handle.getAttribute("aria-valuetext") !== value.textContent)
        handle.setAttribute("aria-valuetext", value.textContent);
    };
    new MutationObserver(say).observe(value, { childList: true, characterData: true, subtree: true });
    new MutationObserver(say).observe(handle, { attributeFilter: ["aria-valuetext"] });
    say();
  }
}

function render({ model, el }) {
  el.classList.add("groundnlq-picture");
  const image = element("img", "", el), line = element("div", "groundnlq-line", el);
  const words = element("div", "groundnlq-words", el);
  const draw = () => {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.alt = model.get("alt");
    line.hidden = words.hidden = true;
  };
  const under = event => {
    const box = image.getBoundingClientRect(), { area: [left, top, right, bottom], span, spots } = model.get("hover");
    const x = (event.clientX - box.x) / box.width, y = (event.clientY - box.y) / box.height, near = 3 / box.width;
    if (x < left || x > right || y < top || y > bottom) return null;
    const spot = spots.find(([a, b, c, d]) => a - near <= x && x <= c + near && b <= y && y <= d);
    return { x: x * box.width, y: y * box.height, spot, sec: span[0] + (x - left) / (right - left) * (span[1] - span[0]) };
  };
  const tell = event => {
    const found = under(event);
    line.hidden = words.hidden = !found;
    if (!found) return;
    const numbers = model.get("hover").curves.map(([name, duration, values]) => {
      const value = values[Math.min(values.length - 1, Math.floor(found.sec / duration * values.length))];
      return `best score ${value.toFixed(2)}${name.startsWith("_") ? "" : " of " + name}`;
    });
    words.textContent = found.spot?.[4] ?? [`${found.sec.toFixed(1)} s`, ...numbers].join(", ");
    line.style.left = words.style.left = `${found.x}px`;
    words.style.top = `${found.y}px`;
    words.classList.toggle("groundnlq-left", found.x > el.clientWidth / 2);
  };
  let waiting;
  const measure = () => {
    nameSliders(el.closest(".groundnlq-panel") ?? el);
    const [width, sharpness, isDark] = model.get("room"), dark = document.body.dataset.jpThemeLight === "false";
    const changed = Math.abs(el.clientWidth - width) > 20 || sharpness !== devicePixelRatio || isDark !== dark;
    if (!el.clientWidth || !changed) return;
    model.set("room", [el.clientWidth, devicePixelRatio, dark]);
    model.save_changes();
  };
  const later = () => { clearTimeout(waiting); waiting = setTimeout(measure, 150); };
  const size = new ResizeObserver(later), theme = new MutationObserver(later);
  size.observe(el);
  theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  el.addEventListener("mousemove", tell);
  el.addEventListener("mouseleave", () => { line.hidden = words.hidden = true; });
  el.addEventListener("click", event => {
    const found = under(event);
    if (found) model.send(found.spot ? [found.spot[5], found.spot[6], found.spot[4]] : [found.sec, found.sec, ""]);
  });
  model.on("change:png", draw);
  draw();
  return () => { size.disconnect(); theme.disconnect(); model.off("change:png", draw); URL.revokeObjectURL(image.src); };
}

export default { render };
