// The status page: asks for status.json each second and draws it. Text from the daemon is only ever set as text.
"use strict";
const byId = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const KEEP = 300;

// el makes an element: el("td.n", {title: "x"}, "text", child, ...).
function el(spec, ...rest) {
  const [tag, ...classes] = spec.split(".");
  const e = document.createElement(tag);
  if (classes.length) e.className = classes.join(" ");
  for (const r of rest.flat()) {
    if (r == null || r === false) continue;
    if (r instanceof Node) e.append(r);
    else if (typeof r === "object") for (const k in r) e.setAttribute(k, r[k]);
    else e.append(String(r));
  }
  return e;
}
function svg(tag, attrs, text) {
  const e = document.createElementNS(SVG, tag);
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  if (text != null) e.textContent = text;
  return e;
}

const short = n => n >= 1e9 ? (n / 1e9).toFixed(2) + "G" : n >= 1e6 ? (n / 1e6).toFixed(2) + "M" : n >= 1e4 ? (n / 1e3).toFixed(1) + "k" : String(n);
function rate(n) { return n == null ? "–" : n >= 1e4 ? short(n) : n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n === 0 ? "0" : n.toFixed(2); }
function time(s) {
  if (s == null) return "–";
  if (s < 1e-3) return (s * 1e6).toFixed(0) + " µs";
  if (s < 1) return (s * 1e3).toFixed(s < 0.01 ? 2 : s < 0.1 ? 1 : 0) + " ms";
  return s.toFixed(s < 10 ? 2 : 1) + " s";
}
function size(n) { return n == null ? "–" : n < 1024 ? n.toFixed(0) + " B" : n < 1 << 20 ? (n / 1024).toFixed(1) + " KiB" : n < 2 ** 30 ? (n / 2 ** 20).toFixed(1) + " MiB" : (n / 2 ** 30).toFixed(2) + " GiB"; }
function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000)), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

// Histories: what the daemon sends is appended to what is here.
const histories = new Map();
function remember(key, activity, fresh) {
  const h = fresh ? [] : histories.get(key) || [];
  h.push(...(activity.history || []));
  if (h.length > KEEP) h.splice(0, h.length - KEEP);
  histories.set(key, h);
  return h;
}

// nice returns a round number at or above n.
function nice(n) {
  if (!(n > 0)) return 1;
  const p = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 2.5, 5, 10].find(f => f * p >= n) * p;
}

// path draws points from the right; gaps where there is none.
function path(values, w, h, max, area) {
  let d = "", open = false, first = 0, last = 0;
  const close = () => { if (area && open) d += `L${last},${h}L${first},${h}Z`; open = false; };
  values.forEach((v, i) => {
    if (v == null) return close();
    const x = +(w - (values.length - 1 - i) * w / (KEEP - 1)).toFixed(1), y = +(h - Math.min(v, max) / max * h).toFixed(1);
    d += (open ? "L" : "M") + x + "," + y;
    if (!open) first = x;
    last = x; open = true;
  });
  close();
  return d;
}

function plot(host, lines, format) {
  const W = Math.max(200, host.clientWidth), H = 180, left = 52, bottom = 20, w = W - left - 4, h = H - bottom - 8;
  const max = nice(Math.max(0, ...lines.flatMap(l => l.values.filter(v => v != null))) * 1.05);
  const s = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  const g = svg("g", { transform: `translate(${left},8)` });
  for (let i = 0; i <= 4; i++) {
    const y = h - h * i / 4;
    g.append(svg("line", { x1: 0, x2: w, y1: y, y2: y, class: "grid" }), svg("text", { x: -8, y: y + 4, "text-anchor": "end" }, i ? format(max * i / 4) : "0"));
  }
  for (const m of [5, 4, 3, 2, 1]) g.append(svg("text", { x: w - w * (m * 60 - 1) / (KEEP - 1), y: h + 17, "text-anchor": m === 5 ? "start" : "middle" }, `−${m} min`));
  for (const l of lines) {
    if (l.area) g.append(svg("path", { d: path(l.values, w, h, max, true), class: "a-" + l.kind }));
    g.append(svg("path", { d: path(l.values, w, h, max), class: "l-" + l.kind }));
  }
  s.append(g);
  host.replaceChildren(s);
}

function spark(history) {
  const s = svg("svg", { viewBox: "0 0 190 30", preserveAspectRatio: "none" });
  const max = Math.max(1e-9, ...history.map(p => p[0]));
  s.append(svg("path", { d: path(history.map(p => p[0]), 190, 28, max, true), class: "a-rate" }), svg("path", { d: path(history.map(p => p[0]), 190, 28, max), class: "l-rate" }));
  if (history.some(p => p[1] > 0)) s.append(svg("path", { d: path(history.map(p => p[1]), 190, 28, max, true), class: "a-err" }));
  return el("div.spark", { title: "calls and errors, five minutes" }, s);
}

const tile = (value, unit, label, kind) => el("div.card.tile", el("b" + (kind ? "." + kind : ""), value, unit && el("u", unit)), el("span", label));
const share = a => a.rate > 0 ? a.error_rate / a.rate : 0;
const percent = x => x === 0 ? "0" : x < 0.001 ? "<0.1" : (100 * x).toFixed(1);
const errorKind = x => x > 0.05 ? "bad" : x > 0 ? "warn" : "";

function table(heads, rows) {
  return el("div.card.table", el("div.scroll", el("table",
    el("thead", el("tr", heads.map(h => el(h.startsWith("#") ? "th.n" : "th", h.replace("#", ""))))), el("tbody", rows))));
}
const sum = m => Object.values(m || {}).reduce((a, b) => a + b, 0);
const list = m => Object.entries(m || {}).sort((a, b) => b[1] - a[1]).map(([k, v]) => `${k}: ${short(v)}`).join("\n");

function tiles(s) {
  const e = share(s.total), eps = s.backends.flatMap(b => b.endpoints || []), up = eps.filter(x => x.usable).length;
  byId("tiles").replaceChildren(
    tile(rate(s.total.rate), "/s", "calls"),
    tile(percent(e), "%", "errors", errorKind(e)),
    tile(time(s.total.p50), "", "median latency"),
    tile(time(s.total.p99), "", "99th percentile"),
    tile(short(s.total.inflight), "", "calls in flight"),
    tile(short(s.frontends.reduce((n, f) => n + f.connections, 0)), "", "client connections"),
    tile(`${up}`, `of ${eps.length}`, "endpoints taking calls", up === eps.length ? "ok" : up ? "warn" : "bad"),
    tile(s.process.cpu.toFixed(2), "cores", `${size(s.process.memory_bytes)} memory`));
}

function endpointRow(e, most) {
  let kind = "ok", word = "ready";
  if (!e.usable) {
    kind = e.state === "connecting" ? "warn" : "bad";
    word = Date.parse(e.ejected_until) > Date.now() ? "ejected for " + span(Date.parse(e.ejected_until) - Date.now()) : e.state === "ready" ? e.health : e.state;
  }
  const why = e.error || e.health_reason;
  return el("tr",
    el("td", el("span.dot." + kind), e.name, e.name !== e.address && el("span.dim", "  " + e.address)),
    el("td", el("span." + kind, word), !e.usable && why && el("div.why", why)), el("td", e.health === "unchecked" ? el("span.dim", "not checked") : e.health),
    el("td.n", rate(e.rate), (() => { const b = el("span.bar", el("i")); b.firstChild.style.width = (most > 0 ? 100 * e.rate / most : 0) + "%"; return b; })()),
    el("td.n." + (e.failure_rate > 0 ? "bad" : "dim"), rate(e.failure_rate)), el("td.n", short(e.inflight)), el("td.n", e.connections), el("td.n", short(e.calls)));
}

function backends(s, fresh) {
  const cards = s.backends.map(b => {
    const eps = b.endpoints || [], up = eps.filter(e => e.usable).length, kind = up === eps.length && up ? "ok" : up ? "warn" : "bad", a = b.activity;
    const num = (v, l, k) => el("div", el("b" + (k ? "." + k : ""), v), el("span", l));
    return el("div.card.backend",
      el("div", el("h3", b.name), el("span.pill." + kind, up === eps.length && up ? "ready" : `${up} of ${eps.length} ready`), el("span.dim", b.balance),
        spark(remember("b/" + b.name, a, fresh)),
        el("div.nums", num(rate(a.rate), "calls/s"), num(percent(share(a)) + " %", "errors", errorKind(share(a))), num(time(a.p50), "median"), num(time(a.p99), "p99"), num(short(a.inflight), "in flight"))),
      el("div.scroll", el("table",
        el("thead", el("tr", ["Endpoint", "State", "Health", "#Calls/s", "#Failures/s", "#In flight", "#Connections", "#Calls"].map(h => el(h[0] === "#" ? "th.n" : "th", h.replace("#", ""))))),
        el("tbody", eps.map(e => endpointRow(e, Math.max(...eps.map(x => x.rate || 0))))))));
  });
  byId("backends").replaceChildren(el("h2", "Backends"), ...cards);
}

function activityCells(a) {
  return [el("td.n", rate(a.rate)), el("td.n." + (errorKind(share(a)) || "dim"), percent(share(a)) + " %"), el("td.n", time(a.p50)), el("td.n", time(a.p99)), el("td.n", short(a.calls))];
}
function rest(s) {
  const parts = [el("h2", "Frontends"), table(["Name", "Address", "", "#Calls/s", "#Errors", "#Median", "#p99", "#Calls", "#In flight", "#Connections", "#In", "#Out", "#By the proxy", "#Rejected", "#Glitches"], s.frontends.map(f => el("tr",
    el("td", f.name), el("td", el("code", f.address)), el("td", f.tls ? el("span.ok", "TLS") : el("span.dim", "plaintext")), activityCells(f.activity), el("td.n", short(f.activity.inflight)),
    el("td.n", short(f.connections)), el("td.n", size(f.activity.bytes_in) + "/s"), el("td.n", size(f.activity.bytes_out) + "/s"),
    el("td.n", { title: list(f.reasons) }, short(sum(f.reasons))), el("td.n", { title: list(f.rejected) }, short(sum(f.rejected))), el("td.n", { title: list(f.glitches) }, short(sum(f.glitches))))))];
  const routes = [...s.routes].sort((a, b) => (b.activity.rate || 0) - (a.activity.rate || 0)).slice(0, 100);
  parts.push(el("h2", "Routes" + (s.routes.length > 100 ? `, the busiest 100 of ${s.routes.length}` : "")), table(["Route", "Takes", "To", "#Calls/s", "#Errors", "#Median", "#p99", "#Calls"],
    routes.map(r => el("tr", el("td.dim", r.name), el("td", el("code", r.match)), el("td", r.to), activityCells(r.activity)))));
  const codes = Object.entries(s.total.codes || {}).sort((a, b) => b[1] - a[1]);
  const two = el("div.two");
  if (codes.length) two.append(el("div", el("h2", "Codes"), table(["Code", "#Calls", "#Share"], codes.map(([c, n]) => el("tr", el("td", c), el("td.n", n.toLocaleString("en")), el("td.n", percent(n / s.total.calls) + " %"))))));
  if ((s.certificates || []).length) two.append(el("div", el("h2", "Certificates"), table(["Certificate", "Frontend", "#Expires in"], s.certificates.map(c => {
    const left = Date.parse(c.not_after) - Date.now();
    return el("tr", el("td", { title: c.file + "\n" + c.issuer }, (c.names || []).join(", ") || c.subject), el("td", c.frontend), el("td.n." + (left < 7 * 864e5 ? "bad" : left < 21 * 864e5 ? "warn" : "ok"), { title: c.not_after }, left < 0 ? "expired" : span(left)));
  }))));
  const r = s.reload;
  two.append(el("div", el("h2", "Configuration"), table(["", ""], [
    el("tr", el("td", "In use since"), el("td", new Date(r.time).toLocaleString("en-GB"), el("span.dim", "  " + span(Date.parse(s.now) - Date.parse(r.time)) + " ago"))),
    el("tr", el("td", "From"), el("td", r.file ? el("code", r.file) : "flags")),
    el("tr", el("td", "Reloads"), el("td", r.count, r.failed ? el("span.bad", `, ${r.failed} failed`) : "")),
    el("tr", el("td", "Log level"), el("td", s.log_level))])));
  parts.push(two);
  byId("rest").replaceChildren(...parts);
}

function alerts(s) {
  const out = [], add = (kind, text) => out.push(el("div.alert." + kind, el("span", text)));
  if (s.state === "draining") add("warn", "The daemon is draining: it takes no new connections.");
  if (!s.reload.ok) add("bad", "The last reload failed, what was there goes on:\n" + s.reload.error);
  for (const b of s.backends) if (!b.ready) add("bad", `Backend ${b.name} has no endpoint that takes calls.`);
  for (const c of s.certificates || []) { const left = Date.parse(c.not_after) - Date.now(); if (left < 7 * 864e5) add("bad", `Certificate ${c.subject} of frontend ${c.frontend} ${left < 0 ? "has expired." : "expires in " + span(left) + "."}`); }
  byId("alerts").replaceChildren(...out);
}

let seq = 0, started = "", shown = null;
function draw(s) {
  const fresh = s.started !== started;
  started = s.started;
  for (const k of ["frontends", "routes", "backends"]) s[k] = s[k] || [];
  const h = remember("total", s.total, fresh);
  seq = s.seq;
  byId("state").textContent = s.state;
  byId("state").className = "pill " + (s.state === "serving" ? "ok" : "warn");
  byId("meta").textContent = `${s.version || ""} · up ${span(Date.parse(s.now) - Date.parse(s.started))} · pid ${s.process.pid}`;
  document.title = `Manifold · ${rate(s.total.rate)} calls/s`;
  alerts(s); tiles(s);
  plot(byId("plot-rate"), [{ values: h.map(p => p[0]), kind: "rate", area: true }, { values: h.map(p => p[1]), kind: "err", area: true }], rate);
  plot(byId("plot-latency"), [{ values: h.map(p => p[2]), kind: "p50" }, { values: h.map(p => p[3]), kind: "p99" }], time);
  if (!getSelection() || getSelection().isCollapsed) { backends(s, fresh); rest(s); } else s.backends.forEach(b => remember("b/" + b.name, b.activity, fresh));
}

async function poll() {
  try {
    let s = await (await fetch("status.json?since=" + seq, { cache: "no-store" })).json();
    if (started && s.started !== started && seq) { seq = 0; s = await (await fetch("status.json?since=0")).json(); }
    draw(s);
  } catch (e) {
    byId("state").textContent = "not reachable";
    byId("state").className = "pill bad";
    console.debug(e);
  }
  setTimeout(poll, 1000);
}

const theme = byId("theme"), set = t => { document.documentElement.dataset.theme = t; };
const asked = new URLSearchParams(location.search).get("theme");
try { if (asked || localStorage.theme) set(asked || localStorage.theme); } catch { /* no storage */ }
theme.onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  set(dark ? "light" : "dark");
  try { localStorage.theme = dark ? "light" : "dark"; } catch { /* no storage */ }
};
poll();
