// The operators' page: one stream of snapshots in, one drawing out. Text from the system is only ever
// put into text nodes and attributes, never parsed as HTML. Without streams (proxies) it polls.
"use strict";

const POLL_MS = 5000, STALE_MS = 6000, HISTORY = 120;
const byId = (id) => document.getElementById(id);

// ---- building and patching the document ----

// h("td", {class: "num"}, "text", node, ...): null, undefined and false children are left out.
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

// Makes `old` look like `wanted` by changing only what differs: focus, scrolling and opened details stay.
function patch(old, wanted) {
  if (old.nodeType !== wanted.nodeType || old.nodeName !== wanted.nodeName) {
    old.replaceWith(wanted);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const {name} of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const {name, value} of [...wanted.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patchChildren(old, [...wanted.childNodes]);
}

function patchChildren(parent, wanted) {
  const old = [...parent.childNodes];
  wanted.forEach((node, i) => (i < old.length ? patch(old[i], node) : parent.append(node)));
  old.slice(wanted.length).forEach((node) => node.remove());
}

const show = (id, ...children) => patchChildren(byId(id).querySelector(".body") || byId(id),
  children.flat(Infinity).filter(Boolean).map((c) => (typeof c === "string" ? document.createTextNode(c) : c)));

// columns: [title, cell(row), is a number]; cells are text or nodes.
function table(label, columns, rows) {
  return h("div", {class: "wrap", tabindex: "0", role: "region", "aria-label": label},
    h("table", {class: "stack"},
      h("thead", {}, h("tr", {}, columns.map(([title, , isNumber]) => h("th", {scope: "col", class: isNumber && "num"}, title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([title, cell, isNumber]) =>
        h("td", {"data-label": title, class: isNumber && "num"}, h("span", {}, cell(row)))))))));
}

const empty = (text) => h("p", {class: "empty"}, text);
const chip = (text, kind) => h("span", {class: "chip " + (kind || "")}, text);

// ---- numbers as people read them ----

const number = (n) => (Number.isFinite(n) ? n.toLocaleString("en-US", {maximumFractionDigits: 1}) : "–");
const percent = (x) => (Number.isFinite(x) ? (100 * x).toFixed(2) + " %" : "–");

function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i && n < 100 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}

function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return (s / 3600).toFixed(1) + " h";
  return Math.round(s / 86400) + " d";
}

const clock = (ms) => (ms > 0 ? new Date(ms).toLocaleTimeString([], {hour12: false}) : "–");
const list = (value) => (Array.isArray(value) ? value : []);

// ---- what the system said, in one shape ----

function read(frame) {
  const status = frame.status || {};
  return {
    ok: frame.ok === true, error: frame.error || "", now: frame.at_ms || Date.now(),
    gateway: frame.gateway || {}, status,
    workers: list((frame.workers || {}).workers), queues: list((frame.queues || {}).queues),
    jobs: merge(list((frame.running || {}).jobs), list((frame.jobs || {}).jobs), list((frame.dead || {}).jobs)),
    running: list((frame.running || {}).jobs), dead: list((frame.dead || {}).jobs),
    models: list((frame.models || {}).models), datasets: list((frame.datasets || {}).datasets),
    events: list((frame.events || {}).events), curves: list(frame.curves), counts: status.jobs || {},
    broker: status.broker || {}, store: status.store || {}, rates: status.rates || {},
  };
}

// Jobs of several lists, each once.
const merge = (...lists) => [...new Map(lists.flat().reverse().map((job) => [job.id, job])).values()];

const isOver = (state) => ["succeeded", "dead", "cancelled", "expired"].includes(state);
const slotsOf = (workers) => workers.reduce((sum, w) => sum + (w.slots || 0), 0);
const busyOf = (workers) => workers.reduce((sum, w) => sum + Math.max(0, (w.slots || 0) - (w.free || 0)), 0);

// ---- is the system well? ----

function findings(s) {
  const out = [];
  const waiting = (s.counts.queued || 0);
  const oldest = Math.max(0, ...s.queues.filter((q) => !q.is_paused).map((q) => q.oldest_ms || 0));
  if (!s.ok) out.push(["bad", "The broker does not answer: " + (s.error || "no reason given") + "."]);
  if (s.ok && s.workers.length === 0) out.push(["bad", "No worker is connected: nothing can run. Start one with maasq-worker."]);
  if (s.store.connected === false) out.push(["bad", "The broker has lost its Redis: nothing can be accepted or finished."]);
  if (s.broker.is_loading) out.push(["warn", "The broker is loading its state; answers may be incomplete."]);
  if (s.store.is_full) out.push(["bad", "The store is nearly full: new jobs are refused."]);
  if (waiting > 0 && oldest > 60000 && s.workers.length > 0) out.push(["warn", `The oldest waiting job has waited for ${duration(oldest)}.`]);
  const dead = s.dead.length;
  if (dead > 0) out.push(["warn", `${deadText(s)} job${dead === 1 ? " is dead and waits" : "s are dead and wait"} for a decision: maasq queue dead.`]);
  for (const name of new Set(s.queues.filter((q) => q.is_paused).map((q) => q.queue))) out.push(["warn", `Queue ${name} is paused.`]);
  const draining = s.workers.filter((w) => w.is_draining).length;
  if (draining > 0) out.push(["warn", `${draining} worker${draining === 1 ? " is" : "s are"} draining.`]);
  return out;
}

// The list of dead jobs is cut at the gateway's limit.
const deadText = (s) => (s.dead.length >= 50 ? "50 or more" : String(s.dead.length));

function drawHealth(s) {
  const all = findings(s);
  const level = all.some(([l]) => l === "bad") ? "bad" : all.length ? "warn" : "good";
  const title = {bad: "Not well", warn: "Working, but look here", good: "All well"}[level];
  byId("health").dataset.level = level;
  document.title = (level === "good" ? "" : level === "warn" ? "! " : "✗ ") + "maasq";
  const running = s.running.length;
  show("health", h("h1", {}, title), all.length
    ? h("ul", {}, all.map(([, text]) => h("li", {}, text)))
    : h("p", {class: "soft"}, `${s.workers.length} worker${s.workers.length === 1 ? "" : "s"} connected, ` +
        `${running} job${running === 1 ? "" : "s"} running, ${number(s.counts.queued || 0)} waiting, none dead.`));
}

// ---- the parts of the page ----

const rateHistory = []; // finished jobs per second, oldest first

function drawRate(s) {
  const rate = s.rates.ended_per_s;
  if (Number.isFinite(rate)) rateHistory.push(rate);
  if (rateHistory.length > HISTORY) rateHistory.shift();
  return tile("finished per second", number(rate), "", rateHistory.length > 2 ? sparkline(rateHistory) : null);
}

function tile(label, value, kind, extra) {
  return h("div", {class: "tile " + (kind || "")}, h("b", {}, value), h("span", {}, label), extra);
}

function drawTiles(s) {
  const busy = busyOf(s.workers), slots = slotsOf(s.workers);
  show("tiles",
    tile("jobs running", number(s.counts.leased || 0)),
    tile("waiting", number(s.counts.queued || 0)),
    tile("delayed or blocked", number((s.counts.scheduled || 0) + (s.counts.blocked || 0))),
    drawRate(s),
    tile("dead", deadText(s), s.dead.length ? "warn" : ""),
    tile("workers", number(s.workers.length), s.workers.length ? "" : "bad"),
    tile("slots busy", `${busy} / ${slots}`),
    tile("models", number(s.models.length)));
}

function facts(pairs) {
  return h("dl", {class: "facts"}, pairs.filter(([, v]) => v !== null && v !== "–").map(([k, v]) => h("div", {}, h("dt", {}, k), h("dd", {}, v))));
}

function drawTraining(s) {
  if (s.curves.length === 0) {
    show("training", empty("Nothing has been trained since this gateway started. Try: maasq train NAME --data D --arch mlp:784-256-128-10"));
    return;
  }
  const width = Math.max(280, byId("training").clientWidth - 40);
  show("training", s.curves.filter((c, i) => c.running || i === 0).map((c) => {
    const job = s.jobs.find((j) => j.id === c.job) || {};
    const p = job.progress || {};
    const last = c.points[c.points.length - 1] || [0, NaN, null];
    return h("article", {class: "run"},
      h("div", {class: "head"}, h("h3", {}, c.model || "training"),
        chip(c.running ? "running" : "ended", c.running ? "good" : ""), h("span", {class: "soft mono"}, c.job)),
      c.running && p.steps ? h("progress", {value: p.step, max: p.steps, "aria-label": "steps done"}) : null,
      facts([["step", p.steps ? `${number(p.step)} of ${number(p.steps)}` : number(last[0])],
        ["epoch", Number.isFinite(p.epoch) ? `${p.epoch.toFixed(1)} of ${p.epochs}` : "–"],
        ["loss", Number.isFinite(last[1]) ? last[1].toPrecision(4) : "–"],
        ["accuracy", last[2] === null ? "–" : percent(last[2])],
        ["samples/s", c.running ? number(Math.round(p.samples_per_s)) : "–"],
        ["workers", c.running ? number(p.workers) : "–"],
        ["remaining", c.running && p.remaining_s > 0 ? duration(1000 * p.remaining_s) : "–"]]),
      c.points.length > 1 ? lossChart(c.points, c.running ? p.steps : 0, width) : empty("The curve begins with the second report."),
      h("p", {class: "legend"}, h("span", {}, "loss"), c.points.some((q) => q[2] !== null) ? h("span", {class: "two"}, "accuracy on training rows") : null));
  }));
}

function drawQueues(s) {
  show("queues", s.queues.length === 0 ? empty("No job is waiting.") : table("Queues", [
    ["queue", (q) => [q.queue || "default", " ", q.is_paused ? chip("paused", "warn") : null]],
    ["kind", (q) => q.kind || "–"],
    ["model", (q) => q.model || "–"],
    ["waiting", (q) => number(q.waiting), true],
    ["oldest", (q) => (q.waiting ? duration(q.oldest_ms) : "–"), true]], s.queues));
}

function drawWorkers(s) {
  show("workers", s.workers.length === 0 ? empty("No worker is connected.") : table("Workers", [
    ["worker", (w) => [h("span", {class: "nowrap", title: w.worker || ""}, w.name || (w.worker || "").slice(0, 8)),
      w.is_draining ? chip("draining", "warn") : null]],
    ["host", (w) => h("span", {title: w.host}, (w.host || "–").slice(0, 8))],
    ["pid", (w) => (w.pid ? String(w.pid) : "–"), true],
    ["slots busy", (w) => h("span", {class: "busy"}, h("progress", {value: (w.slots || 0) - (w.free || 0), max: w.slots || 1, "aria-hidden": "true"}),
      `${(w.slots || 0) - (w.free || 0)} / ${w.slots || 0}`)],
    ["runs", (w) => list(w.jobs).map((j) => chip(typeof j === "string" ? j.slice(-6) : `${j.kind || ""} ${j.model || ""}`.trim() || "job"))],
    ["memory", (w) => bytes(w.rss_bytes), true],
    ["load", (w) => (Number.isFinite(w.load_milli) ? (w.load_milli / 1000).toFixed(2) : "–"), true],
    ["last beat", (w) => duration(w.beat_age_ms) + " ago", true]], s.workers));
}

const stateText = {leased: "running", queued: "waiting"};
const stateKind = {succeeded: "good", dead: "bad", cancelled: "warn", expired: "warn", leased: ""};

function progressOf(job) {
  const p = job.progress;
  if (!p || typeof p !== "object") return "–";
  const [done, all] = p.steps ? [p.step, p.steps] : [p.rows, p.of];
  return all > 0 ? h("span", {class: "busy"}, h("progress", {value: done, max: all, "aria-hidden": "true"}), `${Math.floor((100 * done) / all)} % ${p.stage || ""}`) : p.stage || "–";
}

function drawJobs(s) {
  const rank = (job) => (job.state === "leased" ? 0 : isOver(job.state) ? 2 : 1);
  const rows = s.jobs.slice().sort((a, b) => rank(a) - rank(b) || (a.id < b.id ? 1 : -1)).slice(0, 40);
  show("jobs", rows.length === 0 ? empty("No jobs. Try: maasq job submit echo --param text=hello") : table("Jobs", [
    ["job", (j) => h("span", {class: "mono", title: j.id}, j.id ? j.id.slice(-10) : "–")],
    ["kind", (j) => j.kind || "–"],
    ["model", (j) => j.model || (j.progress || {}).model || "–"],
    ["state", (j) => chip(stateText[j.state] || j.state || "?", stateKind[j.state])],
    ["progress", progressOf],
    ["submitted", (j) => clock(j.submitted_ms), true],
    ["waited", (j) => (j.queue_us >= 0 && j.ended_ms ? duration(j.queue_us / 1000) : "–"), true],
    ["ran", (j) => (j.ended_ms ? duration(j.run_us / 1000) : j.leased_ms ? duration(s.now - j.leased_ms) : "–"), true],
    ["why", (j) => [j.why === "ok" ? "" : j.why, j.error].filter(Boolean).join(": ")]], rows));
}

function drawModels(s) {
  if (s.models.length === 0) {
    show("models", empty("No models yet. Try: maasq model import NAME FILE.onnx"));
    return;
  }
  show("models", s.models.map((m) => {
    const versions = list(m.versions).slice().sort((a, b) => b.version - a.version);
    const count = versions.length;
    const aliases = versions.flatMap((v) => list(v.aliases).map((alias) => [alias, v.version])).sort();
    return h("details", {open: true},
      h("summary", {}, h("strong", {}, m.name), ` · ${count} version${count === 1 ? "" : "s"}`,
        aliases.map(([alias, version]) => chip(`${alias} → ${version}`, alias === "prod" ? "good" : ""))),
      table("Versions of " + m.name, [
        ["version", (v) => [String(v.version), " ", aliases.filter(([, n]) => n === v.version).map(([alias]) => chip(alias, alias === "prod" ? "good" : ""))]],
        ["made by", (v) => (v.meta || {}).pass || "–"],
        ["parent", (v) => (v.meta || {}).parent || "–"],
        ["data", (v) => (v.meta || {}).dataset || "–"],
        ["accuracy", (v) => percent(((v.meta || {}).metrics || {}).accuracy ?? NaN), true],
        ["size", (v) => bytes((v.meta || {}).bytes), true],
        ["weights not 0", (v) => ((v.meta || {}).params ? percent(v.meta.nonzero / v.meta.params) : "–"), true],
        ["one row", (v) => (Number.isFinite((v.meta || {}).latency_us) && v.meta.latency_us !== null ? number(v.meta.latency_us) + " µs" : "–"), true]],
      versions.slice(0, 12)),
      count > 12 ? empty(`All of them: maasq model list ${m.name}`) : null);
  }));
}

function eventText(e) {
  if (typeof e === "string") return e;
  if (e.type) return [chip(e.type, {dead: "bad", owner: ""}[e.type]), e.text];
  return Object.entries(e).filter(([k, v]) => !["id", "at_ms", "ms"].includes(k) && v !== 0 && v !== "" && v !== null)
    .map(([k, v]) => `${k.replaceAll("_", " ")} ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ");
}

function drawEvents(s) {
  const rows = s.events.slice(0, 60);
  show("events", rows.length === 0 ? empty("Nothing has happened yet.") :
    h("ul", {class: "events", tabindex: "0", "aria-label": "Recent events"},
      rows.map((e) => h("li", {}, h("time", {}, clock(e.at_ms || e.ms)), h("span", {}, eventText(e))))));
}

function draw(frame) {
  const s = read(frame);
  document.body.classList.toggle("stale", !s.ok);
  for (const part of [drawHealth, drawTiles, drawTraining, drawQueues, drawWorkers, drawJobs, drawModels, drawEvents]) part(s);
  byId("about").textContent = `maasq ${s.gateway.version || ""} · broker ${s.gateway.broker || "?"}`;
}

// ---- live ----

let newest = 0; // when a frame came, by this clock
let source = null;
let poller = 0;

function live(state, text) {
  byId("live").dataset.state = state;
  byId("live").lastElementChild.textContent = text;
}

function take(text) {
  newest = Date.now();
  draw(JSON.parse(text));
}

async function poll() {
  try {
    const answer = await fetch("/v1/status", {cache: "no-store"});
    if (!answer.ok) throw new Error(String(answer.status));
    take(await answer.text());
    if (source === null || source.readyState !== EventSource.OPEN) live("poll", "polling");
  } catch {
    live("off", "gateway lost");
  }
}

function listen() {
  source = new EventSource("/v1/events");
  source.onmessage = (event) => { take(event.data); live("on", "live"); };
  source.onerror = () => {
    // A stream that was refused stays closed: ask again later, poll meanwhile.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10 * POLL_MS);
  };
}

// Whatever goes wrong with the stream, an old page must not look like a fresh one.
setInterval(() => {
  const age = Date.now() - newest;
  if (age > STALE_MS) {
    live("off", newest ? `${Math.round(age / 1000)} s old` : "connecting");
    if (Date.now() - poller > POLL_MS) { poller = Date.now(); poll(); }
  }
}, 1000);

// ---- light and dark ----

const themes = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(theme) {
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  byId("theme").textContent = "theme: " + theme;
}

function storedTheme() {
  try { return themes.includes(localStorage.theme) ? localStorage.theme : "auto"; } catch { return "auto"; }
}

byId("theme").addEventListener("click", () => {
  const next = themes[(themes.indexOf(storedTheme()) + 1) % themes.length];
  try { localStorage.theme = next; } catch { /* private window: it lasts as long as the page */ }
  setTheme(next);
});
dark.addEventListener("change", () => setTheme(storedTheme()));
setTheme(storedTheme());
listen();
