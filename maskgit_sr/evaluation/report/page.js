"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  // {systems, metrics: [{key, name, better, digits, text}], images: [{name, height, width, notes,
  // scores: [system][metric]}], first: the metric that cases are chosen by, or null, peak}
  const data = JSON.parse($("data").textContent);
  const { systems, metrics, images } = data;
  const numberOf = new Map(images.map((image, index) => [image.name, index]));
  const arrow = { higher: "\u00a0↑", lower: "\u00a0↓" };
  const hint = { higher: "higher is better", lower: "lower is better" };

  function element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  const link = (image) => "#" + encodeURIComponent(image.name);
  const shownScore = (value, metric) =>
    value === null ? "–" : value.toFixed(metric.digits).replace("-", "−");

  function bestOf(values, metric) {
    const known = values.filter((value) => value !== null);
    if (systems.length < 2 || !metric.better || !known.length) return null;
    return metric.better === "higher" ? Math.max(...known) : Math.min(...known);
  }

  function fill(select, options) {
    select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  }

  // What an image was shown as: {width, height, pictures: [{label, width, height, id, error}],
  // maps: [{label, width, height, id}]}; null as long as the page is being read. The pictures
  // themselves are the text of the element `id` and are decoded only when they are shown.
  function viewsOf(index) {
    const node = $("views-" + index);
    return node && JSON.parse(node.textContent);
  }

  function show(img, id, alt) {
    img.alt = alt;
    if (img.dataset.id === id) return;
    img.dataset.id = id;
    img.src = $(id).textContent;
  }

  // ---------------------------------------------------------------- table of pictures

  const table = $("images");
  const order = { column: null, up: true };
  let sorted = images.map((_, index) => index);

  function columns() {
    const [kind, number] = $("columns").value.split(" ");
    const cells =
      kind === "metric"
        ? systems.map((name, s) => ({ name, metric: metrics[number], system: s }))
        : metrics.map((metric) => ({ name: metric.name, metric, system: Number(number) }));
    for (const cell of cells) {
      const m = metrics.indexOf(cell.metric);
      cell.value = (image) => image.scores[cell.system][m];
      cell.key = cell.system + " " + cell.metric.key;
      cell.title = [cell.metric.name, hint[cell.metric.better]].filter(Boolean).join(", ");
      cell.row = kind === "metric" ? (image) => image.scores.map((scores) => scores[m]) : () => [];
      if (kind !== "metric") cell.name += arrow[cell.metric.better] || "";
    }
    const size = { key: "size", name: "Size", title: "width × height", value: (i) => i.width * i.height };
    return [{ key: "name", name: "Image", title: "", value: (i) => i.name }, ...cells, size];
  }

  function compare(a, b, column) {
    const [x, y] = [column.value(images[a]), column.value(images[b])];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // always last
    const sign = order.up ? 1 : -1;
    const way = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return sign * way || a - b;
  }

  function drawTable() {
    const all = columns();
    const by = all.find((column) => column.key === order.column);
    const wanted = $("filter").value.trim().toLowerCase();
    sorted = images.map((_, index) => index).filter((i) => images[i].name.toLowerCase().includes(wanted));
    if (by) sorted.sort((a, b) => compare(a, b, by));
    const heads = all.map((column) => {
      const button = element("button", { type: "button", textContent: column.name, title: column.title });
      button.addEventListener("click", () => sortBy(column));
      const head = element("th", { scope: "col" }, button);
      if (column === by) head.setAttribute("aria-sort", order.up ? "ascending" : "descending");
      return head;
    });
    table.tHead.replaceChildren(element("tr", {}, ...heads));
    table.tBodies[0].replaceChildren(...sorted.map((index) => row(images[index], all)));
    $("shown").textContent = wanted ? `${sorted.length} of ${images.length}` : "";
  }

  function row(image, all) {
    const name = element("a", { href: link(image), textContent: image.name });
    const head = element("th", { scope: "row" }, name);
    for (const note of image.notes) head.append(element("span", { className: "remark", textContent: note, title: note }));
    const cells = all.slice(1, -1).map((column) => {
      const value = column.value(image);
      const cell = element("td", { textContent: shownScore(value, column.metric) });
      if (value !== null && value === bestOf(column.row(image), column.metric)) cell.className = "best";
      return cell;
    });
    const size = element("td", { className: "muted", textContent: `${image.width} × ${image.height}` });
    const line = element("tr", {}, head, ...cells, size);
    line.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      name.focus({ preventScroll: true }); // closing the viewer comes back to it
      name.click();
    });
    return line;
  }

  function sortBy(column) {
    const first = !column.metric || column.metric.better !== "higher"; // the best on top
    order.up = order.column === column.key ? !order.up : first;
    order.column = column.key;
    drawTable();
    const at = columns().findIndex((other) => other.key === column.key);
    table.tHead.querySelectorAll("button")[at].focus();
  }

  // ---------------------------------------------------------------- best and worst cases

  function drawCases() {
    const [s, m] = [Number($("case-system").value), Number($("case-metric").value)];
    const metric = metrics[m];
    const score = (index) => images[index].scores[s][m];
    const sign = metric.better === "lower" ? 1 : -1;
    const ranked = images.map((_, index) => index).filter((index) => score(index) !== null);
    ranked.sort((a, b) => sign * (score(a) - score(b)) || a - b);
    const count = Math.min(3, Math.ceil(ranked.length / 2));
    const last = ranked.slice(Math.max(count, ranked.length - 3)).reverse();
    const card = (index) => caseCard(index, s, shownScore(score(index), metric));
    $("best").replaceChildren(...ranked.slice(0, count).map(card));
    $("worst").replaceChildren(...last.map(card));
    $("h-best").hidden = !ranked.length;
    $("h-worst").hidden = !last.length;
  }

  function caseCard(index, system, score) {
    const image = images[index];
    const pictures = viewsOf(index)?.pictures ?? [];
    const pair = [systems[system], "HR"].map((label) => pictures.find((one) => one.label === label));
    const figures = pair.filter(Boolean).map((one) => {
      const img = element("img", { decoding: "sync" });
      show(img, one.id, `${one.label} of ${image.name}`);
      return element("figure", {}, img, element("figcaption", { textContent: one.label }));
    });
    const caption = element("div", { className: "caption" }, element("span", { textContent: image.name }), element("span", { textContent: score }));
    const parts = figures.length ? [element("div", { className: "pair" }, ...figures), caption] : [caption];
    return element("a", { className: "card", href: link(image) }, ...parts);
  }

  // ---------------------------------------------------------------- viewer

  const viewer = $("viewer");
  const [frame, stage, handle] = [$("frame"), $("stage"), $("handle")];
  // cut: where the boundary is in the picture, in %; place: where it is in the frame, in px
  const state = { index: null, views: null, left: "", right: "", error: false, map: "", cut: 50, place: null };
  const zooms = [...document.getElementsByName("zoom")];

  function open(index) {
    const image = images[index];
    state.index = index;
    state.views = viewsOf(index);
    const place = sorted.indexOf(index);
    $("viewer-name").textContent = image.name;
    $("viewer-place").textContent = place < 0 ? "" : `${place + 1} of ${sorted.length}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place === sorted.length - 1;
    $("viewer-notes").replaceChildren(...image.notes.map((note) => element("li", { textContent: note })));
    drawScores(image);
    if (!viewer.open) {
      viewer.showModal();
      [state.cut, state.place] = [50, null];
      handle.focus({ preventScroll: true });
    }
    const pictures = state.views?.pictures ?? [];
    stage.hidden = !pictures.length;
    $("message").textContent =
      pictures.length ? "" : document.readyState === "loading" ? "Reading the pictures…" : "No pictures.";
    const labels = pictures.map((one) => one.label);
    const [ours, other] = [Math.max(0, labels.indexOf(systems[0])), labels.findIndex((l) => l !== systems[0])];
    if (!labels.includes(state.right)) state.right = labels[ours] ?? "";
    if (!labels.includes(state.left)) state.left = labels[Math.max(0, other)] ?? "";
    for (const side of ["left", "right"]) {
      fill($(side), labels.map((label) => [label, label]));
      $(side).value = state[side];
    }
    drawToggles();
    if (pictures.length) drawStage();
  }

  function drawScores(image) {
    const [head, body] = [$("viewer-scores").tHead, $("viewer-scores").tBodies[0]];
    const few = systems.length < 3; // more do not fit side by side
    const heads = few ? ["", ...systems] : [];
    head.replaceChildren(element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text }))));
    const rows = metrics.flatMap((metric, m) => {
      const values = image.scores.map((scores) => scores[m]);
      const best = bestOf(values, metric);
      const cells = values.map((value) =>
        element("td", { textContent: shownScore(value, metric), className: value !== null && value === best ? "best" : "" }));
      const name = metric.name + (arrow[metric.better] || "");
      if (few) return [element("tr", {}, element("th", { scope: "row", textContent: name }), ...cells)];
      return [
        element("tr", {}, element("th", { scope: "rowgroup", colSpan: 2, textContent: name })),
        ...cells.map((cell, s) => element("tr", {}, element("th", { scope: "row", textContent: systems[s] }), cell)),
      ];
    });
    body.replaceChildren(...rows);
  }

  function drawToggles() {
    const { pictures = [], maps = [] } = state.views ?? {};
    const toggle = (text, pressed, change) => {
      const button = element("button", { type: "button", textContent: text, "aria-pressed": String(pressed) });
      button.addEventListener("click", () => {
        const at = [...$("toggles").children].indexOf(button);
        change();
        drawToggles();
        drawStage();
        $("toggles").children[at].focus();
      });
      return button;
    };
    const flip = (label) => () => (state.map = state.map === label ? "" : label);
    const buttons = maps.map((map) => toggle(`Map: ${map.label}`, state.map === map.label, flip(map.label)));
    if (pictures.some((one) => one.error)) {
      buttons.unshift(toggle("Error maps", state.error, () => (state.error = !state.error)));
    }
    $("toggles").replaceChildren(...buttons);
  }

  function drawStage() {
    const { pictures, maps } = state.views;
    const map = maps.find((one) => one.label === state.map);
    const name = images[state.index].name;
    const sides = { left: state.left, right: state.right };
    const legends = [];
    for (const [side, label] of Object.entries(sides)) {
      let one = pictures.find((picture) => picture.label === label);
      let text = `${label} of ${name}`;
      if (side === "right" && map) {
        one = map;
        text = `${map.label} map of ${name}`;
      } else if (state.error && one.error) {
        one = { ...one, id: one.error };
        text = `Error of ${text}`;
        if (!legends.includes("error")) legends.push("error");
      }
      sides[side] = one;
      show($(side + "-image"), one.id, text);
    }
    const shown = [...new Set([sides.left, sides.right])];
    $("viewer-sizes").textContent = shown.map((one) => `${one.label}: ${one.width} × ${one.height}`).join(" · ");
    $("legends").replaceChildren(
      ...legends.map(() => legend("|picture − HR|, mean of R, G and B", "", [0, data.peak / 2, `≥ ${data.peak} of 255`])),
      ...(map ? [legend(`${map.label}, on the right`, " map", [0, 0.5, 1])] : []),
    );
    move(state.cut);
    layout(sides);
  }

  function legend(text, kind, ticks) {
    const marks = ticks.map((tick) => element("span", { textContent: String(tick) }));
    const bar = element("div", { className: "ramp" + kind });
    return element("div", { className: "legend" }, text, bar, element("div", { className: "ticks" }, ...marks));
  }

  const placeOfCut = () => handle.getBoundingClientRect().left - frame.getBoundingClientRect().left + handle.offsetWidth / 2;

  // Sizes the stage. The boundary, and what is half way up, stay where they are in the frame.
  function layout(sides) {
    const { width, height } = state.views;
    const ratio = window.devicePixelRatio || 1;
    const room = frame.clientWidth;
    const chosen = zooms.find((radio) => radio.checked);
    const fits = width / ratio <= room && window.innerWidth > 860;
    const zoom = chosen ? chosen.value : fits ? "1" : "fit";
    if (!chosen) zooms.find((radio) => radio.value === zoom).checked = true;
    const scale = zoom === "fit" ? room / width : Number(zoom) / ratio;
    const place = Math.min(room, state.place ?? room / 2);
    const middle = state.place === null ? 0.5 : (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight;
    stage.style.width = `${width * scale}px`;
    stage.style.height = `${height * scale}px`;
    stage.classList.toggle("large", width * scale > room + 1);
    frame.scrollLeft += placeOfCut() - place;
    frame.scrollTop = middle * frame.scrollHeight - frame.clientHeight / 2;
    state.place = placeOfCut();
    for (const [side, one] of Object.entries(sides ?? {})) {
      $(side + "-image").dataset.width = one.width;
    }
    for (const img of [$("left-image"), $("right-image")]) {
      img.classList.toggle("pixels", (width * scale * ratio) / img.dataset.width >= 1.99);
    }
  }

  function move(cut) {
    state.cut = Math.min(100, Math.max(0, cut));
    stage.style.setProperty("--cut", `${state.cut}%`);
    handle.setAttribute("aria-valuenow", Math.round(state.cut));
    handle.setAttribute("aria-valuetext", `${Math.round(state.cut)} % ${state.left}, the rest ${state.right}`);
  }

  function moveTo(clientX) {
    const box = stage.getBoundingClientRect();
    if (!box.width) return;
    move((100 * (clientX - box.left)) / box.width);
    state.place = placeOfCut();
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    // A finger scrolls a picture larger than its frame; the handle still moves the boundary.
    const scrolls = event.pointerType === "touch" && stage.classList.contains("large");
    if (scrolls && !event.target.closest(".handle")) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    moveTo(event.clientX);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) moveTo(event.clientX);
  });
  stage.addEventListener("click", (event) => event.detail && moveTo(event.clientX));
  // The picture slides below the boundary, which would be lost to sight otherwise.
  frame.addEventListener("scroll", () => moveTo(frame.getBoundingClientRect().left + state.place));
  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: state.cut - step, ArrowRight: state.cut + step, ArrowDown: state.cut - step, ArrowUp: state.cut + step,
      PageDown: state.cut - 10, PageUp: state.cut + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
    const place = placeOfCut();
    frame.scrollLeft += place - Math.min(frame.clientWidth, Math.max(0, place)); // keep it in sight
    state.place = placeOfCut();
  });

  for (const side of ["left", "right"]) {
    $(side).addEventListener("change", () => {
      state[side] = $(side).value;
      drawStage();
    });
  }
  $("swap").addEventListener("click", () => {
    [state.left, state.right] = [state.right, state.left];
    $("left").value = state.left;
    $("right").value = state.right;
    drawStage();
  });
  for (const radio of zooms) radio.addEventListener("change", () => state.views && layout());
  window.addEventListener("resize", () => viewer.open && state.views?.pictures.length && layout());

  function step(by) {
    const index = sorted[sorted.indexOf(state.index) + by];
    if (index === undefined) return;
    history.replaceState(null, "", link(images[index]));
    open(index);
  }
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => {
    if (named() !== undefined) history.replaceState(null, "", location.href.split("#")[0]);
    for (const img of [$("left-image"), $("right-image")]) {
      img.removeAttribute("src");
      delete img.dataset.id;
    }
  });

  // ---------------------------------------------------------------- the address names the image

  function named() {
    try {
      return numberOf.get(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return undefined; // a stray %
    }
  }

  function follow() {
    const index = named();
    if (index !== undefined) open(index);
    else if (viewer.open) viewer.close();
  }

  fill($("columns"), [
    ...systems.map((name, s) => [`system ${s}`, `scores of ${name}`]),
    ...(systems.length > 1 ? metrics.map((metric, m) => [`metric ${m}`, `${metric.name} of all`]) : []),
  ]);
  $("columns-label").hidden = systems.length < 2;
  $("columns").addEventListener("change", drawTable);
  $("filter").addEventListener("input", drawTable);
  drawTable();

  fill($("case-system"), systems.map((name, s) => [s, name]));
  fill($("case-metric"), metrics.map((metric, m) => [m, metric.name]));
  $("case-system-label").hidden = systems.length < 2;
  for (const id of ["case-system", "case-metric"]) $(id).addEventListener("change", drawCases);
  if (metrics.length && images.length) {
    $("cases").hidden = false;
    $("case-metric").value = data.first;
    drawCases();
  }

  window.addEventListener("hashchange", follow);
  follow();
  document.addEventListener("DOMContentLoaded", () => {
    if (!$("cases").hidden) drawCases();
    if (viewer.open) open(state.index);
  });
})();
