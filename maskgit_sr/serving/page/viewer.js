// Before and after of one picture: a slider, zoom and pan, a lens, and the map of confidence.

const $ = (id) => document.getElementById(id);
const MOST = 16; // pixels of the screen for a pixel of the picture
const between = (low, value, high) => Math.min(Math.max(value, low), high);

export class Viewer {
  constructor() {
    [this.pane, this.stage, this.handle] = [$("pane"), $("stage"), $("handle")];
    [this.item, this.urls, this.size] = [null, [], null];
    [this.zoom, this.x, this.y, this.fitted] = [1, 0, 0, true];
    [this.pointers, this.lensAt] = [new Map(), null];
    this.handle.addEventListener("input", () => this.cut());
    for (const [id, action] of Object.entries({
      out: () => this.zoomBy(1 / 1.5), in: () => this.zoomBy(1.5), fit: () => this.fit(), one: () => this.zoomTo(1 / devicePixelRatio),
      loupe: () => this.toggle("loupe"), chart: () => this.toggle("chart"),
    })) $(id).addEventListener("click", action);
    $("view").addEventListener("keydown", (event) => this.key(event));
    this.pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(2 ** between(-1, -event.deltaY / (event.deltaMode ? 6 : 240), 1), event);
    }, { passive: false });
    this.pane.addEventListener("pointerdown", (event) => this.down(event));
    this.pane.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) this.pane.addEventListener(name, (event) => this.up(event));
    this.pane.addEventListener("pointerleave", () => this.lens(null));
    new ResizeObserver(() => this.size && (this.fitted ? this.fit() : this.place())).observe(this.pane);
  }

  // Shows an item; `blobs` has its input, and its result and map if they are there.
  async show(item, blobs, label) {
    const same = this.item?.id === item.id;
    const had = same && this.result;
    if (same && had === blobs.result) return;
    this.item = item;
    this.result = blobs.result;
    const old = this.urls;
    this.urls = [blobs.input, blobs.result].map((blob) => blob && URL.createObjectURL(blob));
    const [before, after] = await Promise.all(this.urls.map(load));
    if (this.item !== item || this.result !== blobs.result) return; // another was chosen meanwhile
    for (const url of old) if (url) URL.revokeObjectURL(url);
    this.images = [before, after];
    for (const [id, image, what] of [["before", before, "before"], ["after", after, "after"]]) {
      $(id).src = image ? image.src : "";
      $(id).alt = image ? `${item.name}, ${what}` : "";
      $(id).hidden = !image;
    }
    const larger = after ?? before;
    this.size = larger && [larger.naturalWidth, larger.naturalHeight];
    this.both = Boolean(before && after);
    if (larger) this.pane.style.setProperty("--ratio", this.size[0] / this.size[1]);
    for (const node of [this.handle, $("line"), $("tag-before")]) node.hidden = !this.both;
    $("tag-after").hidden = !after;
    for (const id of ["loupe", "one", "in", "out", "fit"]) $(id).disabled = !larger;
    $("loupe").disabled = !this.both;
    $("facts").textContent = [
      before && `${before.naturalWidth} × ${before.naturalHeight}`, after && `→ ${after.naturalWidth} × ${after.naturalHeight}`, label,
    ].filter(Boolean).join(" ");
    this.unseen = !before && blobs.input ? `This browser cannot show ${after ? "the original" : "a file of this format"}` : "";
    await this.overlay(blobs.map);
    this.fit();
  }

  async overlay(map) {
    $("chart").hidden = !map;
    const canvas = $("map");
    if (!map) {
      canvas.hidden = $("legend").hidden = true;
      return;
    }
    const grey = await createImageBitmap(map);
    [canvas.width, canvas.height] = [grey.width, grey.height];
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(grey, 0, 0);
    const pixels = pen.getImageData(0, 0, grey.width, grey.height);
    const colors = ramp();
    for (let n = 0; n < pixels.data.length; n += 4) pixels.data.set(colors.subarray(4 * pixels.data[n], 4 * pixels.data[n] + 4), n);
    pen.putImageData(pixels, 0, 0);
    this.toggle("chart", $("chart").ariaPressed === "true");
  }

  toggle(id, on = $(id).ariaPressed !== "true") {
    $(id).ariaPressed = String(on);
    if (id === "chart") $("map").hidden = $("legend").hidden = !on;
    else this.lens(on ? (this.lensAt ?? this.middle()) : null);
  }

  // ------------------------------------------------------------ where the picture is

  middle() {
    const x = this.both ? (this.handle.value / 100) * this.pane.clientWidth : this.pane.clientWidth / 2;
    return { x, y: this.pane.clientHeight / 2 };
  }

  // The zoom at which the whole picture fills the pane.
  filling() {
    const [width, height] = this.size;
    return Math.min(this.pane.clientWidth / width, this.pane.clientHeight / height, MOST / devicePixelRatio);
  }

  fit() {
    if (!this.size) return;
    this.zoom = this.filling();
    this.fitted = true;
    [this.x, this.y] = [0, 0];
    this.place();
  }

  // `at`: what stays where it is, an event or the middle of the pane.
  zoomTo(zoom, at = null) {
    if (!this.size) return;
    const box = this.pane.getBoundingClientRect();
    const [x, y] = at ? [at.clientX - box.left, at.clientY - box.top] : [box.width / 2, box.height / 2];
    const filling = this.filling();
    zoom = between(Math.min(filling, 1 / devicePixelRatio), zoom, MOST / devicePixelRatio);
    this.x = x - ((x - this.x) * zoom) / this.zoom;
    this.y = y - ((y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.fitted = zoom === filling;
    this.place();
  }

  zoomBy(factor, at = null) {
    this.zoomTo(this.zoom * factor, at);
  }

  pan(x, y) {
    [this.x, this.y] = [this.x + x, this.y + y];
    this.place();
  }

  place() {
    const [width, height] = this.size;
    const kept = (offset, room, length) => (length <= room ? (room - length) / 2 : between(room - length, offset, 0));
    this.x = kept(this.x, this.pane.clientWidth, width * this.zoom);
    this.y = kept(this.y, this.pane.clientHeight, height * this.zoom);
    Object.assign(this.stage.style, { width: `${width}px`, height: `${height}px`, transform: `translate(${this.x}px,${this.y}px) scale(${this.zoom})` });
    this.stage.classList.toggle("pixels", this.zoom * devicePixelRatio >= 2);
    this.large = this.zoom > 1.001 * this.filling();
    this.pane.classList.toggle("large", this.large);
    $("zoom").textContent = `${Math.round(100 * this.zoom * devicePixelRatio)} %`;
    this.cut();
  }

  cut() {
    const share = this.handle.value / 100;
    const x = share * this.pane.clientWidth;
    $("line").style.left = `${100 * share}%`;
    const shown = between(0, (x - this.x) / this.zoom, this.size?.[0] ?? 0);
    $("before").style.clipPath = this.both ? `inset(0 calc(100% - ${shown}px) 0 0)` : "";
    this.handle.ariaValueText = `${Math.round(100 * share)} % before, the rest after`;
    if ($("loupe").ariaPressed === "true" && !this.lensAt) this.lens(this.middle());
  }

  // ------------------------------------------------------------ the lens

  lens(at) {
    const lens = $("lens");
    lens.hidden = !at || !this.both || $("loupe").ariaPressed !== "true";
    if (lens.hidden) return;
    const side = Math.min(220, (this.pane.clientWidth - 24) / 2);
    const zoom = Math.max(1 / devicePixelRatio, this.zoom);
    const [x, y] = [(at.x - this.x) / this.zoom, (at.y - this.y) / this.zoom];
    lens.style.setProperty("--lens", `${side}px`);
    const above = at.y - side - 24;
    const left = between(4, at.x - side - 4, this.pane.clientWidth - 2 * side - 12);
    lens.style.transform = `translate(${left}px,${above > 4 ? above : Math.min(at.y + 24, this.pane.clientHeight - side - 4)}px)`;
    [...lens.children].forEach((circle, n) => Object.assign(circle.style, {
      backgroundImage: `url(${this.urls[n]})`,
      backgroundSize: `${this.size[0] * zoom}px ${this.size[1] * zoom}px`,
      backgroundPosition: `${side / 2 - 3 - x * zoom}px ${side / 2 - 3 - y * zoom}px`,
    }));
  }

  // ------------------------------------------------------------ pointers and keys

  at(event) {
    const box = this.pane.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  down(event) {
    if (event.button || !this.size || event.target.closest("#status")) return;
    this.pane.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    const grip = event.target.closest("#line");
    this.doing = this.pointers.size > 1 ? "pinch" : grip || !this.large ? "slide" : "pan";
    if (this.doing === "slide") {
      event.preventDefault();
      if (this.both) this.handle.focus({ preventScroll: true });
      this.slide(event);
    }
    this.pane.classList.toggle("moving", this.doing === "pan");
  }

  drag(event) {
    if ($("loupe").ariaPressed === "true") this.lens((this.lensAt = this.at(event)));
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    if (this.doing === "slide") this.slide(event);
    if (this.doing === "pan") this.pan(event.clientX - last.clientX, event.clientY - last.clientY);
    if (this.doing === "pinch") {
      const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      this.zoomBy(apart(event) / apart(last), other);
    }
    this.pointers.set(event.pointerId, event);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.pane.classList.remove("moving");
    else this.doing = "pan";
  }

  slide(event) {
    if (!this.both) return;
    this.handle.value = (100 * this.at(event).x) / this.pane.clientWidth;
    this.cut();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pans = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const keys = {
      "+": "in", "=": "in", "-": "out", "−": "out", 0: "fit", 1: "one", l: "loupe", c: "chart",
    };
    if (event.shiftKey && pans[event.key] && this.size) this.pan(...pans[event.key]);
    else if (keys[event.key.toLowerCase()]) {
      const button = $(keys[event.key.toLowerCase()]);
      if (!button.hidden) button.click();
    } else return;
    event.preventDefault();
  }
}

// An image that can be shown, or null.
async function load(url) {
  if (!url) return null;
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

// RGBA of 256 levels, from the colours of the style sheet.
function ramp() {
  const stops = getComputedStyle(document.documentElement).getPropertyValue("--map-ramp").match(/#[0-9a-f]{6}/g);
  const pen = Object.assign(document.createElement("canvas"), { width: 256, height: 1 }).getContext("2d");
  const gradient = pen.createLinearGradient(0, 0, 256, 0);
  stops.forEach((color, n) => gradient.addColorStop(n / (stops.length - 1), color));
  pen.fillStyle = gradient;
  pen.fillRect(0, 0, 256, 1);
  return pen.getImageData(0, 0, 256, 1).data;
}
