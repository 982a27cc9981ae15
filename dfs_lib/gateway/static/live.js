// News of the cluster: one EventSource for the whole page, and what is known from it. Says when it cannot hear, and tries again by itself.
//
//   connecting ──status──▶ live ──nothing for QUIET_MS, an error, or "unreachable"──▶ lost ──status──▶ live
//   hidden page: the connection is given back after a while (a browser has six per host), and taken again when it is looked at

const QUIET_MS = 12_000;  // the gateway sends a status every 5 s at least
const PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000];
const HIDDEN_MS = 30_000;
const MOST_HAPPENINGS = 300;

class Live extends EventTarget {
  constructor() {
    super();
    this.status = null;         // the last status, as /api/status has it
    this.statusAt_ms = null;    // when it came, on performance.now()'s clock
    this.happenings = [];       // the newest first
    this.state = "off";         // off, connecting, live, lost
    this.fault = "";            // why it is lost, when the gateway itself says so
    this.heardAt_ms = 0;        // when anything came
    this.source = null;
    this.tries = 0;
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.seen());
    // A browser keeps a page that was left, and its connection with it: six such pages, and none could ask anything any more.
    window.addEventListener("pagehide", () => this.drop());
    window.addEventListener("pageshow", (event) => { if (event.persisted && this.state !== "off") this.connect(); });
    window.addEventListener("online", () => { if (this.state === "lost") this.connect(); });
    setInterval(() => this.tick(), 1_000);
  }

  start() {
    if (this.state === "off") this.connect();
  }

  stop() {
    this.drop();
    this.become("off");
    Object.assign(this, { status: null, statusAt_ms: null, happenings: [] });
  }

  /** Seconds since the last news, null before the first. */
  get age_s() {
    return this.statusAt_ms === null ? null : (performance.now() - this.statusAt_ms) / 1000;
  }

  drop() {
    clearTimeout(this.timer);
    if (this.source) this.source.close();
    this.source = null;
  }

  connect() {
    this.drop();
    if (this.state === "off") this.become("connecting");
    this.openedAt_ms = performance.now();
    const source = new EventSource("api/events");
    this.source = source;
    source.addEventListener("status", (event) => this.hear(event, (data) => {
      this.status = data;
      this.fault = "";
      this.statusAt_ms = performance.now();
      this.tries = 0;
      this.become("live");
      this.dispatchEvent(new Event("status"));
    }));
    source.addEventListener("happening", (event) => this.hear(event, (data) => {
      const id = event.lastEventId || null;
      if (id !== null && this.happenings.some((each) => each.id === id)) return;
      this.happenings.unshift({ ...data, id });
      this.happenings.sort((a, b) => b.at - a.at);
      this.happenings.length = Math.min(this.happenings.length, MOST_HAPPENINGS);
      this.dispatchEvent(new Event("happening"));
    }));
    // The gateway is there and the master is not: the connection stays, and the next status ends it.
    source.addEventListener("unreachable", (event) => this.hear(event, (data) => {
      this.fault = data.message || "";
      this.become("lost");
    }));
    source.addEventListener("error", () => { if (source === this.source) this.lose(); });
  }

  hear(event, take) {
    this.heardAt_ms = performance.now();
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return;
    }
    take(data);
  }

  /** The connection is of no use: another one after a growing pause. */
  lose() {
    this.drop();
    this.fault = "";
    this.become("lost");
    const pause_ms = PAUSES_MS[Math.min(this.tries, PAUSES_MS.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(() => this.connect(), pause_ms);
  }

  tick() {
    if (this.state !== "off" && this.source && performance.now() - Math.max(this.heardAt_ms, this.openedAt_ms) > QUIET_MS) this.lose();
    if (this.state !== "off") this.dispatchEvent(new Event("tick"));
  }

  seen() {
    clearTimeout(this.hiddenTimer);
    if (this.state === "off") return;
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => this.drop(), HIDDEN_MS);
    } else if (!this.source) {
      this.connect();
    }
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const live = new Live();

/** Hears of one kind of news until `signal` aborts. */
export function on(kind, handler, signal) {
  live.addEventListener(kind, handler, { signal });
}

/** {keeper id: its name and state}, of the last status. */
export function keepers() {
  return new Map((live.status ? live.status.keepers : []).map((keeper) => [keeper.keeper_id, keeper]));
}
