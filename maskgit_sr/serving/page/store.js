// What a reload must not lose: pictures, results and jobs of this tab, in the browser's database.

const TAB = "maskgit-sr tab";
const HOUR = 3600e3; // after which what a closed tab has left is deleted, at the next visit
const TOUCH = HOUR / 6;

export const drawn = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

// A tab that was duplicated begins anew: two must not work on the same pictures.
async function ownTab() {
  const channel = new BroadcastChannel("maskgit-sr tabs");
  let tab = sessionStorage.getItem(TAB);
  if (tab) {
    const taken = await new Promise((resolve) => {
      channel.onmessage = ({ data }) => data.taken === tab && resolve(true);
      channel.postMessage({ asked: tab });
      setTimeout(() => resolve(false), 150);
    });
    if (taken) tab = null;
  }
  tab ??= drawn();
  sessionStorage.setItem(TAB, tab);
  channel.onmessage = ({ data }) => data.asked === tab && channel.postMessage({ taken: tab });
  return tab;
}

export class Store {
  // Items are {id, order, …}; blobs of an item have names. Without a database nothing is kept.
  static async open() {
    const store = new Store();
    store.tab = await ownTab();
    try {
      const request = indexedDB.open("maskgit-sr", 1);
      request.onupgradeneeded = () => {
        for (const name of ["items", "blobs", "tabs"]) request.result.createObjectStore(name);
      };
      store.base = await settled(request);
      await store.touch();
      setInterval(() => store.touch(), TOUCH);
      await store.tidy();
    } catch {
      store.base = null; // as in some private windows
    }
    return store;
  }

  of(name, mode) {
    return this.base.transaction(name, mode).objectStore(name);
  }

  touch() {
    return settled(this.of("tabs", "readwrite").put(Date.now(), this.tab));
  }

  async tidy() {
    const tabs = this.of("tabs");
    const [names, times] = await Promise.all([settled(tabs.getAllKeys()), settled(tabs.getAll())]);
    const gone = names.filter((name, n) => name !== this.tab && times[n] < Date.now() - HOUR);
    for (const tab of gone) {
      for (const name of ["items", "blobs"]) await settled(this.of(name, "readwrite").delete(within(tab)));
      await settled(this.of("tabs", "readwrite").delete(tab));
    }
  }

  // Returns whether it was kept.
  async write(name, key, value) {
    if (!this.base) return false;
    try {
      await settled(this.of(name, "readwrite").put(value, [this.tab, ...key]));
      return true;
    } catch {
      return false; // no room: it lasts as long as the page
    }
  }

  keep = (item) => this.write("items", [item.id], item);
  keepBlob = (item, name, blob) => this.write("blobs", [item.id, name], blob);

  async items() {
    if (!this.base) return [];
    const found = await settled(this.of("items").getAll(within(this.tab)));
    return found.sort((a, b) => a.order - b.order);
  }

  async blob(item, name) {
    return this.base ? settled(this.of("blobs").get([this.tab, item.id, name])) : undefined;
  }

  async remove(item) {
    if (!this.base) return;
    await settled(this.of("items", "readwrite").delete([this.tab, item.id]));
    await settled(this.of("blobs", "readwrite").delete(within(this.tab, item.id)));
  }
}

const within = (...key) => IDBKeyRange.bound(key, [...key, []]);
