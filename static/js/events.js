// The log of every answer, in IndexedDB: when it was given, how long it took, how the cell came to be
// shown. Labels do not depend on it: if it cannot be kept, `failed` says so and labelling goes on.

const STORE = "events";
const BY_POLICY = "policy";
const PATIENCE_MS = 4000;

export class EventLog {
  /**
   * @param {string} dataset - names the run.
   * @param {IDBFactory | undefined} factory - `indexedDB`, where the browser has it.
   * @param {(error: Error) => void} failed - called once, when an event cannot be kept.
   * @param {(isNew: boolean) => string} browserId - this browser's id; another than before for a new log.
   */
  constructor(dataset, factory, failed, browserId) {
    this.failed = failed;
    this.browserId = browserId;
    this.broken = false;
    this.pending = [];
    this.unkept = [];
    this.database = open(factory, `mkhspc/1/${dataset}`);
    this.database.catch((error) => this.#fail(error));
  }

  /** Adds answers just given, numbered; returns at once. */
  add(events) {
    this.#keep(events, (last) => numbered(events, this.browserId(last === 0), last));
  }

  /** Adds events of a file as they are; returns at once. */
  bring(events) {
    this.#keep(events, () => events);
  }

  #keep(events, ready) {
    if (!events.length) return;
    const writing = this.#write(ready).catch((error) => {
      this.unkept.push(...events);
      this.#fail(error);
    });
    this.pending.push(writing);
    writing.then(() => this.pending.splice(this.pending.indexOf(writing), 1));
  }

  /** Resolves when what was added is written, or has failed. */
  async flush() {
    await Promise.race([Promise.all(this.pending), wait(300)]);
  }

  /** Every event, oldest first; those that could not be kept, of this page alone. */
  async all() {
    return [...(await this.#read((store) => store.getAll())), ...this.unkept];
  }

  /** The latest answer to each cell that was shown again: a Map of cell id to label. */
  async answers(policy) {
    const events = await this.#read((store) => store.index(BY_POLICY).getAll(policy));
    return new Map([...events, ...this.unkept.filter((e) => e.policy === policy)].map((e) => [e.cell_id, e.label]));
  }

  /** @param {(last: number) => object[]} ready - makes the events, given the number of the log's last one. */
  async #write(ready) {
    const transaction = (await this.database).transaction(STORE, "readwrite");
    const store = transaction.objectStore(STORE);
    store.openKeyCursor(null, "prev").onsuccess = ({ target }) => {
      for (const event of ready(target.result?.key ?? 0)) store.add(event);
    };
    await finished(transaction);
  }

  async #read(request) {
    const read = async () => {
      const database = await this.database;
      return answer(request(database.transaction(STORE).objectStore(STORE)));
    };
    const late = wait(PATIENCE_MS).then(() => {
      throw new Error("the event log does not answer");
    });
    try {
      return await Promise.race([read(), late]);
    } catch (error) {
      this.#fail(error);
      return [];
    }
  }

  #fail(error) {
    if (!this.broken) this.failed(error);
    this.broken = true;
  }
}

/** Events with this browser's id and their number in its log, which orders them whatever the clock says. */
function numbered(events, browser, last) {
  return events.map((event, i) => ({ ...event, browser, seq: last + 1 + i }));
}

async function open(factory, name) {
  if (!factory) throw new Error("this browser has no IndexedDB");
  const request = factory.open(name, 1);
  request.onupgradeneeded = () => {
    const store = request.result.createObjectStore(STORE, { autoIncrement: true });
    store.createIndex(BY_POLICY, "policy");
  };
  return answer(request);
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

function wait(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
