// Asks the API. One status poll and one event stream serve the whole page; views name the address
// that they show and are drawn again when its answer changes.
import { useEffect, useState } from "../vendor/preact-htm.js";
import { readEvents } from "./stream.js";
import { dropToken, heldToken, requestHeaders } from "./token.js";

const STATUS_EVERY_MS = 5000;
const RECORDING_EVERY_MS = 30000;
const STREAM_RETRY_MS = 60000;
const RECONNECT_MS = 2000;
const GATHER_MS = 400;
const BUSY_RETRY_MS = 1200;

class ApiError extends Error {
  // `status` is 0 if the server did not answer.
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? "no answer");
    this.status = status;
    this.type = (problem.type ?? "").split(":").pop();
  }

  // The server is older than this page and does not have the address at all.
  get isMissingRoute() {
    return this.status === 404 && this.message.startsWith("this address does not exist");
  }
}

// `token` is one that is tried out; otherwise the one that is held is sent.
export async function getJson(address, signal, token) {
  const sent = token ?? heldToken();
  let answer;
  try {
    answer = await fetch(address, { signal, headers: { accept: "application/json", ...requestHeaders(sent) } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "slashwatch does not answer" });
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const error = new ApiError(answer.status, body ?? {});
    if (answer.status === 401 && token === undefined) refuse(error, sent);
    throw error;
  }
  if (!body) throw new ApiError(answer.status, { detail: "the answer is no JSON" });
  return body;
}

// ---- What the whole page shares

function store(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      value = next;
      for (const listener of [...listeners]) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

function useStore(shared) {
  const [value, set] = useState(shared.get());
  useEffect(() => {
    set(shared.get());
    return shared.subscribe(set);
  }, [shared]);
  return value;
}

// Why the server answers nothing to this page; null while it answers.
const refusal = store(null);
export const useRefusal = () => useStore(refusal);

function refuse(error, sent) {
  // Another tab, or the reader, may have another token by now.
  const isOurs = sent !== null && sent === heldToken() && dropToken();
  if (!refusal.get()) refusal.set({ reason: isOurs ? error.message : null });
}

// `status` is the last answer, `at` its time, `error` why there is no newer one.
const health = store({ status: null, at: null, error: null });
const feed = store("connecting");
const changes = { finding: new Set(), incident: new Set(), poll: new Set() };

export const useHealth = () => useStore(health);
export const useFeed = () => useStore(feed);

async function pollStatus() {
  try {
    const status = await getJson("/v1/status");
    health.set({ status, at: new Date(), error: null });
  } catch (error) {
    health.set({ ...health.get(), error });
  }
  // Nothing is asked any more until there is a token, which loads the page again.
  if (refusal.get()) return;
  for (const listener of [...changes.poll]) listener();
  const isRecording = health.get().status?.recording && !health.get().error;
  setTimeout(pollStatus, isRecording ? RECORDING_EVERY_MS : STATUS_EVERY_MS);
}

const gathering = new Map();
function changed(kind) {
  if (gathering.has(kind)) return;
  // Many findings may come at once. They are drawn together.
  gathering.set(kind, setTimeout(() => {
    gathering.delete(kind);
    for (const listener of [...changes[kind]]) listener();
  }, GATHER_MS));
}

// Keeps a stream open, and goes on after the last event that was read, so that nothing is missed.
async function listen(after) {
  for (;;) {
    let isRefused = false;
    try {
      const answer = await fetch("/v1/events", { headers: { accept: "text/event-stream", "last-event-id": after, ...requestHeaders() } });
      isRefused = !answer.ok;
      if (answer.ok) {
        feed.set("live");
        await readEvents(answer, ({ name, id }) => {
          after = id ?? after;
          if (changes[name]) changed(name);
        });
      }
    } catch {
      // The connection was lost.
    }
    if (refusal.get()) return;
    feed.set(isRefused ? "no stream" : "interrupted");
    await new Promise((done) => setTimeout(done, isRefused ? STREAM_RETRY_MS : RECONNECT_MS));
  }
}

export async function startData() {
  await pollStatus();
  const unsubscribe = health.subscribe(begin);
  begin(health.get());
  function begin({ status }) {
    if (!status || feed.get() !== "connecting") return;
    unsubscribe();
    if (status.recording) return feed.set("recording");
    feed.set("starting");
    listen(status.findings);
  }
}

// ---- Answers for views

// The answer of `address`, and again whenever one of `on` happens: "finding", "incident" or "poll"
// (every five seconds). A recording never changes, so it is asked once. Without an address nothing
// is asked. With `keepsOld` the answer of the address before stays until the new one has come, so
// that the buttons of a list do not vanish under the reader's finger.
export function useJson(address, on = [], keepsOld = false) {
  const [answer, setAnswer] = useState({ address: null, data: null, error: null });
  const events = on.join();
  useEffect(() => {
    if (!address) return undefined;
    const stop = new AbortController();
    let retry = null;
    let isAsking = false;
    const ask = async () => {
      if (isAsking) return;
      isAsking = true;
      clearTimeout(retry);
      try {
        const data = await getJson(address, stop.signal);
        setAnswer({ address, data, error: null });
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.type === "busy") retry = setTimeout(ask, BUSY_RETRY_MS);
        // What was known stays on the page while the server does not answer.
        setAnswer((old) => ({ address, data: old.address === address ? old.data : null, error }));
      } finally {
        isAsking = false;
      }
    };
    ask();
    const kinds = events ? events.split(",") : [];
    const isRecording = () => Boolean(health.get().status?.recording && !health.get().error);
    let isFinal = isRecording();
    const polled = () => {
      // A network that has just ended is asked about once more.
      if (isFinal && isRecording()) return;
      isFinal = isRecording();
      // Without an event stream the poll stands in for it.
      if (isFinal || kinds.includes("poll") || feed.get() !== "live") ask();
    };
    if (kinds.length) changes.poll.add(polled);
    for (const kind of kinds) if (kind !== "poll") changes[kind].add(ask);
    return () => {
      stop.abort();
      clearTimeout(retry);
      changes.poll.delete(polled);
      for (const kind of kinds) changes[kind].delete(ask);
    };
  }, [address, events]);
  return answer.address === address || (keepsOld && answer.data) ? answer : { address, data: null, error: null };
}

// A slot or an epoch. It is asked for again while it is in memory. What is read from the index does
// not change, and each question to it holds up the watcher.
export function useWhileRecent(address) {
  const [isPast, setIsPast] = useState(false);
  const answer = useJson(address, isPast ? [] : ["poll"]);
  useEffect(() => setIsPast(Boolean(answer.data?.is_over && answer.data.source === "index")), [answer.data]);
  return answer;
}

// All pages of a list, `most` rows at most. `rows` grows while the pages arrive. They are read
// again, and shown when all are there, when one of `on` happens: "finding" or "incident". No more
// pages are asked for as soon as `isEnough` says so of the rows.
export function useAll(address, field, most, on = [], isEnough = () => false) {
  const [answer, setAnswer] = useState({ address: null, rows: [], isDone: false, isCut: false, error: null });
  const [round, setRound] = useState(0);
  const events = on.join();
  useEffect(() => {
    const again = () => setRound((n) => n + 1);
    const polled = () => feed.get() !== "live" && feed.get() !== "recording" && again();
    const kinds = events ? events.split(",") : [];
    for (const kind of kinds) changes[kind].add(again);
    if (kinds.length) changes.poll.add(polled);
    return () => {
      for (const kind of kinds) changes[kind].delete(again);
      changes.poll.delete(polled);
    };
  }, [events]);
  useEffect(() => {
    if (!address) return undefined;
    const stop = new AbortController();
    (async () => {
      let rows = [];
      let cursor = "";
      for (;;) {
        const page = await getJson(address + cursor, stop.signal);
        rows = rows.concat(page[field]);
        const isCut = page.next !== null && (rows.length >= most || isEnough(rows));
        const isDone = page.next === null || isCut;
        if (isDone || round === 0) setAnswer({ address, rows, isDone, isCut, error: null });
        if (isDone) return;
        cursor = "&cursor=" + page.next;
      }
    })().catch((error) => {
      if (error.name === "AbortError") return;
      setAnswer((old) => ({ address, rows: old.address === address ? old.rows : [], isDone: true, isCut: false, error }));
    });
    return () => stop.abort();
  }, [address, field, most, round]);
  return answer.address === address ? answer : { address, rows: [], isDone: false, isCut: false, error: null };
}

let routes = null;
// The addresses that this server has, such as `/v1/incidents/{id}/pack`.
export function useRoutes() {
  const [known, setKnown] = useState(null);
  useEffect(() => {
    routes ??= getJson("/openapi.json").then((document) => new Set(Object.keys(document.paths)), () => new Set());
    routes.then(setKnown);
  }, []);
  return known;
}
