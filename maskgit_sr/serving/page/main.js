// The page: what is dropped, chosen or pasted is restored by the server that sent this page.

import { Api } from "/page/api.js";
import { List, bar } from "/page/list.js";
import { Queue } from "/page/queue.js";
import { Settings } from "/page/settings.js";
import { Store } from "/page/store.js";
import { Viewer } from "/page/viewer.js";
import { zip } from "/page/zip.js";

const $ = (id) => document.getElementById(id);
const SETTINGS = "maskgit-sr settings";

// ---------------------------------------------------------------- the server

function asks(wrong) {
  $("wrong").textContent = wrong ? "That is not the server's token." : "";
  $("token").value = "";
  if (!$("ask").open) $("ask").showModal();
  $("token").focus();
  return new Promise((resolve) => {
    $("ask").oncancel = (event) => event.preventDefault(); // nothing works without
    $("ask").querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      $("ask").close();
      resolve($("token").value.trim());
    };
  });
}

function lost(seconds) {
  $("banner").hidden = seconds === null;
  const text = seconds ? `No connection to the server. Trying again in ${seconds} s.` : "No connection to the server. Trying again…";
  if (seconds !== null) $("banner").firstElementChild.textContent = text;
}

async function describe() {
  for (;;) {
    try {
      return await (await api.request("/info")).json();
    } catch (error) {
      $("model").textContent = error.status === 503 ? "The model is being loaded…" : error.message;
      await new Promise((done) => setTimeout(done, 1500));
    }
  }
}

const api = new Api(asks, lost);
$("banner").querySelector("button").addEventListener("click", () => api.now?.());
const store = await Store.open();
const queue = new Queue(api, store);
const viewer = new Viewer();
const list = new List(queue, { choose, save, remove });
let [current, settings] = [null, null];
const early = []; // files that came before the settings

// ---------------------------------------------------------------- pictures

function add(files) {
  if (!settings) {
    early.push(...files);
    return;
  }
  const added = [...files].map((file) => queue.add(file, settings.chosen()));
  if (added.length && (!current || current.state === "done" || current.state === "failed")) choose(added[0]);
}

function choose(item) {
  current = item;
  list.draw(current);
  show();
}

function remove(item) {
  const at = queue.items.indexOf(item);
  queue.remove(item);
  const next = queue.items[at] ?? queue.items[at - 1] ?? null;
  if (current === item) choose(next);
  (next ? list.rows.get(next.id).querySelector(".row") : $("choose")).focus();
}

const nameOf = (item) => item.stem + item.ending;

function download(name, blob) {
  const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60e3);
}

function save(item) {
  download(nameOf(item), queue.blobs.get(item.id).result);
}

async function saveAll() {
  const done = queue.items.filter((item) => item.state === "done");
  $("all").disabled = true;
  try {
    download("maskgit-sr.zip", await zip(done.map((item) => [nameOf(item), queue.blobs.get(item.id).result])));
  } catch (error) {
    $("alert").textContent = $("count").textContent = error.message;
  }
  $("all").disabled = false;
}

function show() {
  $("view").hidden = !current;
  if (!current) return;
  $("name").textContent = current.name;
  const blobs = queue.blobs.get(current.id);
  const done = current.state === "done";
  $("save").hidden = !done;
  $("again").hidden = !["done", "failed"].includes(current.state);
  $("notes").replaceChildren(...(current.facts?.notes ?? []).map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  const mean = current.facts?.confidence;
  const label = [`· ${current.label}`, mean == null ? "" : `· confidence ${mean.toFixed(2)}`].join(" ");
  viewer.show(current, blobs, label).then(status);
  status();
}

function status() {
  if (!current) return;
  const done = current.state === "done";
  const lines = [viewer.item === current ? viewer.unseen : "", done ? "" : current.line].filter(Boolean);
  $("status").hidden = !lines.length;
  $("status").classList.toggle("failed", current.state === "failed");
  $("status-text").textContent = lines.join(". ");
  bar($("status-bar"), current);
}

queue.addEventListener("change", ({ detail: item }) => {
  const [main, any] = [document.querySelector("main"), queue.items.length > 0];
  main.classList.toggle("empty", !any);
  $("pictures").hidden = !any;
  list.draw(current);
  if (item && item === current) {
    if (item.state === "working") status();
    else show();
  }
});
queue.addEventListener("say", ({ detail }) => ($("said").textContent = detail));
queue.addEventListener("alert", ({ detail }) => ($("alert").textContent = detail));

// ---------------------------------------------------------------- how pictures come in

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = "";
});
const root = document.documentElement;
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    root.classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget === null && root.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  root.classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => add(event.clipboardData.files));
$("save").addEventListener("click", () => save(current));
$("again").addEventListener("click", () => choose(queue.add(new File([queue.blobs.get(current.id).input], current.name), settings.chosen())));
$("all").addEventListener("click", saveAll);
$("clear").addEventListener("click", () => {
  for (const item of [...queue.items]) queue.remove(item);
  choose(null);
  $("choose").focus();
});

// ---------------------------------------------------------------- begin

if (matchMedia("(max-width: 860px)").matches) $("settings").open = false;
const info = await describe();
$("model").textContent = `${info.model} · ×${info.scale}`;
const form = document.querySelector("#settings form");
settings = new Settings(info, form);
settings.restore(JSON.parse(sessionStorage.getItem(SETTINGS) ?? "{}"));
const summarise = () => {
  sessionStorage.setItem(SETTINGS, JSON.stringify(settings.values()));
  $("summary").textContent = settings.chosen().label;
};
form.addEventListener("input", summarise);
summarise();
queue.limit = info.limits.bytes;
await queue.resume();
if (queue.items.length) choose(queue.items.find((item) => item.state !== "done") ?? queue.items[0]);
add(early.splice(0));
document.documentElement.dataset.ready = "true";
