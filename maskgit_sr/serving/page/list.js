// The list of pictures: each with its thumbnail, what happens to it, and what can be done with it.

const $ = (id) => document.getElementById(id);
const THUMB = 96;

export class List {
  // `on`: {choose, save, remove}, each called with an item.
  constructor(queue, on) {
    [this.queue, this.on, this.rows] = [queue, on, new Map()];
    $("list").addEventListener("keydown", (event) => this.key(event));
  }

  draw(current) {
    const { items } = this.queue;
    for (const [id, row] of this.rows) {
      if (items.some((item) => item.id === id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    for (const item of items) this.row(item).classList.toggle("current", item === current);
    const done = items.filter((item) => item.state === "done").length;
    $("count").textContent = items.length > 1 || done ? `${done} of ${items.length} done` : "";
    $("all").disabled = !done;
    $("all").textContent = done > 1 || items.length > 1 ? "Download all (zip)" : "Download (zip)";
  }

  row(item) {
    let line = this.rows.get(item.id);
    if (!line) {
      line = document.createElement("li");
      line.innerHTML = `<button type="button" class="row"><span class="blank"></span><b></b><span class="state"></span></button>
        <span class="small"><button type="button" class="save" title="Download">↓</button><button type="button" class="remove" title="Remove">✕</button></span><progress max="1"></progress>`;
      line.querySelector("b").textContent = line.querySelector("b").title = item.name;
      line.querySelector(".blank").textContent = item.name.split(".").pop().slice(0, 4).toUpperCase();
      line.querySelector(".save").ariaLabel = `Download ${item.name}`;
      line.querySelector(".remove").ariaLabel = `Remove ${item.name}`;
      line.querySelector("progress").ariaLabel = `Progress of ${item.name}`;
      for (const [name, act] of [["row", "choose"], ["save", "save"], ["remove", "remove"]]) {
        line.querySelector(`.${name}`).addEventListener("click", () => this.on[act](item));
      }
      this.rows.set(item.id, line);
      $("list").append(line);
      this.thumb(item, line.querySelector(".blank"));
    }
    line.classList.toggle("done", item.state === "done");
    line.classList.toggle("failed", item.state === "failed");
    line.querySelector(".state").textContent = item.line;
    line.querySelector(".save").hidden = item.state !== "done";
    bar(line.querySelector("progress"), item);
    return line;
  }

  async thumb(item, blank) {
    try {
      const image = await createImageBitmap(this.queue.blobs.get(item.id).input, { resizeWidth: THUMB, resizeQuality: "medium" });
      const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height, ariaHidden: "true" });
      canvas.getContext("2d").drawImage(image, 0, 0);
      image.close();
      blank.replaceWith(canvas);
    } catch {} // a format that this browser does not show, or no image: its suffix stands there
  }

  key(event) {
    const rows = [...$("list").children];
    const at = rows.indexOf(event.target.closest("li"));
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 };
    if (event.key in steps) rows[steps[event.key]]?.querySelector(".row").focus();
    else if (event.key === "Delete" && at >= 0) this.on.remove(this.queue.items.find((item) => this.rows.get(item.id) === rows[at]));
    else return;
    event.preventDefault();
  }
}

// Shows how far an item is.
export function bar(progress, item) {
  progress.hidden = !["waiting", "working"].includes(item.state) || (item.state === "waiting" && progress.closest("li") !== null);
  if (item.progress === null) progress.removeAttribute("value");
  else progress.value = item.progress;
}
