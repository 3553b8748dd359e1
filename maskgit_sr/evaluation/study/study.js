"use strict";
// The parts of a session that need no page.
const Study = (() => {
  // Numbers in [0, 1) from a 32-bit seed, the same in every browser: xorshift (Marsaglia 2003).
  function random(seed) {
    let state = seed >>> 0 || 1;
    const next = () => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) / 2 ** 32;
    };
    for (let i = 0; i < 16; i++) next(); // small seeds begin alike
    return next;
  }

  function shuffled(list, next) {
    const copy = [...list];
    for (let last = copy.length - 1; last > 0; last--) {
      const other = Math.floor(next() * (last + 1));
      [copy[last], copy[other]] = [copy[other], copy[last]];
    }
    return copy;
  }

  // Trials {scene, system, left} in random order; left: the reference is on the left. No scene comes
  // twice, since the one that comes again is the reference. Systems come equally often, and each has
  // the reference equally often on either side.
  function plan(scenes, systems, trials, seed) {
    const next = random(seed);
    const chosen = shuffled(Array(scenes).keys(), next).slice(0, trials);
    const turn = shuffled(Array(systems).keys(), next);
    const first = turn.map(() => next() < 0.5);
    const made = chosen.map((scene, i) => {
      const system = turn[i % systems];
      return { scene, system, left: Math.floor(i / systems) % 2 === 0 ? first[system] : !first[system] };
    });
    return shuffled(made, next);
  }

  const columns = ["study", "subject", "seed", "trial", "task", "seconds", "image", "system", "reference_side",
    "answer", "shown_ms", "answer_ms", "scale"];
  const field = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const csv = (rows) => [columns, ...rows.map((row) => columns.map((name) => row[name]))]
    .map((values) => values.map(field).join(",") + "\r\n").join("");

  return { random, shuffled, plan, csv, columns };
})();

if (typeof document !== "undefined") {
  const $ = (id) => document.getElementById(id);
  // {study, task, seconds, trials, systems: [name], scenes: [{name, width, height}]}
  const study = JSON.parse($("data").textContent);
  const pause = 700; // milliseconds without pictures before each trial
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const rows = [];
  let saved = true;
  let stopped = false;
  let answered = null; // takes "left", "right" or null while an answer is awaited

  const wait = (time) => new Promise((done) => setTimeout(done, time));
  const frame = () => new Promise((done) => requestAnimationFrame(done));

  function show(part, phase = "") {
    for (const name of ["intro", "trial", "end"]) $(name).hidden = name !== part;
    $("trial").dataset.phase = phase;
    for (const side of ["left", "right"]) $(`choose-${side}`).disabled = phase !== "answer";
  }

  // Puts the decoded pictures of a trial into their places, unseen as yet; returns CSS pixels for one of theirs.
  async function place({ scene, system, left }) {
    const { width, height } = study.scenes[scene];
    const pictures = { left: left ? "hr" : system, right: left ? system : "hr" };
    if (study.task === 1) pictures.middle = "lr";
    const places = Object.entries(pictures).map(([side, key]) => {
      const image = $(`picture-${side}`);
      image.src = $(`s${scene}-${key}`).textContent;
      return image;
    });
    await Promise.all(places.map((image) => image.decode()));
    const gap = 24;
    const room = [(innerWidth - gap * (places.length + 1)) / places.length / width, (innerHeight - 190) / height];
    const scale = Math.min(1, ...room);
    $("trial").style.setProperty("--width", `${width * scale}px`);
    $("trial").style.setProperty("--height", `${height * scale}px`);
    return scale;
  }

  // Shows the pictures for the time of the study; false if the page was not in sight all the while.
  async function look() {
    let whole = !document.hidden;
    const hide = () => { whole = false; };
    document.addEventListener("visibilitychange", hide);
    show("trial", "look");
    await frame();
    const start = performance.now();
    await wait(study.seconds * 1000);
    show("trial", "answer");
    await frame();
    document.removeEventListener("visibilitychange", hide);
    return { whole, shown: performance.now() - start };
  }

  function answer() {
    return new Promise((done) => {
      answered = (side) => {
        answered = null;
        done(side);
      };
    });
  }

  async function session(subject) {
    const queue = Study.plan(study.scenes.length, study.systems.length, study.trials, seed);
    const total = queue.length;
    while (queue.length && !stopped) {
      const trial = queue.shift();
      $("progress").textContent = `${rows.length + 1} of ${total}`;
      show("trial", "pause");
      const scale = await place(trial);
      await wait(pause);
      if (stopped) break;
      const { whole, shown } = await look();
      if (!whole) { // comes once more, at the end
        queue.push(trial);
        continue;
      }
      const start = performance.now();
      const side = stopped ? null : await answer();
      if (side === null) break;
      saved = false;
      rows.push({
        study: study.study, subject, seed, trial: rows.length + 1, task: study.task, seconds: study.seconds,
        image: study.scenes[trial.scene].name, system: study.systems[trial.system],
        reference_side: trial.left ? "left" : "right", answer: side,
        shown_ms: Math.round(shown), answer_ms: Math.round(performance.now() - start),
        scale: (scale * devicePixelRatio).toFixed(3), // pixels of the screen for one of the picture
      });
    }
    finish(subject, total);
  }

  function finish(subject, total) {
    show("end");
    $("count").textContent = `${rows.length} of ${total}`;
    const text = Study.csv(rows);
    $("answers").value = text;
    const link = $("save");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `answers-${study.study}-${subject.replace(/[^\w-]+/g, "_")}.csv`;
    link.hidden = !rows.length;
    link.addEventListener("click", () => { saved = true; });
    link.focus();
  }

  $("trials").textContent = study.trials;
  const keys = { ArrowLeft: "left", f: "left", F: "left", ArrowRight: "right", j: "right", J: "right" };
  document.addEventListener("keydown", (event) => {
    if ($("trial").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") {
      stopped = true;
      answered?.(null);
    } else if (keys[event.key]) {
      event.preventDefault(); // no scrolling
      answered?.(keys[event.key]);
    }
  });
  for (const side of ["left", "right"]) $(`choose-${side}`).addEventListener("click", () => answered?.(side));
  $("start").addEventListener("submit", (event) => {
    event.preventDefault();
    session($("subject").value.trim() || seed.toString(16).padStart(8, "0"));
  });
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
}
