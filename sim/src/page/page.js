'use strict';
// One run: lanes over simulated time on a canvas, the same events as a windowed list below. Both show what the filters let
// through, and share one selection. Times are microseconds.
const run = JSON.parse(document.getElementById('data').textContent);
const ev = run.events, N = ev.at.length;
const $ = id => document.getElementById(id);
const KINDS = {
  send: ['sends', '\u25b2'], commit: ['commits', '\u25cf'], accepted: ['accepted', '\u25bc'], refused: ['refused, unknown', '\u00d7'],
  push: ['pushed to a socket', '\u25b7'], deliver: ['deliveries', '\u25c6'], ack: ['acks', '|'], session: ['sessions', '\u25a1'],
  leader: ['leaders', '\u2605'], fault: ['faults', '\u25a0'], node: ['nodes say', '\u00b7'], way: ['other steps', '\u2022'],
  raft: ['raft log', '\u2022'], violation: ['violated promise', '\u2691'],
};
const shownKinds = new Set(Object.keys(KINDS).filter(k => k !== 'raft' && k !== 'way'));
const view = { from: 0, to: run.end };
const GUTTER = 92, AXIS = 22;
let picked = -1, only = -1, visible = [], place = new Int32Array(N), perLane = [], hover = -1, css = {}, together = new Set();

// Lanes: the run, nodes (with a row for each shard that they lead), devices.
const shards = [...new Set(run.leads.map(l => l.shard))].sort((a, b) => a - b);
const lanes = run.lanes.map(lane => ({ ...lane, height: lane.node ? 34 + 5 * shards.length : 26 }));
let tall = AXIS;
for (const lane of lanes) { lane.y = tall; tall += lane.height; }

const secs = t => (t / 1e6).toFixed(6);
const conv = i => i == null ? '' : run.convs[i];
function short(name) { return name.length > 26 ? name.slice(0, 23) + '\u2026' : name; }

/* ---- filters ---- */
function matches(i) {
  if (ev.kind[i] === 'violation') return true;
  if (!shownKinds.has(ev.kind[i])) return false;
  const m = ev.message[i];
  if (only >= 0 && m !== only) return false;
  const c = $('conv').value, d = $('device').value;
  if (c !== '' && ev.conv[i] !== +c && ev.kind[i] !== 'fault') return false;
  if (d !== '' && ev.kind[i] !== 'fault') {
    const lane = +d;
    if (ev.lane[i] !== lane && ev.user[i] !== lanes[lane].user && !(m != null && run.messages[m].lane === lane)) return false;
  }
  const s = $('search').value.trim().toLowerCase();
  return !s || (ev.text[i] + ' ' + lanes[ev.lane[i]].name + ' ' + conv(ev.conv[i])).toLowerCase().includes(s);
}
function filter() {
  visible = []; place.fill(-1); perLane = lanes.map(() => []);
  for (let i = 0; i < N; i++) if (matches(i)) { place[i] = visible.length; visible.push(i); perLane[ev.lane[i]].push(i); }
  $('shown').textContent = `${visible.length.toLocaleString('en')} of ${N.toLocaleString('en')} events shown` + (only >= 0 ? ', of one message' : '');
  $('spacer').style.height = visible.length * ROW + 'px';
  drawOverview(); draw(); rows();
}
// First index in `list` (event numbers in order of time) at or after t.
function lower(list, t) { let a = 0, b = list.length; while (a < b) { const m = (a + b) >> 1; if (ev.at[list[m]] < t) a = m + 1; else b = m; } return a; }

/* ---- lanes ---- */
function prepare(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); canvas.style.height = height + 'px';
  const g = canvas.getContext('2d'); g.setTransform(ratio, 0, 0, ratio, 0, 0); g.clearRect(0, 0, width, height);
  return [g, width];
}
const x = (t, width) => GUTTER + (t - view.from) / (view.to - view.from) * (width - GUTTER);
const timeAt = (px, width) => view.from + (px - GUTTER) / (width - GUTTER) * (view.to - view.from);
const markY = (i) => { const lane = lanes[ev.lane[i]]; return lane.y + (lane.node ? 17 : lane.height / 2); };

function mark(g, kind, px, y, big) {
  const r = big ? 6 : 4;
  g.fillStyle = g.strokeStyle = css[kind]; g.lineWidth = 1.5; g.beginPath();
  switch (kind) {
    case 'send': g.moveTo(px, y - r); g.lineTo(px + r, y + r); g.lineTo(px - r, y + r); g.fill(); break;
    case 'accepted': g.moveTo(px, y + r); g.lineTo(px + r, y - r); g.lineTo(px - r, y - r); g.fill(); break;
    case 'push': g.moveTo(px - r, y - r); g.lineTo(px + r, y); g.lineTo(px - r, y + r); g.closePath(); g.stroke(); break;
    case 'deliver': g.moveTo(px, y - r); g.lineTo(px + r, y); g.lineTo(px, y + r); g.lineTo(px - r, y); g.fill(); break;
    case 'ack': g.moveTo(px, y - r - 1); g.lineTo(px, y + r + 1); g.stroke(); break;
    case 'refused': g.moveTo(px - r, y - r); g.lineTo(px + r, y + r); g.moveTo(px + r, y - r); g.lineTo(px - r, y + r); g.stroke(); break;
    case 'session': g.strokeRect(px - r + .5, y - r + .5, 2 * r - 1, 2 * r - 1); break;
    case 'fault': g.fillRect(px - r, y - r, 2 * r, 2 * r); break;
    case 'leader': for (let k = 0; k < 10; k++) { const a = k * Math.PI / 5 - Math.PI / 2, d = k % 2 ? r * .5 : r * 1.35; g.lineTo(px + d * Math.cos(a), y + d * Math.sin(a)); } g.fill(); break;
    case 'violation': g.moveTo(px, y + 10); g.lineTo(px, y - 12); g.lineTo(px + 12, y - 7); g.lineTo(px, y - 2); g.fill(); g.stroke(); break;
    default: g.arc(px, y, big ? 4 : kind === 'commit' ? 3.4 : 2.2, 0, 7); g.fill();
  }
}

function draw() {
  const canvas = $('lanes'), [g, width] = prepare(canvas, tall + 4);
  g.font = '12px system-ui, sans-serif'; g.textBaseline = 'middle';
  for (const [n, lane] of lanes.entries()) { if (n % 2) { g.fillStyle = css.lane; g.fillRect(0, lane.y, width, lane.height); } }
  g.save(); g.beginPath(); g.rect(GUTTER, 0, width - GUTTER, tall + 4); g.clip();
  for (const band of run.bands) {
    if (band.to < view.from || band.from > view.to) continue;
    const a = x(band.from, width), b = Math.max(x(band.to, width), a + 1.5);
    const over = band.lanes.length ? band.lanes : lanes.map((_, n) => n);
    g.fillStyle = css.band; for (const n of over) g.fillRect(a, lanes[n].y, b - a, lanes[n].height);
    g.fillStyle = css['band-edge']; for (const n of over) { g.fillRect(a, lanes[n].y, 1, lanes[n].height); g.fillRect(b - 1, lanes[n].y, 1, lanes[n].height); }
    if (b - a > 30) { g.fillStyle = css.fault; g.font = '10px system-ui, sans-serif'; g.fillText(band.kind, Math.max(a, GUTTER) + 3, lanes[over[0]].y + 6, b - a - 4); }
  }
  for (const d of run.downs) {
    if (d.to < view.from || d.from > view.to) continue;
    const a = x(d.from, width), b = x(d.to, width), lane = lanes[d.lane];
    g.fillStyle = css.down; g.fillRect(a, lane.y, b - a, lane.height);
    if (b - a > 34) { g.fillStyle = css.ink; g.font = '10px system-ui, sans-serif'; g.fillText('down', Math.max(a, GUTTER) + 3, lane.y + lane.height - 6); }
  }
  for (const l of run.leads) {
    const row = shards.indexOf(l.shard), a = x(l.from, width), b = Math.max(x(l.to, width), a + 1), y = lanes[l.lane].y + 30 + 5 * row;
    g.fillStyle = css.leader; g.globalAlpha = .45 + .55 * ((row % 3) / 2); g.fillRect(a, y, b - a, 3.5); g.globalAlpha = 1;
  }
  drawAxis(g, width);
  // Dense views draw one mark per pixel, lane and kind.
  const seen = new Set();
  for (const list of perLane) {
    for (let k = Math.max(0, lower(list, view.from) - 1); k < list.length; k++) {
      const i = list[k], px = x(ev.at[i], width);
      if (px > width + 8) break;
      const key = Math.round(px) + '/' + ev.lane[i] + ev.kind[i];
      if (seen.has(key)) continue;
      seen.add(key); mark(g, ev.kind[i], px, markY(i), false);
    }
  }
  drawWay(g, width);
  for (let i = 0; i < N; i++) if (ev.kind[i] === 'violation') {
    const px = x(ev.at[i], width); if (px < GUTTER - 1 || px > width + 1) continue;
    g.strokeStyle = css.violation; g.setLineDash([5, 4]); g.lineWidth = 1.5;
    g.beginPath(); g.moveTo(px, AXIS); g.lineTo(px, tall); g.stroke(); g.setLineDash([]); mark(g, 'violation', Math.min(px, width - 14), markY(i), true);
  }
  if (picked >= 0) ring(g, picked, width);
  g.restore();
  g.font = '12px system-ui, sans-serif';
  for (const lane of lanes) { g.fillStyle = lane.node ? css.ink : css.quiet; g.fillText(lane.name, 6, lane.y + (lane.node ? 17 : lane.height / 2), GUTTER - 10); }
  g.fillStyle = css.line; g.fillRect(GUTTER - 1, 0, 1, tall + 4);
}
function ring(g, i, width) {
  const px = x(ev.at[i], width), y = markY(i); mark(g, ev.kind[i], px, y, true);
  g.strokeStyle = css.focus; g.lineWidth = 2; g.beginPath(); g.arc(px, y, 10, 0, 7); g.stroke();
}
// The way of the selected message, from mark to mark.
function drawWay(g, width) {
  if (together.size < 2) return;
  g.strokeStyle = css.focus; g.lineWidth = 1.2; g.globalAlpha = .8; g.beginPath();
  let first = true;
  for (const i of together) { const px = x(ev.at[i], width), y = markY(i); if (first) g.moveTo(px, y); else g.lineTo(px, y); first = false; }
  g.stroke(); g.globalAlpha = 1;
  for (const i of together) mark(g, ev.kind[i], x(ev.at[i], width), markY(i), true);
}
function drawAxis(g, width) {
  const span = view.to - view.from, raw = span / Math.max(2, (width - GUTTER) / 110), base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(k => k * base).find(s => s >= raw);
  g.font = '11px system-ui, sans-serif';
  for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
    const px = x(t, width);
    g.fillStyle = css.line; g.fillRect(px, AXIS - 4, 1, tall); g.fillStyle = css.quiet;
    g.fillText((t / 1e6).toFixed(Math.max(0, Math.min(6, 6 - Math.floor(Math.log10(step))))) + ' s', px + 3, AXIS / 2);
  }
}
function drawOverview() {
  const [g, width] = prepare($('overview'), 30), px = t => GUTTER + t / run.end * (width - GUTTER);
  g.fillStyle = css.lane; g.fillRect(0, 0, width, 30);
  for (const b of run.bands) { g.fillStyle = css.band; g.fillRect(px(b.from), 0, Math.max(1, px(b.to) - px(b.from)), 30); }
  const bins = new Float64Array(Math.max(1, Math.ceil(width)));
  for (const i of visible) bins[Math.min(bins.length - 1, Math.floor(px(ev.at[i])))]++;
  const most = Math.log1p(Math.max(1, ...bins));
  g.fillStyle = css.node; bins.forEach((n, at) => { if (n) { const h = 26 * Math.log1p(n) / most; g.fillRect(at, 30 - h, 1, h); } });
  for (let i = 0; i < N; i++) if (ev.kind[i] === 'violation') { g.fillStyle = css.violation; g.fillRect(Math.min(width - 2, px(ev.at[i])), 0, 2, 30); }
  g.strokeStyle = css.focus; g.lineWidth = 2; g.strokeRect(px(view.from) + 1, 1, Math.max(3, px(view.to) - px(view.from) - 2), 28);
  g.fillStyle = css.quiet; g.font = '11px system-ui, sans-serif'; g.textBaseline = 'middle'; g.fillText('whole run', 6, 15);
}

/* ---- moving ---- */
let waiting = false;
function redraw() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); drawOverview(); }); } }
function show(from, to) {
  const span = Math.min(run.end * 1.04, Math.max(50, to - from));
  from = Math.min(Math.max(from, -run.end * .02), run.end * 1.02 - span);
  view.from = from; view.to = from + span; redraw();
}
function zoom(by, around) { const a = around ?? (view.from + view.to) / 2; show(a - (a - view.from) * by, a + (view.to - a) * by); }
function reveal(i) {
  const t = ev.at[i], span = view.to - view.from;
  if (t < view.from + span * .05 || t > view.to - span * .05) show(t - span / 2, t + span / 2);
}

/* ---- selection ---- */
function pick(i, scroll = true) {
  picked = i; together = new Set();
  if (i < 0) { $('detail').textContent = 'Nothing selected.'; redraw(); rows(); return; }
  const m = ev.message[i];
  if (m != null) for (let k = 0; k < N; k++) if (ev.message[k] === m && ev.kind[k] !== 'raft') together.add(k);
  const about = [];
  if (m != null) { const msg = run.messages[m]; about.push(`message ${msg.cid} of ${lanes[msg.lane].name}${msg.seq == null ? '' : ', seq ' + msg.seq}, ${together.size} steps (m: only these, f: zoom to them)`); }
  if (ev.conv[i] != null) about.push('conversation ' + conv(ev.conv[i]));
  const faults = run.bands.filter(b => b.from <= ev.at[i] && ev.at[i] <= b.to).map(b => b.kind);
  if (faults.length) about.push('while ' + faults.join(', '));
  $('detail').textContent = `${secs(ev.at[i])} s  ${lanes[ev.lane[i]].name}  ${KINDS[ev.kind[i]][0]}: ${ev.text[i]}\n${about.join(' · ')}`;
  $('detail').style.whiteSpace = 'pre-wrap';
  reveal(i);
  if (scroll && place[i] >= 0) { const list = $('list'), top = place[i] * ROW; if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 2 * ROW) list.scrollTop = top - list.clientHeight / 2; }
  redraw(); rows();
}
function step(by) {
  if (!visible.length) return;
  let at;
  if (picked >= 0 && place[picked] >= 0) at = place[picked] + by;
  else { const t = picked >= 0 ? ev.at[picked] : view.from; at = lower(visible, t) + (by < 0 ? -1 : 0); }
  pick(visible[Math.max(0, Math.min(visible.length - 1, at))]);
}
function stepLane(by) {
  if (picked < 0) return step(1);
  for (let n = ev.lane[picked] + by; n >= 0 && n < lanes.length; n += by) {
    const list = perLane[n]; if (!list.length) continue;
    const k = lower(list, ev.at[picked]), a = list[Math.min(k, list.length - 1)], b = list[Math.max(0, k - 1)];
    return pick(Math.abs(ev.at[a] - ev.at[picked]) <= Math.abs(ev.at[b] - ev.at[picked]) ? a : b);
  }
}
function toViolation() {
  const flags = []; for (let i = 0; i < N; i++) if (ev.kind[i] === 'violation') flags.push(i);
  if (!flags.length) return;
  const next = flags.find(i => i > picked) ?? flags[0];
  const t = ev.at[next]; show(t - Math.min(run.end, 2e6), t + Math.min(run.end, 1e6)); pick(next);
}
function fitWay() {
  if (together.size < 2) return;
  const times = [...together].map(i => ev.at[i]), a = Math.min(...times), b = Math.max(...times), pad = Math.max(200, (b - a) * .08);
  show(a - pad, b + pad);
}
function nearest(event) {
  const box = $('lanes').getBoundingClientRect(), px = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 12 * 12;
  const n = lanes.findIndex(lane => y >= lane.y && y < lane.y + lane.height);
  if (n < 0 || px < GUTTER) return -1;
  const list = perLane[n], from = timeAt(px - 12, box.width), to = timeAt(px + 12, box.width);
  for (let k = lower(list, from); k < list.length && ev.at[list[k]] <= to; k++) {
    const d = (x(ev.at[list[k]], box.width) - px) ** 2; if (d < least) { least = d; best = list[k]; }
  }
  return best;
}
function bandsAt(event) {
  const box = $('lanes').getBoundingClientRect(), t = timeAt(event.clientX - box.left, box.width), y = event.clientY - box.top;
  const n = lanes.findIndex(lane => y >= lane.y && y < lane.y + lane.height);
  const lead = run.leads.filter(l => l.lane === n && l.from <= t && t <= l.to).map(l => 'leads ' + l.text);
  return run.bands.filter(b => b.from <= t && t <= b.to && (!b.lanes.length || b.lanes.includes(n))).map(b => b.text).concat(lead);
}

/* ---- the list: only the lines in sight exist ---- */
const ROW = 19;
function rows() {
  const list = $('list'), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 10), last = Math.min(visible.length, first + Math.ceil(list.clientHeight / ROW) + 20);
  const box = $('rows'); box.style.transform = `translateY(${first * ROW}px)`; box.textContent = '';
  for (let k = first; k < last; k++) {
    const i = visible[k], row = document.createElement('div'), time = document.createElement('b'), lane = document.createElement('i');
    row.className = 'row' + (i === picked ? ' picked' : together.has(i) ? ' together' : '') + (ev.kind[i] === 'violation' || ev.kind[i] === 'fault' ? ' ' + ev.kind[i] : '');
    row.id = 'row' + i; row.setAttribute('role', 'option'); row.setAttribute('aria-selected', i === picked); row.setAttribute('aria-setsize', visible.length); row.setAttribute('aria-posinset', k + 1);
    time.textContent = secs(ev.at[i]).padStart(12) + '  '; lane.textContent = lanes[ev.lane[i]].name;
    row.append(time, lane, ` ${KINDS[ev.kind[i]][1]} ${ev.text[i]}`); row.dataset.i = i; box.append(row);
  }
  if (picked >= 0) list.setAttribute('aria-activedescendant', 'row' + picked);
}

/* ---- wiring ---- */
function colours() { const style = getComputedStyle(document.documentElement); for (const name of ['ground', 'ink', 'quiet', 'line', 'lane', 'focus', 'band', 'band-edge', 'down', ...Object.keys(KINDS)]) css[name] = style.getPropertyValue('--' + name).trim(); }
function theme(name) {
  document.documentElement.dataset.theme = name; colours();
  for (const canvas of document.querySelectorAll('.kinds canvas')) { const g = canvas.getContext('2d'); g.setTransform(2, 0, 0, 2, 0, 0); g.clearRect(0, 0, 14, 14); mark(g, canvas.dataset.kind, 7, canvas.dataset.kind === 'violation' ? 9 : 7, false); }
  redraw();
}
function option(select, value, text) { const o = document.createElement('option'); o.value = value; o.textContent = text; select.append(o); }
function clear() { only = -1; for (const id of ['conv', 'device', 'search']) $(id).value = ''; pick(-1); filter(); }

const counted = new Map(); for (const kind of ev.kind) counted.set(kind, (counted.get(kind) || 0) + 1);
for (const [kind, [name]] of Object.entries(KINDS)) {
  if (!counted.has(kind)) continue;
  const label = document.createElement('label'), box = document.createElement('input'), sign = document.createElement('canvas');
  box.type = 'checkbox'; box.checked = shownKinds.has(kind); box.disabled = kind === 'violation'; sign.width = sign.height = 28; sign.dataset.kind = kind;
  box.addEventListener('change', () => { box.checked ? shownKinds.add(kind) : shownKinds.delete(kind); filter(); });
  label.append(box, sign, `${name} ${counted.get(kind).toLocaleString('en')}`); $('kinds').append(label);
}
run.convs.forEach((name, i) => option($('conv'), i, short(name)));
lanes.forEach((lane, i) => { if (!lane.node && lane.user != null) option($('device'), i, lane.name); });
document.title = `Flotilla simulation, ${run.title}`;
$('title').textContent = run.title; $('verdict').textContent = run.verdict; $('verdict').classList.add(run.verdict); $('again').textContent = run.again;
$('options').textContent = run.options;
for (const part of ['counts', 'load', 'faults', 'points', 'checks']) for (const [name, n] of Object.entries(run.summary[part])) {
  const div = document.createElement('div'), dt = document.createElement('dt'), dd = document.createElement('dd');
  dt.textContent = name; dd.textContent = n.toLocaleString('en'); div.append(dt, dd); $('counts').append(div);
}
if (run.why.length) { $('why').hidden = false; $('why').textContent = run.why.map(w => w.trim()).join('\n'); }
$('to-violation').hidden = !counted.has('violation'); $('to-violation').onclick = toViolation;
$('in').onclick = () => zoom(.5); $('out').onclick = () => zoom(2); $('all').onclick = () => show(0, run.end);
$('theme').onclick = () => theme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
$('help-button').onclick = () => { const help = $('help'); help.hidden = !help.hidden; $('help-button').setAttribute('aria-expanded', !help.hidden); };
for (const id of ['conv', 'device']) $(id).addEventListener('change', filter);
let typing; $('search').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(filter, 120); });
$('list').addEventListener('scroll', rows);
$('list').addEventListener('click', e => { const row = e.target.closest('.row'); if (row) pick(+row.dataset.i, false); });
window.addEventListener('resize', () => { redraw(); rows(); });

const stage = $('lanes'); let drag = null;
stage.addEventListener('wheel', e => { e.preventDefault(); const box = stage.getBoundingClientRect(); if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) { const d = (e.deltaX || e.deltaY) / box.width * (view.to - view.from); show(view.from + d, view.to + d); } else zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY / 250))), timeAt(e.clientX - box.left, box.width)); }, { passive: false });
stage.addEventListener('pointerdown', e => { drag = { x: e.clientX, from: view.from, to: view.to, moved: false }; stage.setPointerCapture(e.pointerId); });
stage.addEventListener('pointermove', e => {
  const box = stage.getBoundingClientRect();
  if (drag) { const d = (drag.x - e.clientX) / (box.width - GUTTER) * (drag.to - drag.from); if (Math.abs(drag.x - e.clientX) > 3) drag.moved = true; if (drag.moved) { stage.classList.add('drag'); show(drag.from + d, drag.to + d); } }
  hover = nearest(e); const tip = $('tip'), about = hover >= 0 ? [`${secs(ev.at[hover])} s  ${lanes[ev.lane[hover]].name}  ${KINDS[ev.kind[hover]][0]}`, ev.text[hover]] : bandsAt(e);
  tip.hidden = !about.length || !!(drag && drag.moved); tip.textContent = about.join('\n'); tip.style.whiteSpace = 'pre-wrap';
  const left = e.clientX - box.left; tip.style.left = (left > box.width / 2 ? Math.max(0, left - tip.offsetWidth - 14) : left + 14) + 'px'; tip.style.top = e.clientY - box.top + 14 + 'px';
});
stage.addEventListener('pointerup', e => { if (drag && !drag.moved) { const i = nearest(e); if (i >= 0) pick(i); } drag = null; stage.classList.remove('drag'); });
stage.addEventListener('pointerleave', () => { $('tip').hidden = true; });
stage.addEventListener('dblclick', e => { const box = stage.getBoundingClientRect(); zoom(.25, timeAt(e.clientX - box.left, box.width)); });
$('overview').addEventListener('pointerdown', e => { const move = e => { const box = $('overview').getBoundingClientRect(), t = (e.clientX - box.left - GUTTER) / (box.width - GUTTER) * run.end, span = view.to - view.from; show(t - span / 2, t + span / 2); }; move(e); const up = () => { removeEventListener('pointermove', move); removeEventListener('pointerup', up); }; addEventListener('pointermove', move); addEventListener('pointerup', up); });
document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typingIn = /INPUT|SELECT|TEXTAREA/.test(e.target.tagName) && e.target.type !== 'checkbox';
  if (e.key === 'Escape') { e.target.blur?.(); clear(); return; }
  if (typingIn) return;
  const span = view.to - view.from, inList = document.activeElement === $('list'), far = e.shiftKey ? 1 : .15;
  const keys = {
    ArrowLeft: () => show(view.from - span * far, view.to - span * far), ArrowRight: () => show(view.from + span * far, view.to + span * far),
    ArrowUp: () => inList ? step(-1) : stepLane(-1), ArrowDown: () => inList ? step(1) : stepLane(1),
    PageUp: () => inList ? step(-20) : null, PageDown: () => inList ? step(20) : null,
    '+': () => zoom(.5, picked >= 0 ? ev.at[picked] : undefined), '=': () => zoom(.5, picked >= 0 ? ev.at[picked] : undefined), '-': () => zoom(2, picked >= 0 ? ev.at[picked] : undefined), 0: () => show(0, run.end),
    n: () => step(1), p: () => step(-1), v: toViolation, f: fitWay, '/': () => $('search').focus(), '?': () => $('help-button').click(),
    m: () => { only = only >= 0 || picked < 0 || ev.message[picked] == null ? -1 : ev.message[picked]; filter(); },
  };
  const act = keys[e.key];
  if (act && !(e.target.tagName === 'BUTTON' && e.key === ' ')) { e.preventDefault(); act(); }
});
theme(matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', e => theme(e.matches ? 'dark' : 'light'));
filter();
