'use strict';
// Draws the flame graph from the data in the page, and makes tables sort, filter and unfold. What
// others have written gets into the page as text only: `element` is the one way in.
(() => {
const data = JSON.parse(document.getElementById('data').textContent);
const byId = id => document.getElementById(id);
if (!byId('flame')) return;

const ROW = 21, DEEPEST = 60, LEAST = 2, FIRST = 20, MORE = 200;
const CAUSES = data.causes;
const COLOURS = ['refcount', 'gc', 'allocator', 'object', 'data', 'kernel', 'remote', 'unknown'];
const colour = cause => `var(--${COLOURS.includes(CAUSES[cause]) ? CAUSES[cause] : 'other'})`;
const colourClass = cause => 'c-' + (COLOURS.includes(CAUSES[cause]) ? CAUSES[cause] : 'other');
const text = index => data.strings[index];

// Words, as the rest of the report has them.
const count = n => n.toLocaleString('en-US');
function pages(n) {
  if (!data.unit) return count(n) + (n === 1 ? ' page' : ' pages');
  let size = n * data.unit, at = 0;
  while (size >= 1024 && at < 5) { size /= 1024; at++; }
  return at ? `${size.toFixed(1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][at]}` : `${size} B`;
}
function percent(part, whole) {
  const value = whole ? part / whole * 100 : 0;
  return part > 0 && value < 0.05 ? '<0.1%' : value.toFixed(1) + '%';
}
function duration(ns) {
  for (const [unit, name] of [[1, 'ns'], [1e3, 'µs'], [1e6, 'ms'], [1e9, 's']]) {
    const value = ns / unit;
    if (value < (unit === 1e9 ? 59.95 : 999.5)) {
      return `${unit === 1 ? value : value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0)} ${name}`;
    }
  }
  const s = Math.round(ns / 1e9), two = n => String(n).padStart(2, '0');
  return s >= 3600 ? `${Math.floor(s / 3600)}h ${two(Math.floor(s / 60) % 60)}m` : `${Math.floor(s / 60)}m ${two(s % 60)}s`;
}

function element(name, attributes, ...children) {
  const svg = ['svg', 'path', 'line', 'title'].includes(name);
  const it = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) it.setAttribute(key, value === true ? '' : value);
  }
  it.append(...children);
  return it;
}
const key = cause => element('i', {class: 'key ' + colourClass(cause)});

// Frames and stacks.
const frames = [];
const merged = new Map();
for (let at = 0; at < data.frames.length; at += 4) {
  const [name, file, line, interpreted] = data.frames.slice(at, at + 4);
  const same = name + '|' + file;
  if (!merged.has(same)) merged.set(same, merged.size);
  frames.push({name: text(name), file: text(file), line, interpreted: !!interpreted, same: merged.get(same)});
}
const where = frame => frame.file + (frame.line ? ':' + frame.line : '');
const short = frame => where(frame).replace(/^.*\//, '');
const stacks = [];
for (let at = 0, last = []; at < data.stacks.length;) {
  const common = data.stacks[at], end = at + 2 + data.stacks[at + 1];
  last = last.slice(0, common).concat(data.stacks.slice(at + 2, end));
  const parts = [];
  at = end + 1;
  for (let left = data.stacks[end]; left > 0; left--, at += 2) {
    const kind = data.stacks[at], n = data.stacks[at + 1];
    parts.push({role: Math.floor(kind / CAUSES.length), cause: kind % CAUSES.length, n});
  }
  stacks.push({frames: last, parts});
}
// Roles are the callers of all, where they are told apart.
const ofRole = data.roles.map((name, role) => frames.push({name: text(name), file: '', line: 0, interpreted: true, same: -1 - role}) - 1);
const isMixed = stack => stack.frames.some(it => frames[it].interpreted);

// The tree, once for each way to look at it.
const trees = new Map();
const node = (frame, up) => ({frame, up, pages: 0, causes: new Array(CAUSES.length).fill(0), below: new Map(), sorted: null});
function tree(native, leafFirst, byRole) {
  const name = `${native} ${leafFirst} ${byRole}`;
  if (trees.has(name)) return trees.get(name);
  const root = node(-1, null);
  for (const stack of stacks) {
    let path = stack.frames;
    if (!native && isMixed(stack)) path = path.filter(it => frames[it].interpreted);
    if (leafFirst) path = path.slice().reverse();
    const roles = byRole ? new Set(stack.parts.map(it => it.role)) : [null];
    for (const role of roles) {
      const parts = role === null ? stack.parts : stack.parts.filter(it => it.role === role);
      let at = root;
      const add = () => { for (const {cause, n} of parts) { at.pages += n; at.causes[cause] += n; } };
      add();
      for (const frame of role === null ? path : [ofRole[role], ...path]) {
        const same = frames[frame].same;
        let next = at.below.get(same);
        if (!next) at.below.set(same, next = node(frame, at));
        at = next;
        add();
      }
    }
  }
  trees.set(name, root);
  return root;
}
const below = it => it.sorted || (it.sorted = [...it.below.values()].sort((a, b) => b.pages - a.pages));
const nameOf = it => it.frame >= 0 ? frames[it.frame].name : it.more ? `${count(it.more)} more` : 'all';

// What is looked at.
const state = {search: '', role: false, native: false, leaf: false, root: null, zoom: null, current: null};
let matches = new Uint8Array(frames.length);
const flame = byId('flame'), tip = element('div', {id: 'tip', role: 'tooltip', hidden: true});
document.body.append(tip);
// Of the whole, the cause with the most first: so the parts of boxes above each other line up.
const order = CAUSES.map((_, cause) => cause).sort((a, b) => tree(false, false, false).causes[b] - tree(false, false, false).causes[a]);
const inWords = it => order.filter(cause => it.causes[cause]).map(cause => `${CAUSES[cause]} ${percent(it.causes[cause], it.pages)}`).join(', ');

function fill(it, isFaint) {
  const stops = [];
  let at = 0;
  for (const cause of order) {
    if (!it.causes[cause]) continue;
    const end = at + it.causes[cause] / it.pages * 100;
    stops.push(`${colour(cause)} ${at.toFixed(2)}% ${end.toFixed(2)}%`);
    at = end;
  }
  const layers = [`linear-gradient(90deg, ${stops.join(', ')})`];
  if (it.frame >= 0 && !frames[it.frame].interpreted && hasInterpreted) layers.unshift('linear-gradient(var(--veil), var(--veil))');
  if (isFaint) layers.unshift('linear-gradient(var(--faint), var(--faint))');
  if (matchMedia('(prefers-contrast: more)').matches) {
    // Where colours are not enough, the cause with the most has a hatching of its own.
    const most = it.causes.indexOf(Math.max(...it.causes));
    if (most !== order[0]) layers.unshift(`repeating-linear-gradient(${most * 40}deg, rgba(0,0,0,.35) 0 1px, transparent 1px ${5 + most}px)`);
  }
  return layers.join(', ');
}
const hasInterpreted = frames.some(it => it.interpreted && it.same >= 0);

// Draws what is zoomed into, and the callers that lead there as grey rows above it.
let rows = [];
function draw() {
  const width = flame.clientWidth || 1000, boxes = document.createDocumentFragment();
  let deeper = false;
  rows = [];
  const place = (it, from, part, depth, kind) => {
    const box = element('button', {type: 'button', class: 'box' + kind, tabindex: -1,
      'aria-label': `${nameOf(it)}, ${pages(it.pages)}, ${percent(it.pages, state.root.pages)}, ${inWords(it)}`});
    const px = part * width;
    if (px > 24) box.textContent = nameOf(it); else box.classList.add('thin');
    if (!kind.includes('above') && !kind.includes('rest')) {
      const isFaint = state.search && !(it.frame >= 0 && matches[it.frame]);
      box.style.background = fill(it, isFaint);
      if (it.frame >= 0 && !frames[it.frame].interpreted && hasInterpreted) box.classList.add('native');
      if (state.search) box.classList.add(isFaint ? 'faint' : 'hit');
    }
    box.style.left = from * 100 + '%';
    box.style.width = part * 100 + '%';
    box.style.top = depth * ROW + 'px';
    box.shows = it;
    (rows[depth] = rows[depth] || []).push(box);
    boxes.append(box);
  };
  const walk = (it, from, part, depth, kind) => {
    place(it, from, part, depth, kind);
    const inside = it.more ? it.list : below(it);
    if (!inside.length) return;
    if (depth + 1 >= DEEPEST) { deeper = true; return; }
    const small = [];
    let at = from;
    for (const next of inside) {
      const its = next.pages / it.pages * part;
      if (its * width < LEAST) { small.push(next); continue; }
      walk(next, at, its, depth + 1, '');
      at += its;
    }
    if (small.length && small.length < inside.length || it !== state.zoom && small.length) {
      const rest = sum(small, it);
      const its = rest.pages / it.pages * part;
      if (its * width >= LEAST) place(rest, at, its, depth + 1, ' rest');
    }
  };
  let callers = [];
  for (let it = state.zoom.up; it; it = it.up) callers.unshift(it);
  if (callers.length > 12) callers = [callers[0], ...callers.slice(-11)];
  callers.forEach((it, depth) => place(it, 0, 1, depth, ' above'));
  walk(state.zoom, 0, 1, callers.length, state.zoom.more ? ' rest' : '');
  flame.textContent = '';
  flame.append(boxes);
  flame.style.height = rows.length * ROW + 'px';
  const all = rows.flat();
  const current = all.find(box => box.shows === state.current) || all.find(box => box.shows === state.zoom);
  current.tabIndex = 0;
  state.current = current.shows;
  byId('back').disabled = !state.zoom.up;
  const it = state.zoom;
  byId('zoomed').textContent = `${pages(it.pages)}, ${percent(it.pages, state.root.pages)} of all` +
    (it.up ? `: ${nameOf(it)}${it.frame >= 0 ? ' ' + short(frames[it.frame]) : ''}` : '');
  const notes = [];
  if (deeper) notes.push(`Stacks go on below row ${DEEPEST}: click a box to see further.`);
  if (data.folded) notes.push(`The ${count(data.folded[0])} stacks that copied least, together ${percent(data.folded[1], data.pages)}, are added up as [other].`);
  if (hasInterpreted && !state.native) notes.push('Native frames are left out of stacks that have others.');
  byId('notes').textContent = notes.join(' ');
}
function sum(list, up) {
  const rest = node(-1, up);
  rest.more = list.length;
  rest.list = list;
  for (const it of list) {
    rest.pages += it.pages;
    it.causes.forEach((n, cause) => rest.causes[cause] += n);
  }
  return rest;
}

function zoomTo(it, focus) {
  state.zoom = it;
  state.current = it;
  tip.hidden = true;
  draw();
  if (focus) flame.querySelector('[tabindex="0"]').focus();
  remember();
}
flame.addEventListener('click', event => {
  const box = event.target.closest('.box');
  if (box) zoomTo(box.shows, true);
});
const back = focus => { if (state.zoom.up) zoomTo(state.zoom.up, focus); };
byId('back').addEventListener('click', () => back(false));

function walkTo(box) {
  if (!box) return;
  const last = flame.querySelector('[tabindex="0"]');
  if (last) last.tabIndex = -1;
  box.tabIndex = 0;
  state.current = box.shows;
  box.focus();
}
flame.addEventListener('keydown', event => {
  const box = event.target.closest('.box');
  if (!box) return;
  const depth = rows.findIndex(row => row.includes(box)), row = rows[depth], at = row.indexOf(box);
  const steps = {
    ArrowLeft: () => row[at - 1], ArrowRight: () => row[at + 1], Home: () => row[0], End: () => row[row.length - 1],
    ArrowUp: () => (rows[depth - 1] || []).find(it => it.shows === box.shows.up) || (rows[depth - 1] || [])[0],
    ArrowDown: () => (rows[depth + 1] || []).find(it => it.shows.up === box.shows) || (box.classList.contains('above') && rows[depth + 1][0]),
  };
  if (!steps[event.key]) return;
  event.preventDefault();
  walkTo(steps[event.key]());
});
addEventListener('keydown', event => {
  const isTyping = event.target.matches('input[type=search], textarea');
  if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId('search').focus();
  } else if (event.key === 'Escape') {
    if (!tip.hidden) tip.hidden = true;
    if (isTyping && state.search) { event.target.value = ''; setSearch(''); }
    else back(flame.contains(document.activeElement));
  }
});

function showTip(box, x, y) {
  const it = box.shows, frame = it.frame >= 0 && frames[it.frame];
  tip.textContent = '';
  tip.append(element('b', {}, nameOf(it)));
  if (frame && frame.file) tip.append(element('span', {class: 'dim'}, where(frame)));
  tip.append(element('span', {}, `${pages(it.pages)}, ${count(it.pages)} pages, ${percent(it.pages, state.root.pages)} of all`));
  for (const cause of order) {
    if (it.causes[cause]) tip.append(element('span', {}, key(cause), `${CAUSES[cause]} ${percent(it.causes[cause], it.pages)}`));
  }
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 6)) + 'px';
  tip.style.top = (y + 20 + tip.offsetHeight > innerHeight ? Math.max(4, y - tip.offsetHeight - 10) : y + 18) + 'px';
}
flame.addEventListener('pointermove', event => {
  const box = event.pointerType !== 'touch' && event.target.closest('.box');
  if (box) showTip(box, event.clientX, event.clientY); else tip.hidden = true;
});
flame.addEventListener('pointerleave', () => { tip.hidden = true; });
flame.addEventListener('focusin', event => {
  if (!event.target.matches(':focus-visible')) return;
  const at = event.target.getBoundingClientRect();
  showTip(event.target, at.left, at.bottom - 12);
});
flame.addEventListener('focusout', () => { tip.hidden = true; });

// Search: outlines boxes, filters tables, and says how much it is.
function setSearch(words) {
  state.search = words.trim().toLowerCase();
  const found = frame => `${frame.name}\n${frame.file}`.toLowerCase().includes(state.search);
  matches = Uint8Array.from(frames, frame => state.search && found(frame) ? 1 : 0);
  draw();
  siteTable.limit = FIRST;
  siteTable.show();
  for (const table of searched) table.show();
  let said = '';
  if (state.search) {
    let n = 0;
    const walk = it => {
      if (it.frame >= 0 && matches[it.frame]) n += it.pages;
      else for (const next of it.below.values()) walk(next);
    };
    walk(state.root);
    said = `${percent(n, state.root.pages)} in matching frames, ${count(siteTable.rows.length)} call site${siteTable.rows.length === 1 ? '' : 's'}`;
  }
  byId('found').textContent = said;
  remember();
}
let waiting = 0;
byId('search').addEventListener('input', event => {
  clearTimeout(waiting);
  waiting = setTimeout(() => setSearch(event.target.value), 60);
});
for (const name of ['role', 'native', 'leaf']) {
  byId(name).addEventListener('change', event => {
    state[name] = event.target.checked;
    look();
    remember();
  });
}
function look() {
  state.root = state.zoom = state.current = tree(state.native, state.leaf, state.role);
  draw();
  if (byId('tree-details').open) grow();
}

// The address keeps what is looked at, so that it can be sent to somebody.
function remember() {
  const path = [];
  let it = state.zoom.more ? state.zoom.up : state.zoom;
  for (; it.up; it = it.up) path.unshift(below(it.up.more ? it.up.up : it.up).indexOf(it));
  const parts = [];
  if (state.search) parts.push('q=' + encodeURIComponent(state.search));
  if (state.role) parts.push('role');
  if (state.native) parts.push('native');
  if (state.leaf) parts.push('leaf');
  if (path.length) parts.push('z=' + path.join('.'));
  try { history.replaceState(null, '', parts.length ? '#~' + parts.join('&') : location.pathname + location.search); } catch { /* Not of every file. */ }
}
function recall() {
  if (!location.hash.startsWith('#~')) return;
  const parts = new URLSearchParams(location.hash.slice(2).replace(/\b(role|native|leaf)(?=&|$)/g, '$1=1'));
  state.role = byId('role').checked = !!ofRole.length && parts.has('role');
  state.native = byId('native').checked = parts.has('native');
  state.leaf = byId('leaf').checked = parts.has('leaf');
  look();
  let it = state.root;
  for (const at of (parts.get('z') || '').split('.').filter(Boolean)) it = below(it)[+at] || it;
  state.zoom = state.current = it;
  byId('search').value = parts.get('q') || '';
  setSearch(byId('search').value);
}
addEventListener('hashchange', recall);

// The same as a table that unfolds.
function grow() {
  const body = byId('tree').tBodies[0];
  body.textContent = '';
  body.append(treeRow(state.root, 1, 1, 1));
  body.rows[0].tabIndex = 0;
  unfold(body.rows[0]);
}
function treeRow(it, level, at, all) {
  const name = element('td', {role: 'gridcell'}, element('span', {class: 'arrow', 'aria-hidden': 'true'}, it.below.size ? '▸' : ''), element('code', {}, nameOf(it)));
  if (it.frame >= 0) name.append(' ', element('span', {class: 'dim'}, short(frames[it.frame])));
  name.style.paddingLeft = Math.min(level, 40) * 12 - 10 + 'px';
  const row = element('tr', {role: 'row', 'aria-level': level, 'aria-posinset': at, 'aria-setsize': all, tabindex: -1,
    'aria-expanded': it.below.size ? 'false' : undefined}, name,
    element('td', {role: 'gridcell', class: 'n'}, pages(it.pages)),
    element('td', {role: 'gridcell', class: 'n'}, percent(it.pages, state.root.pages)),
    element('td', {role: 'gridcell'}, inWords(it)));
  row.shows = it;
  row.level = level;
  return row;
}
function unfold(row) {
  if (row.getAttribute('aria-expanded') !== 'false') return;
  row.setAttribute('aria-expanded', 'true');
  row.querySelector('.arrow').textContent = '▾';
  const inside = below(row.shows);
  row.after(...inside.slice(0, 100).map((it, at) => treeRow(it, row.level + 1, at + 1, inside.length)));
}
function shut(row) {
  if (row.getAttribute('aria-expanded') !== 'true') return;
  row.setAttribute('aria-expanded', 'false');
  row.querySelector('.arrow').textContent = '▸';
  while (row.nextElementSibling && row.nextElementSibling.level > row.level) row.nextElementSibling.remove();
}
byId('tree-details').addEventListener('toggle', () => { if (byId('tree-details').open) grow(); });
byId('tree').addEventListener('click', event => {
  const row = event.target.closest('tbody tr');
  if (!row) return;
  if (row.getAttribute('aria-expanded') === 'true') shut(row); else unfold(row);
  toRow(row);
});
function toRow(row) {
  if (!row) return;
  for (const other of byId('tree').querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  row.tabIndex = 0;
  row.focus();
}
byId('tree').addEventListener('keydown', event => {
  const row = event.target.closest('tbody tr');
  if (!row) return;
  const isOpen = row.getAttribute('aria-expanded') === 'true';
  const outer = () => { let it = row; while (it && it.level >= row.level) it = it.previousElementSibling; return it; };
  const act = {
    ArrowDown: () => toRow(row.nextElementSibling), ArrowUp: () => toRow(row.previousElementSibling),
    ArrowRight: () => isOpen ? toRow(row.nextElementSibling) : unfold(row),
    ArrowLeft: () => isOpen ? shut(row) : toRow(outer()),
    Enter: () => isOpen ? shut(row) : unfold(row),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// Tables. A heading becomes a button; numbers begin with the largest.
function sortable(table, sort) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = element('button', {type: 'button'}, ...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const first = head.classList.contains('n') ? 'descending' : 'ascending';
      const other = first === 'descending' ? 'ascending' : 'descending';
      const way = head.getAttribute('aria-sort') === first ? other : first;
      for (const it of heads) it.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', way);
      sort(at, way === 'ascending' ? 1 : -1);
    });
  });
}
const compare = (a, b) => typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en');
function showButton(table) {
  const button = element('button', {type: 'button', class: 'show', hidden: true});
  table.closest('.scroll').after(button);
  return button;
}

// The rows that are in the page already.
const searched = [];
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], rows = [...body.rows], button = showButton(table);
  const value = (row, at) => {
    const cell = row.cells[at], raw = cell.dataset.v ?? cell.textContent;
    return raw !== '' && !isNaN(raw) ? +raw : raw.trim().endsWith('%') || /^[\d,]+$/.test(raw) ? parseFloat(raw.replace(/[<,]/g, '')) : raw;
  };
  const it = {limit: FIRST, show() {
    const words = table.closest('#types') ? state.search : '';
    const found = words ? rows.filter(row => row.textContent.toLowerCase().includes(words)) : rows;
    body.replaceChildren(...found.slice(0, it.limit));
    button.hidden = found.length <= it.limit;
    button.textContent = `Show all ${count(found.length)}`;
  }};
  button.addEventListener('click', () => { it.limit = Infinity; it.show(); });
  sortable(table, (at, way) => { rows.sort((a, b) => way * compare(value(a, at), value(b, at))); it.show(); });
  if (table.closest('#types')) searched.push(it);
  it.show();
}

// Call sites: rows of the data, since there may be more than the page has.
const siteTable = {limit: FIRST, rows: data.sites.slice(), compare: null, made: new Map()};
siteTable.body = byId('site-table').tBodies[0];
siteTable.button = showButton(byId('site-table'));
siteTable.text = site => site.text ||= [text(site.f), text(site.w ?? site.s), CAUSES[site.c], text(site.m),
  ...(site.d ? site.d.types.map(it => text(it[0])) : [])].join('\n').toLowerCase();
siteTable.show = () => {
  siteTable.rows = data.sites.filter(site => !state.search || siteTable.text(site).includes(state.search));
  if (siteTable.compare) siteTable.rows.sort(siteTable.compare);
  siteTable.body.replaceChildren(...siteTable.rows.slice(0, siteTable.limit).flatMap(made));
  const left = siteTable.rows.length - siteTable.limit;
  siteTable.button.hidden = left <= 0;
  siteTable.button.textContent = `Show ${count(Math.min(left, MORE))} more of ${count(siteTable.rows.length)}`;
  const more = data.more_sites;
  byId('sites-shown').firstElementChild.textContent = `${count(siteTable.rows.length)}${state.search ? ` of ${count(data.sites.length)}` : ''}` +
    (more ? `; ${count(more[0])} that copied less, together ${percent(more[1], data.pages)}, are not in this page` : '');
};
siteTable.button.addEventListener('click', () => { siteTable.limit += MORE; siteTable.show(); });
sortable(byId('site-table'), (at, way) => {
  const figure = [s => text(s.f), s => s.b, s => s.p, s => CAUSES[s.c], s => text(s.m), s => s.l ? s.l[0] : -1,
    s => s.l ? s.l[1] : -1, s => s.a ? s.a[0] : -1, s => s.n][at];
  siteTable.compare = (a, b) => way * compare(figure(a), figure(b));
  siteTable.show();
});
function made(site) {
  if (siteTable.made.has(site)) return siteTable.made.get(site);
  const name = element(site.d ? 'button' : 'span', site.d ? {type: 'button', class: 'open', 'aria-expanded': 'false'} : {}, element('code', {}, text(site.f)));
  const n = (value, more) => element('td', {class: more ? 'n more' : 'n'}, value);
  const row = element('tr', {},
    element('th', {scope: 'row'}, name, ' ', element('span', {class: 'dim', title: text(site.w ?? site.s)}, text(site.s))),
    n(bytes(site)), n(percent(site.p, data.pages)),
    element('td', {class: 'cause'}, key(site.c), CAUSES[site.c]), element('td', {}, element('code', {}, text(site.m))),
    n(site.l ? duration(site.l[0]) : '-', true), n(site.l ? duration(site.l[1]) : '-', true),
    n(site.a ? duration(site.a[0] * 1e6) : '-', true), n(count(site.n), true));
  const both = [row];
  siteTable.made.set(site, both);
  if (site.d) {
    name.addEventListener('click', () => {
      const open = name.getAttribute('aria-expanded') !== 'true';
      name.setAttribute('aria-expanded', open);
      if (!both[1]) both.push(element('tr', {class: 'details'}, element('td', {colspan: 9}, unfolded(site))));
      both[1].hidden = !open;
      if (open) row.after(both[1]);
    });
  }
  return both;
}
function bytes(site) {
  let size = site.b, at = 0;
  while (size >= 1024 && at < 5) { size /= 1024; at++; }
  return at ? `${size.toFixed(1)} ${['', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][at]}` : `${size} B`;
}
function unfolded(site) {
  const columns = element('div', {class: 'columns'});
  const part = (title, ...inside) => columns.append(element('div', {}, element('h3', {}, title), ...inside));
  const list = (rows, rest) => element('ul', {}, ...rows.map(([name, n]) =>
    element('li', {}, element('span', {}, name), element('span', {class: 'dim'}, percent(n, site.p)))), ...(rest > 0 ? [element('li', {class: 'dim'}, `${count(rest)} more`)] : []));
  part('Written to', list(site.d.types.map(([name, n]) => [element('code', {}, text(name)), n]), 0));
  part('Known of it', element('ul', {class: 'known'}, ...site.d.facts.map(fact => element('li', {}, text(fact)))));
  if (site.d.latency) part('Time of a fault that copied', ...curve(site.d.latency, site.l, 1));
  if (site.d.age) part('Age of the process when it copied', ...curve(site.d.age, site.a, 1e6));
  part('Processes', list(site.d.pids.map(([pid, n]) => [`${pid || ''} ${text(data.processes[pid]) || ''}`.trim(), n]), site.n - site.d.pids.length));
  const all = element('div', {}, columns);
  site.d.stacks.forEach(([index, n, why], at) => {
    const path = stacks[index].frames.slice().reverse(), shown = isMixed(stacks[index]) && !state.native ? path.filter((it, at) => frames[it].interpreted || at < 2) : path;
    const lines = shown.slice(0, 40).map(it => element('li', {class: frames[it].interpreted || !hasInterpreted ? '' : 'native'},
      element('code', {}, frames[it].name), ' ', element('span', {class: 'dim'}, short(frames[it]))));
    if (shown.length > 40) lines.push(element('li', {class: 'dim'}, `${count(shown.length - 40)} more`));
    if (shown.length < path.length) lines.push(element('li', {class: 'dim'}, `${count(path.length - shown.length)} native frames between are left out`));
    if (why !== null) lines.push(element('li', {class: 'dim'}, text(why)));
    const rest = at === site.d.stacks.length - 1 && site.d.more_stacks ? element('p', {class: 'dim'}, `${count(site.d.more_stacks)} more stacks`) : '';
    all.append(element('div', {class: 'stacks'}, element('h3', {}, `Stack with ${percent(n, site.p)}, what was called last first`), element('ol', {}, ...lines), rest));
  });
  return all;
}
function curve(it, [p50, p99, max], unit) {
  const span = Math.log(it.to / it.from) || 1, x = value => Math.min(120, Math.max(0, Math.log(Math.max(value, it.from) / it.from) / span * 120));
  const step = 120 / it.bins.length;
  const path = it.bins.map((height, at) => height ? `M${(at * step).toFixed(1)} 28V${(28 - height * .26).toFixed(1)}H${((at + 1) * step).toFixed(1)}V28Z` : '').join('');
  const said = `p50 ${duration(p50 * unit)}, p99 ${duration(p99 * unit)}, max ${duration(max * unit)}`;
  const tick = value => element('line', {x1: x(value), x2: x(value), y1: 0, y2: 28});
  return [element('svg', {class: 'small', viewBox: '0 0 120 28', preserveAspectRatio: 'none', role: 'img', 'aria-label': said},
    element('path', {d: path}), tick(p50), tick(p99)), element('p', {class: 'dim'}, `${said} (from ${duration(it.from * unit)}, logarithmic)`)];
}

for (const it of document.querySelectorAll('.js')) it.hidden = false;
byId('role-label').hidden = !ofRole.length;
byId('native-label').hidden = !hasInterpreted || frames.every(it => it.interpreted);
look();
siteTable.show();
recall();
let drawn = flame.clientWidth;
addEventListener('resize', () => { if (flame.clientWidth !== drawn) { drawn = flame.clientWidth; draw(); } });
// On paper there is the whole graph, without native frames.
let before = null;
addEventListener('beforeprint', () => {
  before = {...state};
  Object.assign(state, {role: false, native: false, search: ''});
  state.root = state.zoom = tree(false, state.leaf, false);
  draw();
});
addEventListener('afterprint', () => { if (before) { Object.assign(state, before); before = null; draw(); } });
})();
