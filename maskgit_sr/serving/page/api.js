// The server's API: errors as the server words them, a token if it asks for one, and patience.

export class Refused extends Error {
  constructor(status, line, seconds) {
    super(line);
    [this.status, this.seconds] = [status, seconds];
  }
}

export class Lost extends Error {}

const TOKEN = "maskgit-sr token";
const QUIET = 20; // seconds without an event after which a stream counts as dead
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// `asks(wrong)` resolves to a token; `lost(seconds or null)` is told of the connection.
export class Api {
  constructor(asks, lost) {
    [this.asks, this.lost] = [asks, lost];
    [this.asking, this.waiting, this.failures] = [null, null, 0];
  }

  // One request. Throws Lost without an answer, Refused at an error; asks for the token itself.
  async once(path, options = {}) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost();
    }
    this.found();
    if (answer.ok) return answer;
    let line = `${answer.status} ${answer.statusText}`;
    try {
      line = (await answer.json()).error ?? line;
    } catch {} // of a proxy, not of the server
    if (answer.status === 401) {
      await this.token(token);
      return this.once(path, options);
    }
    throw new Refused(answer.status, line, Number(answer.headers.get("Retry-After")) || 0);
  }

  // All requests that need a token wait for one dialogue.
  async token(tried) {
    if (sessionStorage.getItem(TOKEN) !== tried) return; // given meanwhile
    this.asking ??= this.asks(tried !== null).then((given) => {
      sessionStorage.setItem(TOKEN, given);
      this.asking = null;
    });
    await this.asking;
  }

  // The same request until there is an answer.
  async request(path, options = {}) {
    for (;;) {
      try {
        return await this.once(path, options);
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        await this.patience(options.signal);
      }
    }
  }

  // Waits before another try, longer each time; all that wait try again together.
  async patience(signal) {
    this.waiting ??= this.countDown(Math.min(15, 2 ** this.failures++)).then(() => (this.waiting = null));
    await this.waiting;
    signal?.throwIfAborted();
  }

  async countDown(seconds) {
    let over = false;
    this.now = () => (over = true);
    for (let left = seconds; left > 0 && !over; left -= 0.25) {
      this.lost(Math.ceil(left));
      await sleep(0.25);
    }
    this.lost(0);
  }

  found() {
    if (!this.failures) return;
    this.failures = 0;
    this.lost(null);
  }

  // Calls `see` with every state of a job, and returns the last.
  async follow(id, see, signal) {
    for (;;) {
      const quiet = new AbortController();
      let timer;
      const heard = () => {
        clearTimeout(timer);
        timer = setTimeout(() => quiet.abort(), 1000 * QUIET);
      };
      try {
        heard();
        const answer = await this.request(`/jobs/${id}/events`, { signal: AbortSignal.any([signal, quiet.signal]) });
        for await (const state of events(answer.body, heard)) {
          see(state);
          if (["done", "failed", "cancelled"].includes(state.state)) return state;
        }
        await sleep(0.5); // ended by the server, which another stream may have made it do
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof Refused) throw error;
        await this.patience(signal);
      } finally {
        clearTimeout(timer);
        quiet.abort();
      }
    }
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}
