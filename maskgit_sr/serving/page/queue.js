// Pictures on their way: sent, watched and fetched, two at a time, whatever happens in between.

import { Lost, Refused } from "/page/api.js";
import { drawn } from "/page/store.js";

const AT_ONCE = 2; // a browser opens six connections, and each picture needs one
const LATER = [429, 503]; // too busy, loading or stopping
const AFRESH = 3; // times that a job may be lost, as by a restart of the server

// An item: {id, order, name, query, label, stem, state, line, progress, key, job, facts}. Its state
// is waiting, working, done or failed; `line` says it in words. Blobs are beside it.
export class Queue extends EventTarget {
  constructor(api, store) {
    super();
    [this.api, this.store] = [api, store];
    [this.items, this.blobs, this.running, this.limit] = [[], new Map(), new Map(), Infinity];
  }

  async resume() {
    for (const item of await this.store.items()) {
      const blobs = {};
      for (const name of ["input", "result", "map"]) blobs[name] = await this.store.blob(item, name);
      if (!blobs.input || (item.state === "done" && !blobs.result)) continue;
      if (item.state === "working") item.state = "waiting";
      this.items.push(item);
      this.blobs.set(item.id, blobs);
    }
    this.tell();
    this.pump();
  }

  add(file, settings) {
    const name = file.name || "pasted.png";
    const stem = name.replace(/\.[^.]*$/, "") || name;
    const item = { id: drawn(), order: Date.now() + this.items.length / 1e4, name, stem, ...settings };
    Object.assign(item, { state: "waiting", line: "Waiting", progress: null, key: drawn(), job: null, facts: null });
    this.items.push(item);
    this.blobs.set(item.id, { input: file });
    this.store.keepBlob(item, "input", file);
    this.change(item);
    this.pump();
    return item;
  }

  remove(item) {
    this.running.get(item.id)?.abort();
    this.items = this.items.filter((other) => other !== item);
    this.blobs.delete(item.id);
    this.store.remove(item).catch(() => {});
    this.forget(item);
    this.tell();
  }

  // Deletes the job at the server, which otherwise keeps it for some minutes.
  forget(item) {
    if (item.job) this.api.once(`/jobs/${item.job}`, { method: "DELETE" }).catch(() => {});
    item.job = null;
  }

  pump() {
    for (const item of this.items) {
      if (this.running.size >= AT_ONCE) return;
      if (item.state !== "waiting" || this.running.has(item.id)) continue;
      const control = new AbortController();
      this.running.set(item.id, control);
      this.run(item, control.signal).catch((error) => {
        if (!control.signal.aborted) this.fail(item, error);
      }).finally(() => {
        this.running.delete(item.id);
        this.pump();
      });
    }
  }

  async run(item, signal) {
    for (let lost = 0; ; ) {
      try {
        if (!item.job) await this.send(item, signal);
        const last = await this.api.follow(item.job, (state) => this.see(item, state), signal);
        if (last.state === "done") return await this.fetch(item, last, signal);
        throw new Refused(last.status ?? 404, last.error ?? "", last.retry_after ?? 0);
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Refused)) throw error;
        if (LATER.includes(error.status)) await this.later(item, error, signal);
        else if (error.status !== 404 || ++lost > AFRESH) throw error;
        this.forget(item);
        item.key = drawn(); // that of a job that has ended would be given the same again
      }
    }
  }

  async send(item, signal) {
    this.change(item, { state: "working", line: "Sending", progress: null });
    const headers = { "Idempotency-Key": item.key, "Content-Type": "application/octet-stream" };
    const body = this.blobs.get(item.id).input;
    // the server says so before it has read it all, which a browser may take for a lost connection
    if (body.size > this.limit) throw new Refused(413, `more than the limit of ${this.limit.toLocaleString("en-US")} bytes`);
    const answer = await this.api.request(`/jobs?${item.query}`, { method: "POST", headers, body, signal });
    this.change(item, { job: (await answer.json()).id });
  }

  see(item, { state, done, tiles, seconds_left: left }) {
    const share = tiles ? done / tiles : null;
    const counted = `${done} of ${tiles} ${tiles === 1 ? "tile" : "tiles"}${left === undefined ? "" : `, ${about(left)} left`}`;
    const lines = {
      queued: "In the queue", decoding: "Reading", compiling: "Compiling for these options", restoring: counted, finishing: "Writing",
    };
    if (state === "restoring" && Math.floor(4 * share) > Math.floor(4 * (item.progress ?? 0))) this.say(`${item.name}: ${counted}`);
    if (lines[state]) this.change(item, { state: "working", line: lines[state], progress: share });
  }

  async fetch(item, last, signal) {
    const blobs = this.blobs.get(item.id);
    const get = async (name) => {
      for (;;) {
        const answer = await this.api.request(`/jobs/${item.job}/${name}`, { signal });
        try {
          return await answer.blob();
        } catch {
          await this.api.patience(signal); // cut off within
        }
      }
    };
    blobs.result = await get("result");
    if (last.confidence != null) blobs.map = await get("confidence");
    const kept = [this.store.keepBlob(item, "result", blobs.result)];
    if (blobs.map) kept.push(this.store.keepBlob(item, "map", blobs.map));
    await Promise.all(kept);
    const facts = { seconds: last.seconds, bytes: last.bytes, confidence: last.confidence, notes: last.notes };
    const line = `Done in ${spent(last.seconds)}`;
    this.forget(item);
    this.change(item, { state: "done", line, progress: 1, facts });
    this.say(`${item.name}: ${line}`);
  }

  async later(item, error, signal) {
    const seconds = error.seconds || 5;
    this.change(item, { state: "working", line: `${sentence(error.message)}. Waiting for ${seconds} s`, progress: null });
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    signal.throwIfAborted();
  }

  fail(item, error) {
    if (!(error instanceof Refused) && !(error instanceof Lost)) console.error(error);
    this.forget(item);
    this.change(item, { state: "failed", line: error.message || String(error), progress: null });
    this.dispatchEvent(new CustomEvent("alert", { detail: `${item.name}: ${item.line}` }));
  }

  change(item, changes = {}) {
    if (!this.blobs.has(item.id)) return; // removed meanwhile
    const counts = Object.keys(changes).some((name) => !["line", "progress"].includes(name) && item[name] !== changes[name]);
    Object.assign(item, changes);
    if (counts || !Object.keys(changes).length) this.store.keep(item); // not at every tile
    this.dispatchEvent(new CustomEvent("change", { detail: item }));
  }

  tell = () => this.dispatchEvent(new CustomEvent("change", { detail: null }));
  say = (text) => this.dispatchEvent(new CustomEvent("say", { detail: text }));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const spent = (seconds) => (seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`);

function about(seconds) {
  if (seconds < 10) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 90) return `about ${5 * Math.round(seconds / 5)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}
