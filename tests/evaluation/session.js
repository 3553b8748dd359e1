// Run by node: prints what the page's script plans and writes, and what a session makes, as JSON.
const fs = require("fs");
const vm = require("vm");
const script = fs.readFileSync(process.argv[2], "utf8");

// A page with as much of a browser as the script needs; its time passes without waiting.
function open(subject) {
  const elements = {};
  const listeners = {};
  const on = (name, call) => { listeners[name] = call; };
  const $ = (id) => elements[id] ??= {
    hidden: false, dataset: {}, textContent: id.startsWith("s") ? id : "", value: "", style: { setProperty() {} },
    addEventListener: (name, call) => on(`${id} ${name}`, call), decode: async () => {}, focus() {},
  };
  $("subject").value = subject;
  const scenes = ["a", "b", "c", "d"].map((name) => ({ name, width: 300, height: 300 }));
  $("data").textContent = JSON.stringify({ study: "5tudy", task: 1, seconds: 3, trials: 4, systems: ["one", "two"], scenes });
  let now = 0;
  const document = { hidden: false, getElementById: $, addEventListener: on, removeEventListener: (name) => delete listeners[name] };
  const later = (call, time) => { now += time; setImmediate(call); };
  vm.runInNewContext(script, {
    document, window: { addEventListener: on }, crypto: { getRandomValues: (array) => array.fill(255) },
    performance: { now: () => now }, setTimeout: later, requestAnimationFrame: (call) => later(call, 16),
    innerWidth: 800, innerHeight: 800, devicePixelRatio: 2, Blob, URL: { createObjectURL: () => "blob:" },
  });
  listeners["start submit"]({ preventDefault() {} });
  const press = (key, more = {}) => listeners.keydown({ key, preventDefault() {}, ...more });
  return { $, document, listeners, press, phase: () => ($("trial").hidden ? "" : $("trial").dataset.phase) };
}

// Presses keys in every phase, of which those of an answer should count; stops after `answers`.
async function session(subject, answers, hideAt) {
  const { $, document, listeners, press, phase } = open(subject);
  const shown = [];
  let last = "";
  let given = 0;
  for (let i = 0; i < 10000 && ($("end").hidden || i < 3); i++) {
    const current = phase();
    if (current !== last && last === "answer" && hideAt !== shown.length - 1) given += 1;
    if (current === "look" && last !== "look") {
      shown.push(["left", "middle", "right"].map((side) => $(`picture-${side}`).src).join(" "));
      if (hideAt === shown.length - 1) {
        document.hidden = true;
        listeners.visibilitychange();
        document.hidden = false;
      }
    }
    last = current;
    if (given === answers) press("Escape");
    else if (current === "answer" && hideAt !== shown.length - 1) press(given % 2 ? "j" : "ArrowLeft");
    else press(given % 2 ? "ArrowLeft" : "j"); // the other side, too early
    press("f", { repeat: true });
    await new Promise(setImmediate);
  }
  const save = $("save");
  return { csv: $("answers").value, count: $("count").textContent, file: save.download, hidden: save.hidden, shown };
}

const Study = vm.runInThisContext(`${script};Study`);
const seeds = [0, 1, 2, 0xffffffff];
const row = Object.fromEntries(Study.columns.map((name) => [name, name]));
(async () => {
  console.log(JSON.stringify({
    numbers: Array.from({ length: 4000 }, Study.random(1)),
    plans: seeds.map((seed) => Study.plan(20, 3, 12, seed)),
    again: Study.plan(20, 3, 12, 2),
    few: Study.plan(3, 2, 50, 7),
    many: Array.from({ length: 400 }, (_, seed) => Study.plan(6, 1, 6, 1000003 * seed)),
    csv: Study.csv([{ ...row, image: 'a,"b"\nc', trial: 1 }]),
    whole: await session("Ann's!", Infinity, 1),
    early: await session("", 2),
    none: await session("", 0),
  }));
})();
