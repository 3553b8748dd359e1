"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  // {systems, metrics: [{key, name, better, digits}], images: [{name, height, width, notes,
  // scores: [system][metric]}], opened: the first image is shown at once}
  const { systems, metrics, images, opened } = JSON.parse($("data").textContent);
  const numberOf = new Map(images.map((image, index) => [image.name, index]));
  const arrow = { higher: "\u00a0↑", lower: "\u00a0↓" };
  const hint = { higher: ", higher is better", lower: ", lower is better" };

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

  function fill(select, options) {
    select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  }

  // ---------------------------------------------------------------- table of pictures

  const table = $("images");
  const order = { column: null, up: true };
  let sorted = images.map((_, index) => index);

  // Columns in order: value is what they are sorted by, up the direction with the best on top.
  function columns() {
    const s = $("system").value;
    const scores = metrics.map((metric, m) => ({
      name: metric.name + (arrow[metric.better] ?? ""),
      title: metric.name + (hint[metric.better] ?? ""),
      up: metric.better !== "higher",
      value: (image) => image.scores[s][m],
      text: (image) => shownScore(image.scores[s][m], metric),
    }));
    const area = (image) => image.width * image.height;
    const size = (image) => `${image.width} × ${image.height}`;
    return [
      { name: "Image", title: "", up: true, value: (image) => image.name },
      ...scores,
      { name: "Size", title: "width × height", up: true, value: area, text: size },
    ];
  }

  function compare(a, b, column) {
    const [x, y] = [column.value(images[a]), column.value(images[b])];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // always last
    const way = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return (order.up ? way : -way) || a - b;
  }

  function drawTable() {
    const all = columns();
    const wanted = $("filter").value.trim().toLowerCase();
    sorted = images.map((_, index) => index).filter((i) => images[i].name.toLowerCase().includes(wanted));
    if (order.column !== null) sorted.sort((a, b) => compare(a, b, all[order.column]));
    const heads = all.map((column, c) => {
      const button = element("button", { type: "button", textContent: column.name, title: column.title });
      button.addEventListener("click", () => sortBy(c, column.up));
      const head = element("th", { scope: "col" }, button);
      if (c === order.column) head.ariaSort = order.up ? "ascending" : "descending";
      return head;
    });
    table.tHead.replaceChildren(element("tr", {}, ...heads));
    table.tBodies[0].replaceChildren(...sorted.map((index) => row(images[index], all)));
    $("shown").textContent = wanted ? `${sorted.length} of ${images.length}` : "";
  }

  function row(image, all) {
    const name = element("a", { href: link(image), textContent: image.name });
    const notes = image.notes.map((note) => element("span", { className: "remark", textContent: note, title: note }));
    const head = element("th", { scope: "row" }, name, ...notes);
    const line = element("tr", {}, head, ...all.slice(1).map(({ text }) => element("td", { textContent: text(image) })));
    line.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      name.focus({ preventScroll: true }); // closing the viewer comes back to it
      name.click();
    });
    return line;
  }

  function sortBy(column, first) {
    order.up = order.column === column ? !order.up : first;
    order.column = column;
    drawTable();
    table.tHead.querySelectorAll("button")[column].focus();
  }

  // ---------------------------------------------------------------- viewer

  const viewer = $("viewer");
  const [frame, stage, handle] = [$("frame"), $("stage"), $("handle")];
  const sides = ["left", "right"];
  // views: {width, height, pictures: [{label, kind: picture, error or map, width, height, id}]}. The
  // pictures are the text of the elements of that id and are decoded only when they are shown.
  let [current, views] = [null, null];

  function open(index) {
    const image = images[index];
    current = index;
    views = JSON.parse($("views-" + index).textContent);
    const place = sorted.indexOf(index);
    $("viewer-name").textContent = image.name;
    $("viewer-place").textContent = place < 0 ? "" : `${place + 1} of ${sorted.length}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place === sorted.length - 1;
    $("viewer-notes").replaceChildren(...image.notes.map((note) => element("li", { textContent: note })));
    drawScores(image);
    const labels = views.pictures.map((one) => one.label);
    const defaults = { left: labels.find((label) => label !== systems[0]), right: systems[0] };
    for (const side of sides) {
      const before = $(side).value; // stays from image to image
      fill($(side), labels.map((label) => [label, label]));
      const label = [before, defaults[side], labels[0]].find((one) => labels.includes(one));
      if (label !== undefined) $(side).value = label;
    }
    if (!viewer.open) {
      viewer.showModal();
      handle.value = 50;
      handle.focus({ preventScroll: true });
    }
    $("message").hidden = labels.length > 0;
    stage.hidden = !labels.length;
    if (labels.length) drawStage();
  }

  function drawScores(image) {
    const heads = ["", ...systems].map((text) => element("th", { scope: "col", textContent: text }));
    const rows = metrics.map((metric, m) => {
      const known = image.scores.map((scores) => scores[m]).filter((value) => value !== null);
      const best = systems.length > 1 && metric.better && Math[metric.better === "higher" ? "max" : "min"](...known);
      const cells = image.scores.map((scores) =>
        element("td", { textContent: shownScore(scores[m], metric), className: scores[m] === best ? "best" : "" }));
      const name = metric.name + (arrow[metric.better] ?? "");
      return element("tr", {}, element("th", { scope: "row", textContent: name }), ...cells);
    });
    $("viewer-scores").tHead.replaceChildren(element("tr", {}, ...heads));
    $("viewer-scores").tBodies[0].replaceChildren(...rows);
  }

  const shown = (side) => views.pictures.find((one) => one.label === $(side).value);

  function drawStage() {
    for (const side of sides) {
      const [img, one] = [$(side + "-image"), shown(side)];
      img.alt = `${one.label} of ${images[current].name}`;
      img.src = $(one.id).textContent;
    }
    const both = [...new Set(sides.map(shown))];
    $("viewer-sizes").textContent = both.map((one) => `${one.label}: ${one.width} × ${one.height}`).join(" · ");
    for (const kind of ["error", "map"]) $("legend-" + kind).hidden = !both.some((one) => one.kind === kind);
    layout();
    move();
  }

  // Sizes the stage; pixels of pictures that are enlarged to twice their size or more stay squares.
  function layout() {
    const ratio = window.devicePixelRatio || 1;
    if (!$("zoom").value) $("zoom").value = views.width / ratio <= frame.clientWidth ? "1" : "fit";
    const zoom = $("zoom").value;
    stage.style.aspectRatio = `${views.width} / ${views.height}`;
    stage.style.width = zoom === "fit" ? "100%" : `${(views.width * zoom) / ratio}px`;
    stage.classList.toggle("large", stage.clientWidth > frame.clientWidth);
    for (const side of sides) {
      $(side + "-image").classList.toggle("pixels", (stage.clientWidth * ratio) / shown(side).width >= 1.99);
    }
  }

  function move() {
    stage.style.setProperty("--cut", `${handle.value}%`);
    handle.ariaValueText = `${Math.round(handle.value)} % ${$("left").value}, the rest ${$("right").value}`;
  }

  function step(by) {
    const index = sorted[sorted.indexOf(current) + by];
    history.replaceState(null, "", link(images[index]));
    open(index);
  }

  handle.addEventListener("input", move);
  for (const side of sides) $(side).addEventListener("change", drawStage);
  $("swap").addEventListener("click", () => {
    [$("left").value, $("right").value] = [$("right").value, $("left").value];
    drawStage();
  });
  $("zoom").addEventListener("change", () => views.pictures.length && layout());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => history.replaceState(null, "", location.href.split("#")[0]));

  // ---------------------------------------------------------------- the address names the image

  function follow() {
    let index;
    try {
      index = numberOf.get(decodeURIComponent(location.hash.slice(1)));
    } catch {} // a stray % names no image
    if (index !== undefined) open(index);
    else if (viewer.open) viewer.close();
  }

  $("zoom").value = ""; // the first picture decides
  fill($("system"), systems.map((name, s) => [s, name]));
  $("system-label").hidden = systems.length < 2;
  $("system").addEventListener("change", drawTable);
  $("filter").addEventListener("input", drawTable);
  drawTable();
  $("viewer-scores").hidden = !metrics.length;
  window.addEventListener("hashchange", follow);
  follow();
  if (opened && !location.hash) open(0);
})();
